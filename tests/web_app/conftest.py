"""A tiny model that knows something of its limits, and drawn material to ask it about."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_spider import PATCH_SIZE

from spider_tools.web_app.model import AppModel
from spider_tools.web_app.settings import AppSettings

SIDE = 5 * PATCH_SIZE


@pytest.fixture(scope="module")
def knowing_folder(make_model, processor, tmp_path_factory):
    """A model that knows what is familiar and what is plausible, of a kind."""
    folder = tmp_path_factory.mktemp("knowing") / "tiny & <knowing>"
    model = make_model()
    model.remember(familiarity_means=2, conformal_scores=9)
    generator = torch.Generator().manual_seed(0)
    for tensor in model.familiarity.buffers():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    model.class_sets.scores.copy_(torch.rand(4, 9, generator=generator).sort().values)
    model.class_sets.p_values.copy_(torch.linspace(1, 0.05, 10).expand(4, -1))
    model.config.unfamiliarity_threshold = 1e-3  # nothing is familiar to it
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def app_model(knowing_folder):
    """The same, loaded as the page does."""
    return AppModel.load(AppSettings(str(knowing_folder)))


@pytest.fixture(scope="session")
def region_pixels():
    """A region of the tiny model, uint8 `(140, 140, 3)`."""
    return np.random.default_rng(5).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture
def region_file(tmp_path, region_pixels):
    """It as a PNG file."""
    path = tmp_path / "region.png"
    Image.fromarray(region_pixels).save(path)
    return path


@pytest.fixture(scope="session")
def bomb():
    """A small PNG that claims more px than anybody should decode, as bytes."""
    content = io.BytesIO()
    Image.new("L", (8, 8)).save(content, "png")
    head = b"IHDR" + struct.pack(">II", 20_000, 20_000) + content.getvalue()[24:29]
    return content.getvalue()[:12] + head + struct.pack(">I", zlib.crc32(head)) + content.getvalue()[33:]

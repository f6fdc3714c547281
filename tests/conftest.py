"""A tiny SPIDER model that every test can afford, offline and away from the user's caches.

The classes come from `spider_tools.remote_code`, as a user's `from_pretrained(..., trust_remote_code=True)` gets them.
"""

import atexit
import io
import logging
import os
import shutil
import tempfile

import pytest
import torch
from PIL import Image
from tiny_spider import BACKBONE, CLASS_NAMES, HIDDEN, PATCH_SIZE, ROOT

# Transformers reads these when it is imported, so they are set before any test module is.
_CACHE = tempfile.mkdtemp(prefix="spider-tests-")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
os.environ.update(
    HF_HOME=_CACHE,
    HF_MODULES_CACHE=os.path.join(_CACHE, "modules"),
    HF_DATASETS_CACHE=os.path.join(_CACHE, "datasets"),
    HF_HUB_CACHE=os.path.join(_CACHE, "hub"),
    HF_HUB_OFFLINE="1",
)


def _tiny_config(**changes):
    from spider_tools import remote_code

    fields = {
        "backbone_config": dict(BACKBONE),
        "class_names": list(CLASS_NAMES),
        "patch_size": PATCH_SIZE,
        "head_hidden_size": 24,
        "head_num_hidden_layers": 2,
        "head_num_attention_heads": 3,
        "head_intermediate_size": 40,
        "backbone_batch_size": 7,
    }
    return remote_code.config_class()(**{**fields, **changes})


def _tiny_model(seed=0, **changes):
    from spider_tools import remote_code

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = remote_code.model_class()(_tiny_config(**changes)).eval()
        # Fresh weights are so small that every input gets nearly the same logits.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(scope="session")
def make_config():
    """`make_config(**fields)`: a tiny SpiderConfig with some fields changed."""
    return _tiny_config


@pytest.fixture(scope="session")
def make_model():
    """`make_model(seed=0, **config fields)`: a tiny model in evaluation mode whose logits depend on its input."""
    return _tiny_model


@pytest.fixture
def model(make_model):
    """A tiny model of one's own, to be changed at will."""
    return make_model()


@pytest.fixture(scope="session")
def make_processor():
    """`make_processor(**image processor fields)`: a SpiderProcessor for the tiny model's regions of 140 px."""
    from spider_tools import remote_code

    def make(**fields):
        return remote_code.processor_class()(
            remote_code.image_processor_class()(**{"patch_size": PATCH_SIZE, **fields})
        )

    return make


@pytest.fixture(scope="session")
def processor(make_processor):
    """The tiny model's SpiderProcessor."""
    return make_processor()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, make_model, processor):
    """A saved repository of the tiny model, `make_model()`; only to be read."""
    folder = tmp_path_factory.mktemp("saved") / "tiny-spider"
    make_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def load_model():
    """`load_model(folder, **options)`: what `AutoModel.from_pretrained` gives."""
    from transformers import AutoModel

    def load(folder, **options):
        return AutoModel.from_pretrained(folder, trust_remote_code=True, **options)

    return load


@pytest.fixture(scope="session")
def pixel_values():
    """Three normalised regions, float32 `(3, 25, 3, 28, 28)`, all patches different; only to be read."""
    return torch.randn(3, 25, 3, PATCH_SIZE, PATCH_SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def patch_embeddings():
    """Embeddings of three regions, float32 `(3, 25, 32)`; only to be read."""
    return torch.randn(3, 25, HIDDEN, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="session")
def shared_folder():
    """`shared_folder(name)`: a folder of real data beside the checkout, or a skip that names it."""

    def find(name):
        folder = ROOT.parent / "shared" / name
        if not folder.is_dir():
            pytest.skip(f"no real data: ../shared/{name} is absent")
        return folder

    return find


@pytest.fixture
def plain_pictures(monkeypatch):
    """Slides whose pictures are one grey square, which takes none of the second that drawing them takes."""
    from spider_tools.slides import outputs, pictures

    content = io.BytesIO()
    Image.new("RGB", (300, 200), (90, 90, 90)).save(content, "png")
    for name in ("draw_overview", "draw_heatmaps", "draw_tissue"):
        monkeypatch.setattr(pictures, name, lambda *_: None)
    monkeypatch.setattr(outputs, "as_png", lambda _: content.getvalue())


@pytest.fixture
def fresh_accelerator():
    """accelerate keeps its state for the whole process: a test that trains or evaluates starts without one."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def log(caplog):
    """What Transformers logs, with what it says only once per process."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.warning_once.cache_clear()
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that at the end no worker is left alone with one."""
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow_files)

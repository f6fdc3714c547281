"""Loading fills a model from its file and draws no random weights that the file would then overwrite.

What tells is torch's generator: whoever draws a weight moves it on. Transformers 4 does so for the backbone's class
token and positions, which its stock class draws where it is built, under a thousandth of Hibou-L: there the generator
must stand exactly where those leave it.
"""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_spider import BACKBONE, HIDDEN
from transformers import AutoConfig, AutoModel, Dinov2WithRegistersModel

from spider_tools.weights.loading import load_backbone, load_spider

TOKENS = (BACKBONE["image_size"] // BACKBONE["patch_size"]) ** 2
TRANSFORMERS_4 = transformers.__version__.startswith("4.")
DRAWN_BY_FROM_PRETRAINED = [(1, 1, HIDDEN), (1, 1 + TOKENS, HIDDEN)] if TRANSFORMERS_4 else []


@pytest.fixture
def state_after():
    """`state_after(work)`: what `work()` returns and the generator's state then, from the same state each time."""

    def run(work):
        with torch.random.fork_rng():
            torch.manual_seed(20)
            result = work()
            return result, torch.get_rng_state()

    return run


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory, make_model):
    """The tiny model's backbone as Transformers saves it."""
    folder = tmp_path_factory.mktemp("saved") / "backbone"
    make_model().backbone.save_pretrained(folder)
    return folder


def state_after_drawing(state_after, shapes):
    return state_after(lambda: [torch.randn(shape) for shape in shapes])[1]


def assert_same_weights(loaded, saved):
    loaded, saved = loaded.state_dict(), saved.state_dict()
    assert loaded.keys() == saved.keys()
    assert len(loaded) > 30
    different = [name for name in saved if not torch.equal(loaded[name], saved[name])]
    assert different == []


def test_from_pretrained_draws_no_weights_and_gives_the_saved_ones(model_folder, load_model, make_model, state_after):
    model, state = state_after(lambda: load_model(model_folder))
    assert torch.equal(state, state_after_drawing(state_after, DRAWN_BY_FROM_PRETRAINED))
    assert_same_weights(model, make_model())


def test_load_spider_draws_no_weights_and_gives_the_saved_ones(model_folder, make_model, state_after):
    model, state = state_after(lambda: load_spider(str(model_folder)))
    assert torch.equal(state, state_after_drawing(state_after, DRAWN_BY_FROM_PRETRAINED))
    assert_same_weights(model, make_model())


def test_load_backbone_draws_no_weights_and_gives_the_saved_ones(backbone_folder, make_model, state_after):
    backbone, state = state_after(lambda: load_backbone(str(backbone_folder)))
    assert torch.equal(state, state_after_drawing(state_after, []))
    assert_same_weights(backbone, make_model().backbone)


def test_a_checkpoint_without_some_weights_draws_those_alone(tmp_path, model_folder, load_model, state_after):
    # That the generator stands still above is no accident of loading: what a file lacks is drawn, and seen here.
    for file in model_folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(model_folder / "model.safetensors")
    lacking = tensors.pop("classifier.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, state = state_after(lambda: load_model(tmp_path))
    assert torch.equal(state, state_after_drawing(state_after, [*DRAWN_BY_FROM_PRETRAINED, tuple(lacking.shape)]))
    assert not torch.equal(model.classifier.weight, lacking)


@pytest.mark.parametrize("build", ["model", "backbone"])
def test_building_from_a_configuration_does_draw(model_folder, state_after, build):
    config = AutoConfig.from_pretrained(model_folder, trust_remote_code=True)
    if build == "model":
        _, state = state_after(lambda: AutoModel.from_config(config, trust_remote_code=True))
    else:
        _, state = state_after(lambda: Dinov2WithRegistersModel(config.backbone_config))
    assert not torch.equal(state, state_after_drawing(state_after, []))
    assert not torch.equal(state, state_after_drawing(state_after, DRAWN_BY_FROM_PRETRAINED))

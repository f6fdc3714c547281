"""What training starts from: the weights that are given, a head as the seed draws it, and nothing drawn in vain."""

from dataclasses import replace

import pytest
import torch
from tiny_spider import BACKBONE
from training_runs import PATCH_SIZE, run_settings
from transformers import Dinov2WithRegistersModel

from spider_tools import remote_code
from spider_tools.training.starting_model import merge_lora, starting_model
from spider_tools.weights.loading import load_backbone

CLASSES = ["one", "two", "three"]


@pytest.fixture(scope="module")
def folder(make_model, tmp_path_factory):
    """A model that knows two of the classes, and in `backbone` its backbone."""
    folder = tmp_path_factory.mktemp("start") / "model"
    model = make_model(class_names=["three", "one"], backbone_config=BACKBONE | {"image_size": PATCH_SIZE})
    model.config.patch_size = PATCH_SIZE
    model.save_pretrained(folder)
    model.backbone.save_pretrained(folder / "backbone")
    return folder


@pytest.fixture
def settings(tmp_path, folder):
    """Settings of a run on the saved backbone."""
    return replace(
        run_settings(tmp_path / "run", "small"), backbone=str(folder / "backbone"), backbone_config="hibou-L"
    )


def start(settings, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return starting_model(settings, CLASSES, 5, PATCH_SIZE), torch.get_rng_state()


def head_of(model):
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("backbone.")}


def plainly(settings):
    """The same from a backbone of random weights, which the given ones then replace; its head is another one."""
    whole = remote_code.model_class()(start(settings)[0].config)
    whole.backbone.load_state_dict(load_backbone(settings.backbone, PATCH_SIZE).state_dict())
    return whole


def is_same(some, others):
    return some.keys() == others.keys() and all(torch.equal(tensor, others[name]) for name, tensor in some.items())


def start_like_init_from(settings, folder):
    return replace(settings, backbone="random", init_from=str(folder))


@pytest.mark.parametrize("source", ["backbone", "init_from"])
def test_every_value_is_there_and_the_backbone_is_the_given_one(settings, folder, source):
    settings = settings if source == "backbone" else start_like_init_from(settings, folder)
    model, _ = start(settings)
    given = load_backbone(str(folder / "backbone"), PATCH_SIZE)
    assert is_same(model.backbone.state_dict(), given.state_dict())
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert all(isinstance(parameter, torch.nn.Parameter) for parameter in model.parameters())
    whole = remote_code.model_class()(model.config)
    buffers = dict(model.named_buffers())
    assert buffers.keys() == dict(whole.named_buffers()).keys()
    for name, buffer in whole.named_buffers():
        assert buffer.dtype == buffers[name].dtype
        assert torch.equal(buffer, buffers[name]) or (buffer.isnan().all() and buffers[name].isnan().all())
    for (name, own), (other_name, other) in zip(model.named_parameters(), whole.named_parameters()):
        assert (name, own.shape, own.dtype, own.requires_grad) == (
            other_name,
            other.shape,
            other.dtype,
            other.requires_grad,
        )
    assert [module.training for module in model.modules()] == [module.training for module in whole.modules()]
    assert model.backbone.config is model.config.backbone_config


def test_it_answers_as_one_of_random_weights_that_are_replaced(settings, folder, tmp_path):
    model, _ = start(settings)
    whole = plainly(settings)
    whole.load_state_dict(head_of(model), strict=False)
    pixels = torch.randn(2, 25, 3, PATCH_SIZE, PATCH_SIZE)
    with torch.no_grad():
        assert torch.equal(model.eval()(pixels).logits, whole.eval()(pixels).logits)
    for name, saved in (("ours", model), ("plain", whole)):
        saved.save_pretrained(tmp_path / name)
    ours, plain = ((tmp_path / name / "config.json").read_text() for name in ("ours", "plain"))
    assert ours == plain
    again = remote_code.model_class().from_pretrained(tmp_path / "ours")
    assert is_same(again.state_dict(), model.state_dict())


def test_the_seed_decides_the_head_and_nothing_is_drawn_for_the_backbone(settings, folder, tmp_path, make_model):
    model, state = start(settings)
    assert is_same(head_of(model), head_of(start(settings)[0]))
    assert not is_same(head_of(model), head_of(start(settings, seed=1)[0]))
    deeper = BACKBONE | {"image_size": PATCH_SIZE, "num_hidden_layers": 4}
    Dinov2WithRegistersModel(model.config.backbone_config.__class__(**deeper)).save_pretrained(tmp_path / "deeper")
    other, other_state = start(replace(settings, backbone=str(tmp_path / "deeper")))
    assert torch.equal(state, other_state)
    assert is_same(head_of(model), head_of(other))
    weight = model.projection.weight
    assert 0.01 < weight.std() < 0.03  # as Transformers draws it, not as PyTorch does
    assert not model.classifier.bias.any()


def test_known_classes_keep_their_rows_and_new_ones_are_drawn(settings, folder):
    model, _ = start(start_like_init_from(settings, folder))
    before = remote_code.model_class().from_pretrained(folder).state_dict()
    assert torch.equal(model.classifier.weight[0], before["classifier.weight"][1])
    assert torch.equal(model.classifier.weight[2], before["classifier.weight"][0])
    assert 0.005 < model.classifier.weight[1].std() < 0.05
    kept = {name: tensor for name, tensor in head_of(model).items() if "classifier" not in name}
    assert is_same(kept, {name: before[name] for name in kept})


@pytest.mark.parametrize("learning", ["full", "lora"])
def test_a_backbone_that_learns_does(settings, folder, learning):
    if learning == "lora":
        pytest.importorskip("peft")
    model, _ = start(replace(settings, train_backbone=learning))
    model.train()
    model(torch.randn(2, 25, 3, PATCH_SIZE, PATCH_SIZE), labels=torch.tensor([0, 1])).loss.backward()
    grown = [name for name, parameter in model.backbone.named_parameters() if parameter.grad is not None]
    assert grown
    assert all(("lora" in name) == (learning == "lora") for name in grown)
    merge_lora(model)
    given = load_backbone(settings.backbone, PATCH_SIZE).state_dict()
    assert is_same(model.backbone.state_dict(), given)

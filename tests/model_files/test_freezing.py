"""What of the backbone learns: its own parameters, or adapters, whatever the order of calls."""

import copy

import pytest
import torch

LABELS = torch.tensor([0, 3, 1])


def learning(model):
    """Names of the backbone's parameters that get a gradient in a training step."""
    model.zero_grad()
    generator = torch.Generator().manual_seed(4)
    side = model.config.patch_size
    model(torch.randn(3, 25, 3, side, side, generator=generator), labels=LABELS).loss.backward()
    return {name for name, p in model.backbone.named_parameters() if p.grad is not None and bool(p.grad.abs().sum())}


def with_lora(model, **options):
    peft = pytest.importorskip("peft")
    targets = [n for n in ("query", "value", "q_proj", "v_proj") if any(n in m for m, _ in model.named_modules())]
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False, **options))


def adapters_of(model):
    return {name for name, _ in model.backbone.named_parameters() if "lora_" in name}


@pytest.mark.parametrize(
    "calls",
    [[], ["train"], ["eval", "train"], ["freeze_backbone"], ["unfreeze_backbone"], ["unfreeze_backbone", "train"]],
    ids=" ".join,
)
def test_adapters_on_a_loaded_model_learn_and_nothing_else_of_the_backbone_does(load_model, model_folder, calls):
    model = load_model(model_folder)
    wrapped = with_lora(model).train()
    for call in calls:
        getattr(wrapped, call)()
    names = learning(model)
    assert names == adapters_of(model)
    assert len(names) == 8  # two layers, two projections, A and B


@pytest.mark.parametrize("before", ["freeze_backbone", "unfreeze_backbone"])
def test_adapters_learn_whatever_was_called_before_them(load_model, model_folder, before):
    model = load_model(model_folder)
    getattr(model, before)()
    with_lora(model).train()
    assert learning(model) == adapters_of(model)


def test_adapters_on_the_backbone_alone_learn_too(load_model, model_folder):
    peft = pytest.importorskip("peft")
    model = load_model(model_folder)
    targets = [n for n in ("query", "q_proj") if any(n in m for m, _ in model.named_modules())]
    model.backbone = peft.get_peft_model(model.backbone, peft.LoraConfig(r=2, target_modules=targets))
    model.train()
    # Only B gets a gradient at first: it starts at 0, and A's gradient goes through it.
    assert learning(model) == {name for name in adapters_of(model) if "lora_B" in name}


def test_a_saved_adapter_gives_the_same_logits_when_it_is_loaded_again(load_model, model_folder, tmp_path):
    peft = pytest.importorskip("peft")
    model = load_model(model_folder)
    wrapped = with_lora(model, modules_to_save=["classifier"]).train()
    wrapped.unfreeze_backbone()
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        learning(model)
        optimizer.step()
    pixels = torch.randn(2, 25, 3, 28, 28, generator=torch.Generator().manual_seed(9))
    wrapped.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(load_model(model_folder), tmp_path).eval()
    with torch.no_grad():
        expected, got = wrapped.eval()(pixels).logits, loaded(pixels).logits
        plain = load_model(model_folder)(pixels).logits
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert (expected - plain).abs().max() > 1e-3


def test_the_usual_idiom_sets_the_backbone_free_and_says_so(load_model, model_folder, caplog):
    model = load_model(model_folder)
    for parameter in model.parameters():
        parameter.requires_grad = True
    model.train()
    assert not model.config.freeze_backbone
    assert model.backbone.training
    never_used = {"embeddings.mask_token"}
    assert learning(model) == {name for name, _ in model.backbone.named_parameters()} - never_used


def test_some_layers_set_free_are_the_ones_that_learn(load_model, model_folder):
    model = load_model(model_folder)
    for parameter in model.backbone.encoder.layer[-1].parameters():
        parameter.requires_grad = True
    model.eval()  # an evaluation before training changes nothing
    names = learning(model.train())
    assert names == {f"encoder.layer.1.{name}" for name, _ in model.backbone.encoder.layer[1].named_parameters()}


def test_a_loaded_model_is_frozen_in_training_and_a_copy_of_it_too(load_model, model_folder):
    model = load_model(model_folder)
    for other in (model, copy.deepcopy(model)):
        assert learning(other.train()) == set()
        assert other.config.freeze_backbone
        assert not other.backbone.training


def test_frozen_again_nothing_of_the_backbone_learns(load_model, model_folder):
    model = load_model(model_folder)
    model.unfreeze_backbone()
    assert learning(model.train())
    model.freeze_backbone()
    assert learning(model.train()) == set()


def test_what_is_saved_says_what_learns(load_model, model_folder, tmp_path):
    model = load_model(model_folder).train()
    model.requires_grad_(True)
    model.save_pretrained(tmp_path)
    assert not load_model(tmp_path).config.freeze_backbone

"""The model in the hands of what trains, compiles and distributes it."""

import copy

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import concatenate, convert_outputs_to_fp32, pad_across_processes, send_to_device
from safetensors.torch import load_file
from torch.nn.parallel import scatter_gather
from transformers import Trainer, TrainingArguments

LABELS = torch.tensor([3, 0, 1])
NO_DROPOUT = {"head_hidden_dropout_prob": 0.0, "head_attention_probs_dropout_prob": 0.0, "head_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def mask():
    mask = torch.ones(3, 25, dtype=torch.bool)
    mask[1, 3:9] = False
    return mask


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_state(given, expected):
    assert given.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(given[name], tensor, rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")


# Freezing


def test_a_frozen_backbone_stays_as_it_is(make_model, pixel_values):
    model = make_model()
    before = state(model)
    model.train()
    assert model.training
    assert model.context_encoder.training
    assert not any(module.training for module in model.backbone.modules())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(pixel_values, labels=LABELS).loss.backward()
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert not any(name.startswith("backbone.") for name in changed)


def test_an_unfrozen_backbone_learns(make_model, pixel_values):
    model = make_model(freeze_backbone=False).train()
    assert all(module.training for module in model.backbone.modules())
    model(pixel_values, labels=LABELS).loss.backward()
    assert any(name.startswith("backbone.") and grad.abs().max() > 0 for name, grad in gradients(model).items())


def test_freezing_and_unfreezing_take_effect_at_once(model, pixel_values):
    model.train()
    model.unfreeze_backbone()
    assert model.config.freeze_backbone is False
    assert model.backbone.training
    assert model.embed_patches(pixel_values[0]).requires_grad
    model.freeze_backbone()
    assert model.config.freeze_backbone is True
    assert not model.backbone.training
    assert not model.embed_patches(pixel_values[0]).requires_grad
    assert model.training


@pytest.mark.parametrize("freeze", [True, False])
def test_freezing_survives_saving_and_loading(make_model, load_model, tmp_path, freeze):
    make_model(freeze_backbone=freeze).save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert not loaded.training
    loaded.train()
    weight = loaded.get_parameter("backbone.embeddings.position_embeddings")
    assert weight.requires_grad is not freeze
    assert loaded.backbone.training is not freeze


@pytest.mark.parametrize("freeze", [True, False])
def test_every_trainable_parameter_gets_a_gradient(make_model, pixel_values, freeze):
    # One without would make DistributedDataParallel wait for ever.
    model = make_model(freeze_backbone=freeze).train()
    model(pixel_values, labels=LABELS).loss.backward()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == gradients(model).keys()
    assert freeze is not any(name.startswith("backbone.") for name in trainable)


def test_gradients_reach_the_pixels_through_a_frozen_backbone(model, pixel_values):
    pixels = pixel_values.clone().requires_grad_(True)
    model(pixels).logits[:, 2].sum().backward()
    assert (pixels.grad.abs().amax(dim=(2, 3, 4)) > 0).all(), "every patch counts"
    assert not gradients(model).keys() & {name for name, _ in model.backbone.named_parameters(prefix="backbone")}


# Gradient checkpointing, mixed precision, compilation


def enable_checkpointing(model, use_reentrant):
    older = model.gradient_checkpointing_enable
    getattr(model, "activation_checkpointing_enable", older)({"use_reentrant": use_reentrant})


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("freeze", [True, False])
def test_gradient_checkpointing_changes_no_gradient(make_model, pixel_values, mask, freeze, use_reentrant):
    plain = make_model(freeze_backbone=freeze).train()
    saving = make_model(freeze_backbone=freeze).train()
    enable_checkpointing(saving, use_reentrant)
    runs = {"backbone": 0, "head": 0}

    def count(part):
        runs[part] += 1

    saving.backbone.encoder.layer[0].norm1.register_forward_hook(lambda *_: count("backbone"))
    saving.context_encoder.encoder.layer[0].attention.register_forward_hook(lambda *_: count("head"))
    losses = []
    for model in (plain, saving):
        torch.manual_seed(5)  # the head has dropout
        losses.append(model(pixel_values, context_mask=mask, labels=LABELS).loss)
        losses[-1].backward()
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients(saving), gradients(plain))
    assert runs["head"] == 2, "one layer of the head is computed again in the backward pass"
    assert runs["backbone"] == (10 if freeze else 2), "69 patches in batches of 7, or at once and again"


def test_adapters_can_ask_for_gradients_at_the_input(model, pixel_values):
    model.enable_input_require_grads()
    model.unfreeze_backbone()
    model.backbone.requires_grad_(False)
    assert model.train().embed_patches(pixel_values[0]).requires_grad


def test_autocast_computes_in_the_lower_precision(model, pixel_values, mask):
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model.train()(pixel_values, context_mask=mask, labels=LABELS, output_attentions=True)
    assert outputs.logits.dtype == torch.bfloat16
    assert outputs.loss.dtype == torch.float32
    outputs.loss.backward()
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in gradients(model).values())


@pytest.mark.slow
def test_a_compiled_model_gives_the_same(model, pixel_values, mask):
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    inputs = {"pixel_values": pixel_values, "context_mask": mask, "labels": LABELS, "output_attentions": True}
    with torch.no_grad():
        expected, given = model(**inputs), compiled(**inputs)
    torch.testing.assert_close(given.to_tuple(), expected.to_tuple())
    assert given.predicted_class_names == expected.predicted_class_names


def test_a_compiled_model_learns_the_same(make_model, patch_embeddings, mask):
    plain, model = make_model(**NO_DROPOUT).train(), make_model(**NO_DROPOUT).train()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for step in (plain, compiled):
        step(patch_embeddings=patch_embeddings, context_mask=mask, labels=LABELS).loss.backward()
    torch.testing.assert_close(gradients(model), gradients(plain))


# Raw state dicts: what Trainer and accelerate restore


@pytest.mark.parametrize("swiglu", [True, False])
def test_a_saved_file_is_a_state_dict_of_either_version(make_model, tmp_path, swiglu):
    backbone = make_model().config.backbone_config.to_dict() | {"use_swiglu_ffn": swiglu}
    saved, other = (make_model(seed=seed, backbone_config=backbone) for seed in (0, 1))
    saved.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert "backbone.encoder.layer.1.attention.attention.query.weight" in weights, "the names of Transformers 4"
    other.load_state_dict(weights, strict=True)
    assert_same_state(state(other), state(saved))


def test_a_state_dict_of_one_s_own_loads(make_model):
    saved, other = make_model(seed=0), make_model(seed=1)
    other.load_state_dict(saved.state_dict(), strict=True)
    assert_same_state(state(other), state(saved))
    clone = copy.deepcopy(make_model(seed=1))
    clone.load_state_dict(saved.state_dict(), strict=True)
    assert_same_state(state(clone), state(saved))


def test_a_loaded_model_s_training_state_is_saved_whole(model_folder, load_model, tmp_path):
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(load_model(model_folder).train())
    expected = state(model)
    accelerator.save_state(tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    accelerator.load_state(tmp_path)
    assert_same_state(state(model), expected)


def test_every_loaded_parameter_has_storage_of_its_own(model_folder, load_model):
    parameters = list(load_model(model_folder).parameters())
    assert len({p.untyped_storage().data_ptr() for p in parameters}) == len(parameters)
    assert all(p.untyped_storage().nbytes() == p.nbytes for p in parameters)


# Distribution


class CpuGather(torch.autograd.Function):
    """What `torch.nn.parallel`'s own Gather does, for tensors on the CPU."""

    @staticmethod
    def forward(ctx, target, dim, *tensors):
        return torch.cat([tensor.reshape(1) if tensor.ndim == 0 else tensor for tensor in tensors], dim)


def replicate(module):
    """A replica as DataParallel makes it: its parameters are plain tensors, which `parameters()` does not list."""
    replica = module._replicate_for_data_parallel()
    replica._former_parameters = {}
    for name, child in module._modules.items():
        replica._modules[name] = child and replicate(child)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            setattr(replica, name, parameter.clone())
            replica._former_parameters[name] = getattr(replica, name)
    return replica


def test_data_parallel_replicas_are_gathered(model, pixel_values, mask, monkeypatch):
    monkeypatch.setattr(scatter_gather, "Gather", CpuGather)
    expected = model(pixel_values, context_mask=mask, output_attentions=True)
    replicas = [replicate(model), replicate(model)]
    assert not list(replicas[0].parameters())
    parts = [
        replica(pixel_values[rows], context_mask=mask[rows], labels=LABELS[rows], output_attentions=True)
        for replica, rows in zip(replicas, (slice(0, 2), slice(2, 3)))
    ]
    gathered = scatter_gather.gather(parts, "cpu")
    assert gathered.loss.shape == (2,)
    torch.testing.assert_close(gathered.logits, expected.logits)
    torch.testing.assert_close(gathered.context_attention, expected.context_attention)
    assert gathered.predicted_class_names == expected.predicted_class_names


def test_accelerate_moves_pads_and_joins_outputs(model, pixel_values):
    with torch.no_grad():
        expected = model(pixel_values)
        parts = [model(pixel_values[:2]), model(pixel_values[2:])]
    for rebuilt in (
        concatenate(parts),
        pad_across_processes(expected),
        send_to_device(expected, "cpu"),
        convert_outputs_to_fp32(lambda: expected)(),
    ):
        torch.testing.assert_close(rebuilt.logits, expected.logits)
        assert rebuilt.predicted_class_names == expected.predicted_class_names


# Trainer


@pytest.fixture
def make_trainer(tmp_path, processor):
    """`make_trainer(model, **arguments)`: a Trainer on 12 random regions, deterministic, that saves every step."""
    generator = torch.Generator().manual_seed(3)
    regions = torch.randn(12, 25, 3, 28, 28, generator=generator)
    data = [{"pixel_values": region, "labels": i % 4} for i, region in enumerate(regions)]

    def make(model, **arguments):
        settings = TrainingArguments(
            **{
                "output_dir": str(tmp_path),
                "per_device_train_batch_size": 3,
                "per_device_eval_batch_size": 5,
                "learning_rate": 0.01,
                "lr_scheduler_type": "constant",
                "eval_strategy": "steps",
                "eval_steps": 1,
                "save_strategy": "steps",
                "save_steps": 1,
                "report_to": [],
                "use_cpu": True,
                "disable_tqdm": True,
                **arguments,
            }
        )
        return Trainer(
            model, settings, train_dataset=data, eval_dataset=data, processing_class=processor.image_processor
        )

    return make


def test_trainer_learns_evaluates_and_predicts(make_model, make_trainer):
    model = make_model(freeze_backbone=False)
    before = state(model)
    trainer = make_trainer(model, max_steps=2)
    trainer.train()
    assert any(not torch.equal(t, before[n]) for n, t in model.state_dict().items() if n.startswith("backbone."))

    regions = torch.stack([item["pixel_values"] for item in trainer.eval_dataset])
    labels = torch.tensor([item["labels"] for item in trainer.eval_dataset])
    prediction = trainer.predict(trainer.eval_dataset)
    with torch.no_grad():
        outputs = model.eval()(regions, labels=labels)
    torch.testing.assert_close(torch.tensor(prediction.predictions), outputs.logits)
    assert prediction.label_ids.tolist() == labels.tolist()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(outputs.loss.item(), abs=1e-5)


def test_trainer_goes_back_to_the_best_model(make_model, make_trainer, load_model, tmp_path):
    first = make_model(freeze_backbone=False)
    make_trainer(first, max_steps=1, output_dir=str(tmp_path / "first")).train()

    model = make_model(freeze_backbone=False)
    trainer = make_trainer(
        model, max_steps=3, load_best_model_at_end=True, metric_for_best_model="score", greater_is_better=True
    )
    scores = iter([0.9, 0.5, 0.7])
    trainer.compute_metrics = lambda _: {"score": next(scores)}
    trainer.train()
    assert trainer.state.global_step == 3
    assert_same_state(state(model), state(first))
    assert_same_state(state(load_model(tmp_path / "checkpoint-1")), state(first))


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(make_model, make_trainer, tmp_path):
    straight = make_model(freeze_backbone=False)
    make_trainer(straight, max_steps=4).train()
    resumed = make_model(seed=1, freeze_backbone=False)
    make_trainer(resumed, max_steps=4).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same_state(state(resumed), state(straight))


def test_trainer_takes_checkpointing_and_accumulation(make_model, make_trainer):
    model = make_model()
    before = state(model)
    newer = "activation_checkpointing"
    checkpointing = newer if hasattr(TrainingArguments, newer) else "gradient_checkpointing"
    make_trainer(model, max_steps=1, gradient_accumulation_steps=2, **{checkpointing: True}).train()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "classifier.weight" in changed
    assert not any(name.startswith("backbone.") for name in changed)

"""What the model computes: patches to embeddings, grids to logits, and everything that it refuses."""

import copy
import math
import pickle
import weakref

import pytest
import torch

CENTER = 12  # of 5x5 in row-major order


def classify_by_loop(model, pixel_values):
    """Logits from the stock modules alone: one patch at a time, one region at a time."""
    logits = []
    for region in pixel_values:
        class_tokens = [model.backbone(patch[None]).last_hidden_state[0, 0] for patch in region]
        tokens = model.projection(torch.stack(class_tokens))[None]
        encoded = model.context_encoder(inputs_embeds=tokens).last_hidden_state
        logits.append(model.classifier(encoded[0, CENTER]))
    return torch.stack(logits)


def masked(*missing, regions=3):
    """A context mask in which some patches of the last region are missing."""
    mask = torch.ones(regions, 25, dtype=torch.bool)
    mask[-1, list(missing)] = False
    return mask


def test_logits_equal_a_loop_over_patches_and_regions(model, pixel_values):
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values).logits, classify_by_loop(model, pixel_values))


def test_forward_is_embedding_then_classifying(model, pixel_values):
    mask = masked(0, 7)
    with torch.no_grad():
        embeddings = model.embed_patches(pixel_values.flatten(0, 1)).unflatten(0, (3, 25))
        outputs = model(pixel_values, context_mask=mask)
        torch.testing.assert_close(outputs.logits, model.classify_grid(embeddings, mask))
        torch.testing.assert_close(outputs.logits, model(patch_embeddings=embeddings, context_mask=mask).logits)


def test_names_follow_the_largest_logits(model, pixel_values):
    with torch.no_grad():
        outputs = model(pixel_values)
    best = [max(range(4), key=row.__getitem__) for row in outputs.logits.tolist()]
    assert len(set(best)) > 1, "the fixture must not predict one class only"
    assert outputs.label.tolist() == best
    assert outputs.label.dtype == torch.int64
    assert outputs.predicted_class_names == [["Stroma", "Epidermis", "Fat", "Vessels"][i] for i in best]
    assert outputs["predicted_class_names"] == outputs.predicted_class_names


def test_output_holds_what_was_asked_for(model, pixel_values):
    labels = torch.tensor([3, 0, 1])
    assert list(model(pixel_values)) == ["logits", "label"]
    outputs = model(pixel_values, labels=labels, output_attentions=True)
    assert list(outputs) == ["loss", "logits", "label", "context_attention"]
    assert [tuple(tensor.shape) for tensor in outputs.to_tuple()] == [(), (3, 4), (3,), (3, 25)]


@pytest.mark.parametrize("by", ["argument", "config"])
def test_a_tuple_instead_of_an_output(model, pixel_values, by):
    expected = model(pixel_values, labels=torch.tensor([3, 0, 1])).to_tuple()
    if by == "config":
        model.config.return_dict = False
    given = model(pixel_values, labels=torch.tensor([3, 0, 1]), return_dict=False if by == "argument" else None)
    assert isinstance(given, tuple)
    torch.testing.assert_close(given, expected)


def test_names_follow_a_renamed_class(model, pixel_values):
    model.config.class_names = ["a", "b", "c", "d"]
    assert set(model(pixel_values).predicted_class_names) <= {"a", "b", "c", "d"}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda outputs: pickle.loads(pickle.dumps(outputs))])
def test_a_copied_output_keeps_its_names(model, pixel_values, copied):
    with torch.no_grad():
        outputs = model(pixel_values)
    assert copied(outputs).predicted_class_names == outputs.predicted_class_names
    assert type(copied(outputs)) is type(outputs)


def test_loss_is_the_mean_cross_entropy(model, pixel_values):
    with torch.no_grad():
        outputs = model(pixel_values, labels=torch.tensor([3, 0, 1]))
    rows = outputs.logits.tolist()
    losses = [math.log(sum(map(math.exp, row))) - row[label] for row, label in zip(rows, [3, 0, 1])]
    assert outputs.loss.item() == pytest.approx(sum(losses) / 3, abs=1e-5)


def test_permuting_the_regions_permutes_the_outputs(model, pixel_values):
    order, mask = [2, 0, 1], masked(3, 4)
    with torch.no_grad():
        straight = model(pixel_values, context_mask=mask, output_attentions=True)
        permuted = model(pixel_values[order], context_mask=mask[order], output_attentions=True)
    torch.testing.assert_close(permuted.logits, straight.logits[order])
    torch.testing.assert_close(permuted.context_attention, straight.context_attention[order])
    assert permuted.predicted_class_names == [straight.predicted_class_names[i] for i in order]


def test_the_place_of_a_context_patch_matters(model, pixel_values):
    swapped = list(range(25))
    swapped[1], swapped[5] = 5, 1  # mirrored at the diagonal, as swapped axes would do it
    with torch.no_grad():
        difference = (model(pixel_values[:, swapped]).logits - model(pixel_values).logits).abs().amax(dim=1)
    assert (difference > 1e-3).all()


@pytest.mark.parametrize("content", [7.0, float("nan"), float("inf")])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_what_a_missing_patch_holds_changes_nothing(make_model, pixel_values, content, implementation):
    model = make_model(attn_implementation=implementation)
    mask, other = masked(0, 11, 24), pixel_values.clone()
    other[-1, [0, 11, 24]] = content
    with torch.no_grad():
        assert torch.equal(model(other, context_mask=mask).logits, model(pixel_values, context_mask=mask).logits)
        embeddings = model.embed_patches(pixel_values.flatten(0, 1)).unflatten(0, (3, 25))
        present = model.classify_grid(embeddings, mask)
        embeddings[-1, [0, 11, 24]] = content
        assert torch.equal(model.classify_grid(embeddings, mask), present)


def test_a_missing_patch_is_not_one_of_zeros(model, pixel_values):
    empty = pixel_values.clone()
    empty[-1, [0, 11, 24]] = 0
    with torch.no_grad():
        difference = model(empty).logits - model(empty, context_mask=masked(0, 11, 24)).logits
    assert difference[:-1].abs().max() < 1e-5
    assert difference[-1].abs().max() > 1e-3


def test_without_context_the_centre_is_classified_as_if_alone(model, patch_embeddings):
    mask = torch.zeros(3, 25, dtype=torch.bool)
    mask[:, CENTER] = True
    tokens = model.projection(patch_embeddings[:, CENTER : CENTER + 1])
    with torch.no_grad():
        alone = model.context_encoder(inputs_embeds=tokens, position_ids=torch.tensor([[CENTER]])).last_hidden_state
        torch.testing.assert_close(model.classify_grid(patch_embeddings, mask), model.classifier(alone[:, 0]))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_a_mask_may_have_any_dtype(model, patch_embeddings, dtype):
    with torch.no_grad():
        expected = model.classify_grid(patch_embeddings, masked(2, 3))
        torch.testing.assert_close(model.classify_grid(patch_embeddings, masked(2, 3).to(dtype)), expected)


@pytest.mark.parametrize("mask", [None, masked(0, 1, 2, 17)], ids=["all present", "some missing"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("layers", [1, 2])
def test_context_attention_is_the_last_layer_s_own(make_model, patch_embeddings, mask, implementation, layers):
    model = make_model(head_num_hidden_layers=layers, attn_implementation=implementation)
    eager = make_model(head_num_hidden_layers=layers, attn_implementation="eager")
    with torch.no_grad():
        given = model(patch_embeddings=patch_embeddings, context_mask=mask, output_attentions=True).context_attention
        attentions = eager.context_encoder(
            inputs_embeds=eager.projection(patch_embeddings),
            attention_mask=None if mask is None else mask.long(),
            output_attentions=True,
        ).attentions
    assert len(attentions) == layers
    torch.testing.assert_close(given, attentions[-1].mean(dim=1)[:, CENTER])
    torch.testing.assert_close(given.sum(dim=1), torch.ones(3))
    assert given.std(dim=1).min() > 1e-3, "the fixture must not look at all patches alike"
    if mask is not None:
        assert torch.equal(given == 0, ~mask)


@pytest.mark.parametrize("size", [1, 7, 75, 1000])
def test_micro_batches_change_neither_result_nor_bound(make_model, pixel_values, size):
    calls = []
    model = make_model(backbone_batch_size=size)
    model.backbone.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    with torch.no_grad():
        logits = model(pixel_values).logits
        torch.testing.assert_close(logits, classify_by_loop(make_model(), pixel_values))
    assert sum(calls) == 75
    assert max(calls) == min(size, 32)  # on a CPU


def test_a_micro_batch_leaves_nothing_but_its_embeddings_in_memory(model):
    tokens, alive = [], []

    def watch(module, inputs, output):
        alive.append(sum(reference() is not None for reference in tokens))
        tokens.append(weakref.ref(output.last_hidden_state))

    model.backbone.register_forward_hook(watch)
    model.embed_patches(torch.randn(20, 3, 28, 28))
    assert len(alive) == 3
    assert max(alive) <= 1  # the last output may wait for its name to be used again


def test_a_frozen_backbone_is_bounded_where_gradients_are_on(model, pixel_values):
    calls = []
    model.train()
    model.backbone.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    model(pixel_values, labels=torch.tensor([3, 0, 1])).loss.backward()
    assert sum(calls) == 75
    assert max(calls) == model.config.backbone_batch_size == 7


def test_missing_patches_are_not_embedded(model, pixel_values):
    calls = []
    model.backbone.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    model(pixel_values, context_mask=masked(0, 1, 2, 17))
    assert sum(calls) == 71


def test_no_patches_have_no_embeddings(model):
    assert model.embed_patches(torch.zeros(0, 3, 28, 28)).shape == (0, 32)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, r"exactly one of `pixel_values` and `patch_embeddings`, got neither"),
        ({"pixels": (2, 25, 3, 28, 28), "embeddings": (2, 25, 32)}, r"exactly one of .*, got both"),
        ({"pixels": (2, 9, 3, 28, 28)}, r"\(B, 25, 3, 28, 28\).*got torch.float32 \(2, 9, 3, 28, 28\).*140 px"),
        ({"pixels": (2, 49, 3, 28, 28)}, r"\(B, 25, 3, 28, 28\).*\(2, 49, 3, 28, 28\)"),
        ({"pixels": (2, 25, 3, 14, 14)}, r"\(B, 25, 3, 28, 28\).*\(2, 25, 3, 14, 14\)"),
        ({"pixels": (2, 25, 1, 28, 28)}, r"\(B, 25, 3, 28, 28\).*\(2, 25, 1, 28, 28\)"),
        ({"pixels": (25, 3, 28, 28)}, r"\(B, 25, 3, 28, 28\).*\(25, 3, 28, 28\)"),
        ({"pixels": (0, 25, 3, 28, 28)}, r"with B > 0"),
        ({"pixels": (2, 25, 3, 28, 28), "dtype": torch.int32}, r"float or uint8 `pixel_values`.*got torch.int32"),
        ({"embeddings": (2, 25, 31)}, r"\(B, 25, 32\).*got torch.float32 \(2, 25, 31\)"),
        ({"embeddings": (2, 24, 32)}, r"\(B, 25, 32\).*\(2, 24, 32\)"),
        ({"embeddings": (25, 32)}, r"\(B, 25, 32\).*\(25, 32\)"),
        ({"embeddings": (0, 25, 32)}, r"with B > 0"),
        ({"embeddings": (2, 25, 32), "dtype": torch.int64}, r"float `patch_embeddings`.*got torch.int64"),
    ],
)
def test_refuses_inputs_that_do_not_fit(model, shapes, message):
    dtype = shapes.get("dtype", torch.float32)
    names = {"pixels": "pixel_values", "embeddings": "patch_embeddings"}
    inputs = {names[key]: torch.zeros(shape, dtype=dtype) for key, shape in shapes.items() if key != "dtype"}
    with pytest.raises(ValueError, match=message):
        model(**inputs)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(3, 24), r"`context_mask` of shape \(3, 25\), got \(3, 24\)"),
        (torch.ones(1, 25), r"`context_mask` of shape \(3, 25\), got \(1, 25\)"),
        (torch.ones(3, 5, 5), r"`context_mask` of shape \(3, 25\), got \(3, 5, 5\)"),
        (masked(CENTER), r"central patch, index 12; it is False in the regions \[2\]"),
        (torch.zeros(3, 25), r"central patch, index 12; it is False in the regions \[0, 1, 2\]"),
    ],
)
def test_refuses_masks_that_do_not_fit(model, pixel_values, patch_embeddings, mask, message):
    for call in (
        lambda: model(pixel_values, context_mask=mask),
        lambda: model(patch_embeddings=patch_embeddings, context_mask=mask),
        lambda: model.classify_grid(patch_embeddings, mask),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 4, 1]), r"`labels` from 0 to 3, got \[0, 4, 1\]"),
        (torch.tensor([0, -1, 1]), r"`labels` from 0 to 3, got \[0, -1, 1\]"),
        (torch.tensor([0, -100, 1]), r"`labels` from 0 to 3, got \[0, -100, 1\]"),
        (torch.tensor([0, 1]), r"integer `labels` of shape \(3,\), got torch.int64 \(2,\)"),
        (torch.tensor([[0], [1], [2]]), r"integer `labels` of shape \(3,\), got torch.int64 \(3, 1\)"),
        (torch.tensor([0.0, 1.0, 2.0]), r"integer `labels` of shape \(3,\), got torch.float32 \(3,\)"),
    ],
)
def test_refuses_labels_that_do_not_fit(model, pixel_values, labels, message):
    with pytest.raises(ValueError, match=message):
        model(pixel_values, labels=labels)


@pytest.mark.parametrize("shape", [(25, 3, 28, 27), (3, 28, 28), (1, 25, 3, 28, 28), (25, 4, 28, 28)])
def test_refuses_patches_that_do_not_fit(model, shape):
    with pytest.raises(ValueError, match=r"float or uint8 patches of shape \(N, 3, 28, 28\), got torch.float32"):
        model.embed_patches(torch.zeros(shape))


def test_refusals_come_before_the_backbone_runs(model, pixel_values):
    model.backbone.register_forward_hook(lambda *_: pytest.fail("the backbone ran"))
    with pytest.raises(ValueError, match="central patch"):
        model(pixel_values, context_mask=masked(CENTER))
    with pytest.raises(ValueError, match="labels"):
        model(pixel_values, labels=torch.tensor([0, 4, 1]))


def test_another_context_size_and_patch_size(make_model):
    backbone = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 42, "patch_size": 14}
    model = make_model(context_size=3, patch_size=42, backbone_config=backbone)
    pixel_values = torch.randn(2, 9, 3, 42, 42)
    other = pixel_values.clone()
    other[:, 4] += 1.0
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[:, 4] = True
    with torch.no_grad():
        assert model(pixel_values).logits.shape == (2, 4)
        difference = model(pixel_values, context_mask=mask).logits - model(other, context_mask=mask).logits
    assert difference.abs().max() > 1e-3


def test_the_attention_implementation_can_change(model, pixel_values):
    with torch.no_grad():
        expected = model(pixel_values).logits
        model.set_attn_implementation("eager")
        torch.testing.assert_close(model(pixel_values).logits, expected)
    assert model.backbone.config._attn_implementation == "eager"
    if model.context_encoder._can_set_attn_implementation():  # not in Transformers 4
        assert model.context_encoder.config._attn_implementation == "eager"


def test_the_backbone_may_have_a_lower_precision_than_the_head(model, pixel_values):
    with torch.no_grad():
        expected = model(pixel_values).logits
        model.backbone.to(torch.bfloat16)
        given = model(pixel_values).logits
    assert given.dtype == torch.float32
    torch.testing.assert_close(given, expected, rtol=0, atol=0.1)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:torch.quantize_per_tensor")
def test_linear_layers_may_be_quantised(model, pixel_values):
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        expected, given = model(pixel_values, output_attentions=True), quantised(pixel_values, output_attentions=True)
    torch.testing.assert_close(given.logits, expected.logits, rtol=0, atol=0.3)
    torch.testing.assert_close(given.context_attention, expected.context_attention, rtol=0, atol=0.02)

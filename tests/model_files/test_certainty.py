"""What a model says of its own limits: against loops, and as tensors that travel with its weights."""

import json

import numpy as np
import pytest
import torch
from made_up_limits import CLASSES, random_state
from tiny_spider import CLASS_NAMES, HIDDEN


@pytest.fixture
def knowing_model(make_model):
    model = make_model()
    model.remember(familiarity_means=4, conformal_scores=19)
    random_state(model)
    model.config.unfamiliarity_threshold = 5.0
    return model


@pytest.fixture
def context_mask():
    mask = torch.ones(3, 25, dtype=torch.bool)
    mask[1, :5] = False
    mask[2, ::2] = False
    mask[:, 12] = True
    return mask


def test_unfamiliarity_is_the_mean_distance_to_the_nearest_mean(knowing_model, patch_embeddings, context_mask):
    state = {name: tensor.double().numpy() for name, tensor in knowing_model.familiarity.named_buffers()}
    covariance = np.linalg.inv(state["whitening"] @ state["whitening"].T)
    # In the space of embeddings a mean lies where whitening leads to what is remembered of it.
    means = state["means"] @ np.linalg.inv(state["whitening"]) + state["center"]
    expected = []
    for embeddings, mask in zip(patch_embeddings.double().numpy(), context_mask.numpy()):
        distances = []
        for x in embeddings[mask]:
            squares = [(x - m) @ np.linalg.solve(covariance, x - m) for m in means]
            distances.append(np.sqrt(min(squares) / HIDDEN))
        expected.append(np.mean(distances))
    embeddings = patch_embeddings.clone()
    embeddings[~context_mask] = float("nan")
    with torch.no_grad():
        outputs = knowing_model(patch_embeddings=embeddings, context_mask=context_mask)
    np.testing.assert_allclose(outputs.unfamiliarity.numpy(), expected, rtol=1e-3)
    knowing_model.config.unfamiliarity_threshold = float(np.sort(expected)[1])
    with torch.no_grad():
        outputs = knowing_model(patch_embeddings=embeddings, context_mask=context_mask)
    assert outputs.is_familiar.dtype == torch.bool
    assert outputs.is_familiar.tolist() == (outputs.unfamiliarity <= np.sort(expected)[1]).tolist()
    assert len(outputs.predicted_class_names) == 3


def test_p_values_count_the_scores_that_are_not_exceeded(knowing_model, patch_embeddings):
    with torch.no_grad():
        outputs = knowing_model(patch_embeddings=patch_embeddings)
    sets = knowing_model.class_sets
    for region, probabilities in enumerate(outputs.logits.softmax(-1)):
        for k, probability in enumerate(probabilities):
            score = round((1 - float(probability)) * 1e4) / 1e4
            exceeded = sum(float(known) < score - 1e-7 for known in sets.scores[k])
            assert outputs.class_p_values[region, k] == sets.p_values[k, exceeded]
    for alpha in (0.06, 0.3, 0.7):
        for names, logits, p in zip(outputs.prediction_sets(alpha), outputs.logits, outputs.class_p_values):
            expected = sorted((k for k in range(CLASSES) if p[k] > alpha), key=lambda k: -float(logits[k]))
            assert names == [CLASS_NAMES[k] for k in expected]
    for alpha in (0, 1, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="`alpha` must lie between 0 and 1, got"):
            outputs.prediction_sets(alpha)


def test_a_model_that_remembers_nothing_says_none(model, patch_embeddings):
    with torch.no_grad():
        outputs = model(patch_embeddings=patch_embeddings)
    assert outputs.unfamiliarity is outputs.is_familiar is outputs.class_p_values is None
    assert set(outputs) == {"logits", "label"}
    assert not any("familiarity" in name or "class_sets" in name for name in model.state_dict())
    with pytest.raises(ValueError, match="`class_p_values` is None"):
        outputs.prediction_sets()


def test_without_a_threshold_nobody_says_what_is_familiar(knowing_model, patch_embeddings):
    knowing_model.config.unfamiliarity_threshold = None
    with torch.no_grad():
        outputs = knowing_model(patch_embeddings=patch_embeddings)
    assert outputs.unfamiliarity is not None
    assert outputs.is_familiar is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_travels_with_the_folder_in_full_precision(
    knowing_model, processor, load_model, tmp_path, patch_embeddings, dtype
):
    knowing_model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype=dtype)
    for name, tensor in knowing_model.state_dict().items():
        if name.startswith(("familiarity.", "class_sets.")):
            assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.dtype == dtype
    embeddings = patch_embeddings.to(dtype)
    with torch.no_grad():
        outputs, own = loaded(patch_embeddings=embeddings), knowing_model(patch_embeddings=embeddings.float())
    torch.testing.assert_close(outputs.unfamiliarity, own.unfamiliarity)
    assert torch.equal(outputs.is_familiar, own.is_familiar)
    again = knowing_model.to(torch.bfloat16).float()
    with torch.no_grad():
        torch.testing.assert_close(again(patch_embeddings=embeddings.float()).unfamiliarity, own.unfamiliarity)


def test_what_a_damaged_folder_forgot_makes_nothing_familiar(knowing_model, load_model, tmp_path, patch_embeddings):
    knowing_model.save_pretrained(tmp_path)
    plain = {k: v for k, v in knowing_model.state_dict().items() if not k.startswith(("familiarity.", "class_sets."))}
    knowing_model.save_pretrained(tmp_path, state_dict=plain)
    with torch.no_grad():
        outputs = load_model(tmp_path)(patch_embeddings=patch_embeddings)
    assert not outputs.is_familiar.any()
    assert outputs.prediction_sets(0.1) == [[], [], []]


def test_folders_of_before_load_and_say_none(model_folder, load_model, tmp_path, patch_embeddings):
    import shutil

    shutil.copytree(model_folder, tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    for field in ("familiarity_means", "unfamiliarity_threshold", "conformal_scores"):
        config.pop(field)
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    with torch.no_grad():
        outputs = load_model(tmp_path / "old")(patch_embeddings=patch_embeddings)
    assert outputs.unfamiliarity is None


def test_autocast_and_compiling_do_not_change_it(knowing_model, patch_embeddings, context_mask):
    with torch.no_grad():
        plain = knowing_model(patch_embeddings=patch_embeddings, context_mask=context_mask)
        with torch.autocast("cpu", torch.bfloat16):
            cast = knowing_model(patch_embeddings=patch_embeddings, context_mask=context_mask)
    assert torch.equal(plain.unfamiliarity, cast.unfamiliarity)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("familiarity_means", -1),
        ("familiarity_means", 1.5),
        ("familiarity_means", 10**6),
        ("conformal_scores", -1),
        ("conformal_scores", None),
        ("unfamiliarity_threshold", "1"),
        ("unfamiliarity_threshold", float("nan")),
        ("unfamiliarity_threshold", -1.0),
    ],
)
def test_what_makes_no_sense_is_refused(make_config, field, value):
    with pytest.raises(ValueError, match=f"`{field}` must be"):
        make_config(**{field: value})

"""What the class is read from: the centre, the first patch or a mean, through a pooler, with more beside it."""

import itertools
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from tiny_spider import HIDDEN
from transformers import AutoConfig

CENTER = 12
READOUTS = ("center", "first", "mean")
HEADS = [
    {"head_readout": readout, "head_pooler": pooler, "head_residual": residual, "head_beside": beside}
    for readout, pooler, residual, beside in itertools.product(
        READOUTS, (False, True), (False, True), (None, "projection", "backbone")
    )
]
ABSENT = [(), (0, 1, 5), (2, 24), tuple(n for n in range(25) if n != CENTER)]  # per region


def named(head):
    return "+".join(str(value) for value in head.values())


@pytest.fixture(scope="module")
def embeddings():
    return torch.randn(len(ABSENT), 25, HIDDEN, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def mask():
    mask = torch.ones(len(ABSENT), 25, dtype=torch.bool)
    for region, absent in enumerate(ABSENT):
        mask[region, list(absent)] = False
    return mask


def logits_by_loop(model, embeddings, absent):
    """Logits of one region `(25, hidden)`, its missing patches taken out of the sequence rather than masked."""
    config = model.config
    present = [number for number in range(25) if number not in absent]
    inputs = torch.stack([model.projection(embeddings[number]) for number in present])
    encoder = model.context_encoder
    encoded = encoder(inputs_embeds=inputs[None], position_ids=torch.tensor([present])).last_hidden_state[0]
    tokens = [row + inputs[i] if config.head_residual else row for i, row in enumerate(encoded)]
    if config.head_readout == "center":
        feature = tokens[present.index(CENTER)]
    elif config.head_readout == "first":
        feature = tokens[0]
    else:
        feature = sum(tokens) / len(tokens)
    if config.head_pooler:
        dense = encoder.pooler.dense
        feature = torch.tanh(dense.weight @ feature + dense.bias)
    if config.head_beside == "projection":
        feature = torch.cat([inputs[present.index(CENTER)], feature])
    elif config.head_beside == "backbone":
        feature = torch.cat([embeddings[CENTER], feature])
    return model.classifier.weight @ feature + model.classifier.bias


@pytest.mark.parametrize("head", HEADS, ids=named)
def test_every_head_gives_what_a_loop_over_the_present_patches_gives(make_model, embeddings, mask, head):
    model = make_model(**head)
    with torch.no_grad():
        whole = torch.stack([logits_by_loop(model, region, ()) for region in embeddings])
        parts = torch.stack([logits_by_loop(model, region, absent) for region, absent in zip(embeddings, ABSENT)])
        torch.testing.assert_close(model.classify_grid(embeddings), whole, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(model.classify_grid(embeddings, mask), parts, atol=2e-5, rtol=1e-5)
        outputs = model(patch_embeddings=embeddings, context_mask=mask, output_attentions=True)
    torch.testing.assert_close(outputs.logits, parts, atol=2e-5, rtol=1e-5)
    assert whole.std(dim=0).min() > 1e-2, "the fixture must not give all regions the same"


def test_the_heads_differ_from_each_other(make_model, embeddings):
    with torch.no_grad():
        answers = [make_model(**head).classify_grid(embeddings) for head in HEADS]
    assert all(not torch.allclose(one, other, atol=1e-3) for one, other in itertools.combinations(answers, 2))


@pytest.mark.parametrize("head", HEADS, ids=named)
def test_a_masked_patch_is_never_read(make_model, embeddings, mask, head):
    model = make_model(**head)
    other = embeddings.masked_fill(~mask[..., None], float("nan"))
    with torch.no_grad():
        assert torch.equal(model.classify_grid(other, mask), model.classify_grid(embeddings, mask))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("readout", READOUTS)
def test_context_attention_is_of_what_is_read(make_model, embeddings, mask, readout, masked):
    model = make_model(head_readout=readout)
    eager = make_model(head_readout=readout, attn_implementation="eager")
    mask = mask if masked else torch.ones_like(mask)
    with torch.no_grad():
        given = model(patch_embeddings=embeddings, context_mask=mask, output_attentions=True).context_attention
        inputs = eager.projection(embeddings)
        last = eager.context_encoder(inputs_embeds=inputs, attention_mask=mask.long(), output_attentions=True)
    rows = last.attentions[-1].mean(dim=1)
    for region, row in enumerate(given):
        present = mask[region].nonzero().flatten().tolist()
        read = {"center": [CENTER], "first": present[:1], "mean": present}[readout]
        torch.testing.assert_close(row, sum(rows[region, number] for number in read) / len(read))
        assert torch.equal(row == 0, ~mask[region])
    torch.testing.assert_close(given.sum(dim=1), torch.ones(len(given)))


@pytest.mark.parametrize("readout", READOUTS)
def test_a_mean_in_bfloat16_is_as_exact_as_bfloat16(make_model, embeddings, mask, readout):
    model = make_model(head_readout=readout, head_pooler=True)
    with torch.no_grad():
        exact = model.classify_grid(embeddings, mask)
        rough = model.bfloat16().classify_grid(embeddings.bfloat16(), mask)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().max() < 0.03 * exact.abs().max()


@pytest.mark.parametrize("head", [HEADS[0], HEADS[-1], HEADS[14]], ids=named)
def test_every_part_of_the_head_learns(make_model, embeddings, mask, head):
    model = make_model(**head).train()
    model(patch_embeddings=embeddings, context_mask=mask, labels=[0, 1, 2, 3]).loss.backward()
    names = ["projection", "context_encoder.encoder", "classifier"] + ["context_encoder.pooler"] * head["head_pooler"]
    for name in names:
        assert all(parameter.grad is not None for parameter in model.get_submodule(name).parameters()), name


LOADS = """
import json, sys
import torch
from safetensors.torch import load_file
from transformers import AutoModel
given = load_file(sys.argv[1])
with torch.no_grad():
    models = [AutoModel.from_pretrained(folder, trust_remote_code=True) for folder in sys.argv[2:]]
    print(json.dumps([model.classify_grid(given["embeddings"], given["mask"]).tolist() for model in models]))
"""


@pytest.mark.slow
def test_saved_heads_give_the_same_in_a_bare_copy_under_either_version(
    make_model, processor, embeddings, mask, tmp_path
):
    from safetensors.torch import save_file

    expected, copies = [], []
    for head in (HEADS[-1], HEADS[14]):
        model = make_model(**head)
        model.save_pretrained(tmp_path / "saved" / named(head))
        processor.save_pretrained(tmp_path / "saved" / named(head))
        copies.append(shutil.copytree(tmp_path / "saved" / named(head), tmp_path / "bare copies" / named(head)))
        with torch.no_grad():
            expected.append(model.classify_grid(embeddings, mask))
    save_file({"embeddings": embeddings, "mask": mask}, tmp_path / "given.safetensors")
    for python in {sys.executable, os.environ.get("SPIDER_OTHER_PYTHON", sys.executable)}:
        home = tmp_path / "home"
        run = subprocess.run(
            [python, "-I", "-c", LOADS, str(tmp_path / "given.safetensors"), *map(str, copies)],
            env={"HF_HOME": str(home), "HOME": str(home), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert run.returncode == 0, run.stderr
        torch.testing.assert_close(torch.tensor(json.loads(run.stdout)), torch.stack(expected), atol=5e-6, rtol=0)


@pytest.mark.parametrize("head", [HEADS[-1], HEADS[14]], ids=named)
def test_a_configuration_keeps_its_head(make_config, head, tmp_path):
    make_config(**head).save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    assert {name: getattr(loaded, name) for name in head} == head


def test_a_folder_that_says_nothing_of_the_head_reads_the_centre(model_folder, load_model, embeddings, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "older")
    config = json.loads((folder / "config.json").read_text())
    new = {"head_readout", "head_pooler", "head_residual", "head_beside"}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in new}))
    model = load_model(folder)
    with torch.no_grad():
        expected = torch.stack([logits_by_loop(model, region, ()) for region in embeddings])
        torch.testing.assert_close(model.classify_grid(embeddings), expected, atol=2e-5, rtol=1e-5)
    assert {name: getattr(model.config, name) for name in new} == HEADS[0]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("head_readout", "centre", "must be one of 'center', 'first', 'mean', got 'centre'"),
        ("head_readout", None, "must be one of 'center'"),
        ("head_readout", 0, "got 0"),
        ("head_pooler", 1, "`head_pooler` must be True or False, got 1"),
        ("head_residual", "yes", "`head_residual` must be True or False"),
        ("head_beside", "raw", "must be one of None, 'projection', 'backbone', got 'raw'"),
        ("head_beside", False, "got False"),
    ],
)
def test_what_is_no_head_is_refused(make_config, field, value, message):
    with pytest.raises(ValueError, match=message):
        make_config(**{field: value})


def test_a_misspelt_field_of_the_head_is_refused(make_config):
    with pytest.raises(TypeError, match="Did you mean `head_readout`"):
        make_config(head_read_out="mean")

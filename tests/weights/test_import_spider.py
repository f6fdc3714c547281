"""Published SPIDER checkpoints under many names, held against the same function put together from stock classes."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
import warm_python
from independent_dinov2 import forward, in_transformers_4_names, in_transformers_5_names, save_folder
from published_checkpoint import (
    CLASS_NAMES,
    CONFIG,
    HEADS,
    HIDDEN,
    PARTS,
    SIDE,
    WIDTH,
    bert,
    checkpoint_parts,
    joined,
    native_backbone,
)
from safetensors.torch import load_file, save_file
from torch import nn

from spider_tools.weights.__main__ import main, parse_args
from spider_tools.weights.import_spider import import_spider
from spider_tools.weights.untrained import looks_untrained

MEAN, STD = (0.7, 0.6, 0.5), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def native():
    return native_backbone()


@pytest.fixture(scope="module")
def parts(native):
    return checkpoint_parts(native)


@pytest.fixture
def write(tmp_path, parts):
    """`write(prefixes=..., config=..., shards=1, changes={}, **parts)`: the path of a checkpoint.

    `changes` maps full names to tensors, or to None to leave them out.
    """

    def write_checkpoint(prefixes=PARTS, config=CONFIG, shards=1, changes=None, **other):
        tensors = joined(parts | other, prefixes) | (changes or {})
        tensors = {name: tensor.clone() for name, tensor in tensors.items() if tensor is not None}
        return save_folder(tmp_path / "published", tensors, config, shards)

    return write_checkpoint


def expected_logits(native, parts, pixels, encoder=None):
    """Logits float64 of pixels `(B, 25, 3, 21, 21)`, from the independent backbone and stock BERT."""
    embeddings = torch.stack([forward(native, region, HEADS)[:, 0] for region in pixels])
    encoder = (encoder or bert()).double()
    projection, classifier = (
        {name: tensor.double() for name, tensor in parts[part].items()} for part in ("projection", "classifier")
    )
    with torch.no_grad():
        tokens = encoder(inputs_embeds=embeddings @ projection["weight"].T + projection["bias"]).last_hidden_state
    return tokens[:, 12] @ classifier["weight"].T + classifier["bias"]


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 25, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(9))


def assert_same_logits(imported, expected, pixels):
    with torch.no_grad():
        logits = imported.model(pixel_values=pixels).logits
    assert expected.std() > 0.5
    assert (logits.double() - expected).abs().max() < 1e-5


@pytest.mark.parametrize("rename", [in_transformers_4_names, in_transformers_5_names, dict])
@pytest.mark.parametrize(
    "prefixes",
    [
        PARTS,
        {
            "backbone": "model.encoder.backbone.",
            "encoder": "model.encoder.",
            "projection": "model.encoder.fc.0.",
            "classifier": "model.fc.1.",
        },
        {"backbone": "", "encoder": "head.context.bert.", "projection": "head.proj.", "classifier": "head."},
        {"backbone": "backbone.model.", "encoder": "", "projection": "dense.", "classifier": "out.dense."},
    ],
)
def test_parts_are_recognised_under_any_names(write, native, parts, pixels, rename, prefixes):
    imported = import_spider(write(prefixes, backbone=rename(native)))
    assert_same_logits(imported, expected_logits(native, parts, pixels), pixels)
    assert imported.model.config.class_names == CLASS_NAMES
    assert imported.model.config.context_size == 5
    assert (f"{prefixes['projection']}weight", "projection.weight") in imported.mapping
    assert (f"{prefixes['classifier']}bias", "classifier.bias") in imported.mapping
    assert not imported.model.training
    assert {parameter.dtype for parameter in imported.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("shards", [2, 5])
def test_sharded_half_precision_checkpoints_are_read(write, native, parts, pixels, shards):
    halves = {part: {name: t.half().float() for name, t in tensors.items()} for part, tensors in parts.items()}
    source = write(shards=shards, changes={name: tensor.half() for name, tensor in joined(halves).items()})
    imported = import_spider(source)
    encoder = bert()
    encoder.load_state_dict(halves["encoder"])
    rounded = {name: tensor.half().float() for name, tensor in native.items()}
    assert_same_logits(imported, expected_logits(rounded, halves, pixels, encoder), pixels)


def test_an_untrained_pooler_is_left_out_and_said(write, native, parts, pixels):
    encoder = bert(pooler=True)
    imported = import_spider(write(encoder=dict(encoder.state_dict())))
    assert "The pooler is not read, since it is as BERT initialises it" in imported.report()
    assert not imported.model.config.head_pooler
    assert_same_logits(imported, expected_logits(native, parts, pixels, encoder), pixels)


def test_a_pooler_is_told_trained_exactly_if_training_went_through_it():
    tokens = torch.randn(6, 25, WIDTH, generator=torch.Generator().manual_seed(0))
    for output, untrained in (("last_hidden_state", True), ("pooler_output", False)):
        encoder = bert(pooler=True).train()
        assert looks_untrained(encoder.pooler.dense.weight.data, encoder.pooler.dense.bias.data)
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=4e-4, weight_decay=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            encoder(inputs_embeds=tokens)[output].square().sum().backward()
            optimizer.step()
        pooler = encoder.pooler.dense
        assert looks_untrained(pooler.weight.data, pooler.bias.data) is untrained


@pytest.mark.parametrize(
    "changes",
    [
        {"bert.pooler.dense.bias": torch.full((WIDTH,), 1e-6)},
        {"bert.pooler.dense.weight": torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1)) * 0.03},
        {"bert.pooler.dense.weight": torch.full((WIDTH, WIDTH), 0.02)},
    ],
)
def test_a_trained_pooler_is_read_at_the_token_that_berts_pooler_takes(write, native, parts, pixels, changes):
    encoder = bert(pooler=True)
    imported = import_spider(write(encoder=dict(encoder.state_dict()), changes=changes))
    assert (imported.model.config.head_pooler, imported.model.config.head_readout) == (True, "first")
    assert "The class is read through BERT's pooler, which is trained, at the first token" in imported.report()
    encoder.load_state_dict({n.removeprefix("bert."): t for n, t in changes.items()}, strict=False)
    embeddings = torch.stack([forward(native, region, HEADS)[:, 0] for region in pixels])
    projection, classifier = (parts[part] for part in ("projection", "classifier"))
    with torch.no_grad():
        tokens = embeddings @ projection["weight"].double().T + projection["bias"]
        pooled = encoder.double()(inputs_embeds=tokens).pooler_output
    expected = pooled @ classifier["weight"].double().T + classifier["bias"]
    with torch.no_grad():
        assert (imported.model(pixel_values=pixels).logits.double() - expected).abs().max() < 1e-5


def test_what_no_forward_pass_reads_may_be_there_or_not(write, native, parts, pixels):
    expected = expected_logits(native, parts, pixels)
    plain = import_spider(write())
    assert any("bert.embeddings.word_embeddings.weight" in note for note in plain.notes)
    others = {
        "bert.embeddings.word_embeddings.weight": None,
        "bert.embeddings.position_ids": torch.arange(25)[None],
        "feature_extractor.embeddings.mask_token": None,
    }
    assert_same_logits(import_spider(write(changes=others)), expected, pixels)
    more_words = {"bert.embeddings.word_embeddings.weight": torch.ones(30, WIDTH)}
    assert_same_logits(import_spider(write(changes=more_words)), expected, pixels)


@pytest.mark.parametrize("rows", [1, 3])
def test_of_token_types_only_the_first_is_read(write, native, parts, pixels, rows):
    name = "bert.embeddings.token_type_embeddings.weight"
    table = torch.cat([parts["encoder"][name.removeprefix("bert.")][:1], torch.ones(rows - 1, WIDTH)])
    imported = import_spider(write(changes={name: table}))
    said = "All patches are of token type 0, although rows 1, 2 look trained too."
    assert (said in imported.report()) == (rows == 3)
    assert_same_logits(imported, expected_logits(native, parts, pixels), pixels)


def test_a_projection_without_bias_gets_a_bias_of_zero(write, native, parts, pixels):
    imported = import_spider(write(changes={"projector.bias": None}))
    assert "projector has no bias: projection.bias is 0." in imported.notes
    unbiased = {**parts, "projection": {**parts["projection"], "bias": torch.zeros(WIDTH)}}
    assert_same_logits(imported, expected_logits(native, unbiased, pixels), pixels)


def test_heads_are_taken_from_the_sources_configuration_wherever_they_stand(write, native, parts, pixels):
    config = {
        "class_names": CLASS_NAMES,
        "hidden_size": HIDDEN,
        "num_attention_heads": 4,
        "regions": {"hidden_size": HIDDEN, "patch_size": 224},  # of something else: it has no attention
        "classifier": {"bert_config": {"hidden_size": WIDTH, "num_attention_heads": 3, "hidden_act": "gelu"}},
    }
    imported = import_spider(write(config=config))
    assert imported.model.config.head_num_attention_heads == 3
    assert imported.model.config.backbone_config.num_attention_heads == 4
    embeddings = torch.randn(2, 25, WIDTH)
    with torch.no_grad():
        ours = imported.model.context_encoder(inputs_embeds=embeddings).last_hidden_state
        theirs = bert(num_attention_heads=3)(inputs_embeds=embeddings).last_hidden_state
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    assert "attention head" not in imported.report()
    assert "1 attention head, as in the paper" in import_spider(write()).report()


def test_the_report_shows_where_every_part_comes_from_and_what_is_assumed(write):
    report = import_spider(write()).report()
    assert "feature_extractor.*" in report
    assert "Transformers 4 names" in report
    for name in bert().state_dict():
        assert name == "embeddings.word_embeddings.weight" or f"context_encoder.{name}" in report
    assert "read at the centre (token 12)" in report
    assert "Colours are normalised as for Hibou" in report


AMBIGUOUS_ENCODER = {f"other.{name}": tensor for name, tensor in bert().state_dict().items()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bert.embeddings.position_embeddings.weight": None}, "nothing is left for the context encoder"),
        (AMBIGUOUS_ENCODER, r"context encoder is ambiguous, candidates are bert\.\*, other\.\*"),
        ({"bert.embeddings.position_embeddings.weight": torch.ones(26, WIDTH)}, r"\(26, 48\), expected a row for each"),
        ({"bert.embeddings.position_embeddings.weight": torch.ones(36, WIDTH)}, r"\(36, 48\), expected a row for each"),
        ({"bert.embeddings.LayerNorm.bias": None}, r"not complete\. missing: bert\.embeddings\.LayerNorm\.bias"),
        (
            {"bert.encoder.layer.0.attention.self.key.bias": torch.ones(47)},
            r"mis-shaped: bert\.encoder\.layer\.0\.attention\.self\.key\.bias \(47,\), expected \(48,\)",
        ),
        ({"bert.encoder.layer.0.intermediate.dense.weight": None}, "the context encoder lacks bert.*intermediate"),
        (
            {"bert.pooler.dense.bias": torch.zeros(WIDTH)},
            r"expected both bert\.pooler\.dense\.weight \(48, 48\) and bert\.pooler",
        ),
        ({"projector.weight": None}, r"nothing is left for the projection, .* of the shape \(48, 128\)"),
        ({"other.weight": torch.ones(WIDTH, HIDDEN)}, "the projection, with .* is ambiguous: other, projector"),
        ({"projector.bias": torch.ones(1)}, r"projector\.bias has the shape \(1,\), expected \(48,\)"),
        ({"classifier.weight": None}, r"nothing is left for the classifier, .* of the shape \(3, 48\)"),
        (
            {"classifier.weight": torch.ones(4, WIDTH)},
            r"for the classifier.*without a place: .*classifier\.weight \(4,",
        ),
        ({"other.weight": torch.ones(3, WIDTH)}, "the classifier, with .* is ambiguous: classifier, other"),
        ({"cls_token": torch.ones(1, 1, WIDTH)}, r"another one.* without a place: cls_token \(1, 1, 48\)\.$"),
        ({"norm.weight": torch.ones(HIDDEN)}, r"another one.* without a place: norm\.weight \(128,\)\.$"),
        (
            {"classifier.bias": torch.full((3,), torch.inf)},
            r"classifier\.bias \(torch\.float32\) must hold floats, all of them finite",
        ),
        ({"feature_extractor.layernorm.bias": None}, r"missing: feature_extractor\.layernorm\.bias\.$"),
        ({"feature_extractor.layernorm.bias": torch.ones(5)}, r"mis-shaped: feature_extractor\.layernorm\.bias"),
    ],
)
def test_incomplete_and_ambiguous_checkpoints_are_refused(write, changes, message):
    source = write(changes=changes)
    with pytest.raises(ValueError, match=message) as refusal:
        import_spider(source)
    assert source in str(refusal.value)


def test_two_backbones_are_refused(write, native):
    copy = {f"teacher.{name}": tensor for name, tensor in in_transformers_5_names(native).items()}
    with pytest.raises(
        ValueError, match=r"several DINOv2 backbones, which is ambiguous: feature_extractor\.\*, teacher"
    ):
        import_spider(write(changes=copy))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "spider"}, "expected a list of strings `class_names` in its config.json, got None"),
        ({"class_names": "Fat"}, "expected a list of strings `class_names` .* got 'Fat'"),
        ({"class_names": ["Fat", 2, "Wart"]}, "expected a list of strings `class_names`"),
        ({**CONFIG, "class_names": ["Fat", "Wart"]}, r"nothing is left for the classifier.*\(2, 48\)"),
        ({**CONFIG, "class_names": ["Fat", "Wart", "Fat"]}, "class_names"),
        ({**CONFIG, "a": {"hidden_size": WIDTH, "num_attention_heads": 1, "hidden_act": "relu"}}, "hidden_act 'relu'"),
        (
            {
                "class_names": CLASS_NAMES,
                "a": {"hidden_size": HIDDEN, "num_attention_heads": 2},
                "b": {"hidden_size": HIDDEN, "num_attention_heads": 4},
            },
            "its config.json has num_attention_heads 2 and 4 for width 128",
        ),
    ],
)
def test_a_configuration_that_cannot_be_expressed_is_refused(write, config, message):
    with pytest.raises(ValueError, match=message):
        import_spider(write(config=config))


def test_damaged_shards_are_refused(write, tmp_path):
    source = write(shards=3)
    shard = tmp_path / "published" / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"model-00002-of-00003\.safetensors is damaged"):
        import_spider(source)
    shard.unlink()
    with pytest.raises(ValueError, match=r"names model-00002-of-00003\.safetensors, which is not beside it"):
        import_spider(source)


LOAD_BARE = """
import sys
import numpy as np
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
output = model(**processor(images=np.load(sys.argv[2]), return_tensors="pt"))
np.save(sys.argv[3], output.logits.detach().numpy())
print(output.predicted_class_names[0])
"""


@pytest.mark.slow
def test_the_command_writes_a_repository_that_loads_from_a_bare_copy(write, tmp_path, capsys, native, parts):
    source = write(shards=2)
    preprocessor = {"image_mean": MEAN, "image_std": STD, "do_resize": True, "image_processor_type": "Theirs"}
    (tmp_path / "published" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    for name in ("configuration_spider.py", "modeling_spider.py"):
        (tmp_path / "published" / name).write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')")
    main(parse_args(["import-spider", source, str(tmp_path / "out")]))
    assert capsys.readouterr().out.splitlines()[-1] == f"The model is in {tmp_path / 'out'}"
    assert not (tmp_path / "was-run").exists()

    bare = tmp_path / "bare" / "spider"
    shutil.copytree(tmp_path / "out", bare)
    region = np.random.default_rng(3).integers(0, 256, (5 * SIDE, 5 * SIDE, 3), dtype=np.uint8)
    np.save(tmp_path / "region.npy", region)
    command = [sys.executable, "-c", LOAD_BARE, bare, tmp_path / "region.npy", tmp_path / "logits.npy"]
    done = warm_python.run(command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    patches = []
    for row in range(5):
        for column in range(5):
            patch = region[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] / 255
            patches.append(torch.from_numpy((patch - MEAN) / STD).permute(2, 0, 1))
    expected = expected_logits(native, parts, torch.stack(patches)[None])
    assert np.abs(np.load(tmp_path / "logits.npy") - expected.numpy()).max() < 1e-5
    assert done.stdout.strip() == CLASS_NAMES[expected.argmax()]


def test_nothing_is_written_where_there_are_files_or_the_import_fails(write, tmp_path):
    source = write(changes={"projector.weight": None})
    with pytest.raises(ValueError, match=r"nothing is left for the projection"):
        main(parse_args(["import-spider", source, str(tmp_path / "out")]))
    assert not (tmp_path / "out").exists()
    before = (tmp_path / "published" / "config.json").read_bytes()
    with pytest.raises(FileExistsError, match=r"must be a new or empty folder"):
        main(parse_args(["import-spider", source, source]))
    assert (tmp_path / "published" / "config.json").read_bytes() == before


def test_an_imported_model_can_be_trained_further(write, tmp_path):
    imported = import_spider(write())
    model = imported.model.train()
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    model(patch_embeddings=torch.randn(2, 25, HIDDEN), labels=torch.tensor([0, 2])).loss.backward()
    assert isinstance(model.projection, nn.Linear)
    assert model.projection.weight.grad.any()
    assert model.context_encoder.embeddings.position_embeddings.weight.grad.any()
    save_file(model.state_dict(), tmp_path / "all.safetensors")
    assert load_file(tmp_path / "all.safetensors").keys() == model.state_dict().keys()

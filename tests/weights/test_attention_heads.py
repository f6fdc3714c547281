"""The number of attention heads, which no tensor shows: stated, said, certain, or asked for; never guessed."""

import logging

import pytest
import torch
from independent_dinov2 import forward, in_transformers_4_names, in_transformers_5_names, save_folder
from published_checkpoint import CLASS_NAMES, HIDDEN, checkpoint_parts, joined, native_backbone
from small_backbones import CONFIG, native, save_pth, write_folder

from spider_tools.weights.__main__ import main, parse_args
from spider_tools.weights.dinov2_config import Positions, backbone_config_of, require_known_heads, with_heads
from spider_tools.weights.dinov2_pieces import find_backbone
from spider_tools.weights.import_spider import import_spider
from spider_tools.weights.loading import load_backbone, load_spider

ASKED = r"does not say its number of attention heads.*\(width 128, 2 layers\).*Say it with --backbone_heads"
WITHOUT_HEADS = {name: value for name, value in CONFIG.items() if name != "num_attention_heads"}


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, 21, 21, generator=torch.Generator().manual_seed(5))


def embeddings(backbone, pixels):
    with torch.no_grad():
        return backbone.double()(pixels.double()).pooler_output


@pytest.mark.parametrize("heads", [1, 2, 4, 8, 16, 128])
def test_the_heads_that_are_said_give_what_an_independent_forward_pass_gives(tmp_path, pixels, heads):
    state = native()
    backbone = load_backbone(save_pth(tmp_path, state), heads=heads)
    assert backbone.config.num_attention_heads == heads
    assert (embeddings(backbone, pixels) - forward(state, pixels, heads)[:, 0]).abs().max() < 1e-10


def test_another_number_would_be_a_wrong_embedding_and_no_error(pixels):
    right, wrong = (forward(native(), pixels, heads)[:, 0] for heads in (4, 2))
    assert (right - wrong).norm() / right.norm() > 0.1


@pytest.mark.parametrize("rename", [dict, in_transformers_4_names, in_transformers_5_names])
@pytest.mark.parametrize("wrap", [dict, lambda state: {"teacher": state}])
def test_a_state_dict_of_no_published_shape_is_asked_for_its_heads(tmp_path, rename, wrap):
    with pytest.raises(ValueError, match=ASKED):
        load_backbone(save_pth(tmp_path, wrap(rename(native()))))


@pytest.mark.parametrize("config", [WITHOUT_HEADS, {}, {"model_args": {"num_heads": 2}}])
def test_a_folder_whose_configuration_does_not_state_them_is_asked(tmp_path, pixels, config):
    state = native()
    folder = write_folder(tmp_path / "hibou", in_transformers_4_names(state), config)
    with pytest.raises(ValueError, match=ASKED):
        load_backbone(folder)
    backbone = load_backbone(folder, heads=4)
    assert (embeddings(backbone, pixels) - forward(state, pixels, 4)[:, 0]).abs().max() < 1e-10


def test_stated_heads_are_taken_and_others_refused(tmp_path):
    folder = write_folder(tmp_path / "hibou", in_transformers_4_names(native()), {**CONFIG, "num_attention_heads": 4})
    for said in (None, 4):
        assert load_backbone(folder, heads=said).config.num_attention_heads == 4
    with pytest.raises(ValueError, match=r"hibou states 4 attention heads, --backbone_heads is 2"):
        load_backbone(folder, heads=2)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (3, r"hidden_size \(128\) is no multiple of num_attention_heads \(3\)"),
        (256, "no multiple of num_attention_heads"),
        (0, "num_attention_heads must be a positive integer, got 0"),
        (-2, "num_attention_heads must be a positive integer, got -2"),
        (2.0, "num_attention_heads must be a positive integer, got 2.0"),
        ("2", "num_attention_heads must be a positive integer, got '2'"),
        (True, "num_attention_heads must be a positive integer, got True"),
    ],
)
def test_heads_that_cannot_be_are_refused(tmp_path, heads, message):
    with pytest.raises(ValueError, match=message):
        load_backbone(save_pth(tmp_path, native()), heads=heads)


# --- Published shapes


def on_meta(config=None, **sizes):
    """Configuration and heads of a bare state dict of some shape, whose tensors take no memory."""
    fields = {"hidden": 768, "layers": 12, "token": 14, "grid": 16, "registers": 4, "swiglu": False, **sizes}
    fields.setdefault("width", 4 * fields["hidden"])
    hidden, token = fields["hidden"], fields["token"]
    with torch.device("meta"):
        state = {
            "cls_token": torch.empty(1, 1, hidden),
            "pos_embed": torch.empty(1, 1 + fields["grid"] ** 2, hidden),
            "patch_embed.proj.weight": torch.empty(hidden, 3, token, token),
        }
        for number in range(fields["layers"]):
            name, rows = ("w12", 2 * fields["width"]) if fields["swiglu"] else ("fc1", fields["width"])
            state[f"blocks.{number}.mlp.{name}.weight"] = torch.empty(rows, hidden)
            state[f"blocks.{number}.attn.qkv.weight"] = torch.empty(3 * hidden, hidden)
        if fields["registers"]:
            state["register_tokens"] = torch.empty(1, fields["registers"], hidden)
    made = backbone_config_of(find_backbone("some.pth", state), config or {}, Positions())
    require_known_heads("some.pth", config or {}, made)
    return made


PUBLISHED = [
    # From the papers and configurations of DINOv2 (S, B, L, g) and Hibou (B, L).
    ({"hidden": 384, "layers": 12, "grid": 37, "registers": 0}, 6),
    ({"hidden": 768, "layers": 12, "grid": 37, "registers": 0}, 12),
    ({"hidden": 1024, "layers": 24, "grid": 37, "registers": 4}, 16),
    ({"hidden": 1536, "layers": 40, "grid": 37, "swiglu": True, "width": 4096}, 24),
    ({"hidden": 768, "layers": 12, "swiglu": True, "width": 2048}, 12),
    ({"hidden": 1024, "layers": 24, "swiglu": True, "width": 2736}, 16),
]


@pytest.mark.parametrize(("sizes", "heads"), PUBLISHED)
def test_a_bare_state_dict_of_a_published_shape_has_the_published_heads_and_says_so(sizes, heads, caplog):
    with caplog.at_level(logging.INFO, logger="spider_tools"):
        assert on_meta(**sizes).num_attention_heads == heads
    assert f"some.pth does not say its number of attention heads: taking {heads}, as the published" in caplog.text


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden": 768, "layers": 8},
        {"hidden": 1280, "layers": 32},  # Virchow has 16 heads of 80 values
        {"hidden": 384, "layers": 14},
        {"hidden": 1024, "layers": 12},
        {"hidden": 768, "layers": 12, "token": 16},
        {"hidden": 768, "layers": 12, "width": 2 * 768},
        {"hidden": 192, "layers": 12},
    ],
)
def test_a_shape_that_differs_in_anything_is_asked_for_its_heads(sizes):
    with pytest.raises(ValueError, match="Say it with --backbone_heads"):
        on_meta(**sizes)


@pytest.mark.parametrize("config", [{"model_type": "dinov2"}, {"model_type": "dinov2", "hidden_size": 384}])
def test_what_a_configuration_leaves_out_is_not_taken_from_a_published_shape(config):
    # Transformers itself would give this one 12 heads, the default of its class; the published one has 6.
    with pytest.raises(ValueError, match="Say it with --backbone_heads"):
        on_meta(config, hidden=384)
    assert on_meta(with_heads("some.pth", config, 12), hidden=384).num_attention_heads == 12


# --- The command


@pytest.fixture
def published(tmp_path):
    """`published(backbone)`: the path of a checkpoint whose configuration says this of its backbone."""

    def write(**backbone):
        config = {"class_names": CLASS_NAMES, "backbone": {"hidden_size": HIDDEN, **backbone}}
        tensors = {name: tensor.clone() for name, tensor in joined(checkpoint_parts(native_backbone())).items()}
        return save_folder(tmp_path / "published", tensors, config)

    return write


def test_an_import_asks_for_heads_and_takes_the_flag(published, tmp_path, pixels, capsys):
    words = ["import-spider", published(), str(tmp_path / "out")]
    with pytest.raises(ValueError, match=ASKED):
        main(parse_args(words))
    with pytest.raises(ValueError, match=r"hidden_size \(128\) is no multiple of num_attention_heads \(5\)"):
        main(parse_args([*words, "--backbone_heads=5"]))
    assert not (tmp_path / "out").exists()
    main(parse_args([*words, "--backbone_heads=4"]))
    assert "- Said with --backbone_heads: 4 attention heads in the backbone." in capsys.readouterr().out
    model = load_spider(str(tmp_path / "out"))
    expected = forward(native_backbone(), pixels, 4)[:, 0]
    assert (embeddings(model.backbone, pixels) - expected).abs().max() < 1e-10


def test_an_import_takes_stated_heads_without_a_note_and_refuses_others(published):
    source = published(num_attention_heads=2)
    for said in (None, 2):
        imported = import_spider(source, backbone_heads=said)
        assert imported.model.config.backbone_config.num_attention_heads == 2
        assert "in the backbone" not in imported.report()
    with pytest.raises(ValueError, match="states 2 attention heads, --backbone_heads is 4"):
        import_spider(source, backbone_heads=4)


@pytest.mark.parametrize("word", ["many", "2.5", ""])
def test_a_flag_that_is_no_number_is_refused(word, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_args(["import-spider", "source", "out", f"--backbone_heads={word}"])
    assert stopped.value.code == 2
    assert f"argument --backbone_heads: invalid int value: {word!r}" in capsys.readouterr().err

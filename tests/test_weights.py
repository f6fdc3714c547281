"""Backbones from elsewhere: held against an independent forward pass, and every way in which a source can be wrong."""

import copy
import json
import logging
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from independent_dinov2 import (
    forward,
    in_transformers_4_names,
    in_transformers_5_names,
    random_state_dict,
    save_folder,
)
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from spider_tools import paper_results, remote_code
from spider_tools.weights.__main__ import main
from spider_tools.weights.loading import load_backbone, load_spider

HEADS = 2
SIZES = {"hidden": 128, "layers": 2, "token": 7, "grid": 3, "registers": 4, "swiglu": True, "width": 344}
CONFIG = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "image_size": 21,
    "patch_size": 7,
    "num_register_tokens": 4,
    "use_swiglu_ffn": True,
    "model_type": "dinov2_with_registers",
}


def native(**changes):
    return random_state_dict(**{**SIZES, **changes})


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, 21, 21, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def saved(tmp_path):
    """`saved(content, name)`: the path of a torch.save file."""

    def save(content, name="hibou.pth"):
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    return save


def write_folder(folder, tensors, config=CONFIG, shards=1):
    return save_folder(folder, tensors, config, shards)


def assert_same_function(backbone, state, pixels, heads=HEADS):
    expected = forward(state, pixels, heads)
    assert expected.std() > 0.5
    # float64 tells rounding from a slightly wrong function.
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        with torch.no_grad():
            output = copy.deepcopy(backbone).to(dtype)(pixels.to(dtype))
        assert (output.last_hidden_state.double() - expected).abs().max() < tolerance
        assert (output.pooler_output.double() - expected[:, 0]).abs().max() < tolerance


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize(("swiglu", "width"), [(True, 344), (False, 512)])
def test_native_weights_give_what_an_independent_forward_pass_gives(saved, pixels, registers, swiglu, width):
    state = native(registers=registers, swiglu=swiglu, width=width)
    backbone = load_backbone(saved(state))
    assert isinstance(backbone, Dinov2WithRegistersModel)
    assert not backbone.training
    assert backbone.config.num_register_tokens == registers
    assert_same_function(backbone, state, pixels)


@pytest.mark.parametrize("rename", [in_transformers_4_names, in_transformers_5_names])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_in_transformers_format_gives_the_same_function(tmp_path, pixels, rename, shards):
    state = native()
    backbone = load_backbone(write_folder(tmp_path / "hibou", rename(state), shards=shards))
    assert_same_function(backbone, state, pixels)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.encoder.backbone."])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 3},
        lambda state: {"ema": {"teacher": state}, "loss": torch.ones(2)},
    ],
)
def test_prefixes_and_wrappers_of_a_state_dict_do_not_matter(saved, pixels, prefix, wrap):
    state = native()
    backbone = load_backbone(saved(wrap({prefix + name: tensor for name, tensor in state.items()})))
    assert_same_function(backbone, state, pixels)


def test_a_folder_that_holds_only_a_pth_file_is_read(saved, pixels):
    state = native()
    folder = saved(state).removesuffix("/hibou.pth")
    assert_same_function(load_backbone(folder), state, pixels)


def test_what_stock_transformers_saves_comes_back(tmp_path, pixels):
    model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**CONFIG)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        expected = model(pixels).last_hidden_state
        model.save_pretrained(tmp_path)
        backbone = load_backbone(str(tmp_path))
        assert torch.equal(backbone(pixels).last_hidden_state, expected)
    saved = model.state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in backbone.state_dict().items())
    assert backbone.config.to_dict() == Dinov2WithRegistersConfig(**CONFIG).to_dict() | {
        name: backbone.config.to_dict()[name] for name in ("dtype", "torch_dtype") if name in backbone.config.to_dict()
    }


@pytest.mark.parametrize("use_swiglu_ffn", [True, False])
def test_a_dinov2_without_registers_gives_the_outputs_of_its_own_class(tmp_path, pixels, use_swiglu_ffn):
    config = {**CONFIG, "use_swiglu_ffn": use_swiglu_ffn, "model_type": "dinov2", "layer_norm_eps": 1e-3}
    del config["num_register_tokens"]
    model = Dinov2Model(Dinov2Config(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path)
        theirs, ours = model(pixels), load_backbone(str(tmp_path))(pixels)
    assert theirs.pooler_output.std() > 0.1
    torch.testing.assert_close(ours.last_hidden_state, theirs.last_hidden_state, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.pooler_output, theirs.pooler_output, atol=1e-6, rtol=0)


def test_code_of_a_remote_code_repository_is_not_run(tmp_path, pixels):
    # As histai/hibou-L has it: its own code, and a model type that does not say that there are registers.
    auto_map = {"AutoConfig": "configuration_dinov2.Dinov2Config", "AutoModel": "modeling_dinov2.Dinov2Model"}
    config = {**CONFIG, "model_type": "dinov2", "auto_map": auto_map}
    del config["num_register_tokens"]
    state = native()
    folder = write_folder(tmp_path / "hibou", in_transformers_4_names(state), config)
    for name in ("configuration_dinov2", "modeling_dinov2"):
        (tmp_path / "hibou" / f"{name}.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')")
    backbone = load_backbone(folder)
    assert backbone.config.num_register_tokens == 4
    assert_same_function(backbone, state, pixels)
    assert not (tmp_path / "was-run").exists()


def test_the_sizes_of_hibou_b_are_recognised_from_its_tensors(saved):
    state = native(hidden=768, layers=12, token=14, grid=16, width=2048)
    config = load_backbone(saved(state)).config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 12, 12)
    assert (config.image_size, config.patch_size, config.num_register_tokens) == (224, 14, 4)
    assert (config.use_swiglu_ffn, config.mlp_ratio, config.qkv_bias) == (True, 4, True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sources_come_in_as_float32(tmp_path, dtype):
    state = {name: tensor.to(dtype) for name, tensor in in_transformers_4_names(native()).items()}
    backbone = load_backbone(write_folder(tmp_path / "half", state))
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    assert torch.equal(backbone.embeddings.cls_token, state["embeddings.cls_token"].float())


def test_no_parameter_is_a_view_of_a_larger_storage(tmp_path):
    backbone = load_backbone(write_folder(tmp_path / "hibou", in_transformers_4_names(native())))
    for name, parameter in backbone.named_parameters():
        assert parameter.untyped_storage().nbytes() == parameter.nbytes, name


def test_an_absent_mask_token_is_zero_and_changes_no_embedding(saved, pixels):
    state = native()
    del state["mask_token"]
    backbone = load_backbone(saved(state))
    assert not backbone.embeddings.mask_token.any()
    assert_same_function(backbone, state, pixels)


def test_layers_without_query_key_and_value_bias_are_recognised(saved, pixels):
    state = {name: tensor for name, tensor in native().items() if not name.endswith("qkv.bias")}
    backbone = load_backbone(saved(state))
    assert backbone.config.qkv_bias is False
    zeros = {f"blocks.{number}.attn.qkv.bias": torch.zeros(384) for number in range(2)}
    assert_same_function(backbone, state | zeros, pixels)


def without(*names):
    return lambda state: {name: tensor for name, tensor in state.items() if name not in names}


def changed(name, tensor):
    return lambda state: state | {name: tensor}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("blocks.1.attn.qkv.weight"), "missing: blocks.1.attn.qkv.weight.$"),
        (without("cls_token", "norm.bias"), "missing: cls_token, norm.bias.$"),
        (without("pos_embed"), "missing: pos_embed"),
        (without("blocks.0.ls1.gamma"), "missing: blocks.0.ls1.gamma.$"),
        (without("blocks.1.attn.qkv.bias"), "missing: blocks.1.attn.qkv.bias.$"),
        (changed("head.weight", torch.ones(3)), "unused: head.weight.$"),
        (changed("blocks.0.attn.gate", torch.ones(3)), "unused: blocks.0.attn.gate.$"),
        (changed("blocks.00.norm1.weight", torch.ones(128)), "unused: blocks.00.norm1.weight.$"),
        (changed("blocks.1.mlp.fc1.bias", torch.ones(3)), "unused: blocks.1.mlp.fc1.bias.$"),
        (changed("norm.bias", torch.ones(127)), r"mis-shaped: norm.bias .*\(127,\), expected \(128,\).$"),
        (
            changed("blocks.1.attn.qkv.weight", torch.ones(385, 128)),
            r"mis-shaped: blocks.1.attn.qkv.weight \(385, 128\), expected 3 equal parts.$",
        ),
        (
            changed("blocks.1.attn.qkv.weight", torch.ones(387, 128)),
            r"mis-shaped: blocks.1.attn.qkv.weight .*k_proj.weight\) \(129, 128\), expected \(128, 128\)",
        ),
        (changed("register_tokens", torch.ones(1, 4, 64)), r"register_tokens .*\(1, 4, 64\), expected \(1, 4, 128\)"),
        (changed("register_tokens", torch.ones(4)), r"mis-shaped: register_tokens \(4,\), expected 3 axes"),
        (changed("pos_embed", torch.ones(1, 9, 128)), r"pos_embed .*\(1, 9, 128\), expected \(1, 5, 128\)"),
        (changed("norm.bias", torch.ones(128, dtype=torch.int8)), "not of floating point: norm.bias torch.int8"),
        (changed("norm.bias", torch.full((128,), torch.nan)), "not finite: norm.bias"),
        (changed("patch_embed.proj.weight", torch.ones(128, 3, 7)), "expected 4 axes"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_by_name(saved, change, message):
    with pytest.raises(ValueError, match=message):
        load_backbone(saved(change(native())))


def test_missing_unused_and_mis_shaped_names_are_listed_together(tmp_path):
    tensors = in_transformers_4_names(native())
    del tensors["encoder.layer.1.mlp.weights_in.bias"]
    tensors["classifier.weight"] = torch.ones(2, 128)
    tensors["layernorm.weight"] = torch.ones(5)
    with pytest.raises(
        ValueError,
        match=r"missing: enc.*1.mlp.weights_in.bias; unused: classifier.weight; mis-shaped: layernorm.weight .*",
    ):
        load_backbone(write_folder(tmp_path / "hibou", tensors))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_hidden_layers": 3}, "missing: encoder.layer.2.attention.attention.key.bias"),
        ({"num_register_tokens": 5}, r"embeddings.register_tokens .*\(1, 4, 128\), expected \(1, 5, 128\)"),
        ({"hidden_size": 64}, "mis-shaped: "),
        ({"num_attention_heads": 3}, r"hidden_size \(128\) is no multiple of num_attention_heads \(3\)"),
        ({"use_swiglu_ffn": False}, "missing: encoder.layer.0.mlp.fc1.bias, .*unused: .*0.mlp.weights_in"),
        ({"patch_size": [7, 8]}, r"patch_size must be one positive number of px, or that twice, got \[7, 8\]"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers must be a positive integer, got '2'"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a positive integer, got 0"),
        ({"mlp_ratio": 2.5}, "mlp_ratio must be a positive integer, got 2.5"),
        ({"hidden_act": "sinus"}, "hidden_act 'sinus' is no activation of Transformers"),
        ({"image_size": 20}, "images of 20 px cannot be cut into tokens of 7 px"),
        ({"model_type": "vit"}, "a model of type 'vit', expected dinov2 or dinov2_with_registers"),
    ],
)
def test_a_configuration_that_contradicts_the_tensors_is_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        load_backbone(write_folder(tmp_path / "hibou", in_transformers_4_names(native()), {**CONFIG, **fields}))


def test_position_embeddings_of_another_grid_are_refused_unless_interpolation_is_asked_for(saved):
    with pytest.raises(ValueError, match=r"grid of 3x3 tokens; images of 35 px need 5x5.*\(interpolate_positions\)"):
        load_backbone(saved(native()), patch_size=35)
    with pytest.raises(ValueError, match="images of 36 px cannot be cut into tokens of 7 px"):
        load_backbone(saved(native()), patch_size=36, interpolate_positions=True)
    assert load_backbone(saved(native()), patch_size=21).config.image_size == 21


@pytest.mark.parametrize(
    ("model_class", "config_class"),
    [(Dinov2Model, Dinov2Config), (Dinov2WithRegistersModel, Dinov2WithRegistersConfig)],
)
@pytest.mark.parametrize("size", [14, 35])
def test_interpolated_positions_embed_other_sizes_as_the_original_class_does(tmp_path, model_class, config_class, size):
    config = {name: value for name, value in CONFIG.items() if name not in ("model_type", "num_register_tokens")}
    model = model_class(config_class(**config)).eval()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        model.embeddings.position_embeddings.normal_()
        model.save_pretrained(tmp_path)
        backbone = load_backbone(str(tmp_path), patch_size=size, interpolate_positions=True)
        assert backbone.config.image_size == size
        assert backbone.embeddings.position_embeddings.shape == (1, 1 + (size // 7) ** 2, 128)
        expected = model(images).last_hidden_state
        torch.testing.assert_close(backbone(images).last_hidden_state, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"teacher": native(), "student": native(seed=1)}, r"several models: \['student'\], \['teacher'\]"),
        (
            {f"{role}.{name}": tensor for role in ("student", "teacher") for name, tensor in native().items()},
            r"several DINOv2 backbones, which is ambiguous: student.\*, teacher.\*",
        ),
        ({"conv.weight": torch.ones(2)}, "no DINOv2 backbone: expected names such as .*, got conv.weight"),
        ({"a": {"x": torch.ones(2)}, "b": {"x": torch.ones(2)}}, r"no state dict of a model .*, got \['a'\], \['b'\]"),
        ([torch.ones(2)], "no state dict of a model that is known here, got list"),
        ({}, "no state dict of a model that is known here, got dict"),
    ],
)
def test_a_file_without_exactly_one_backbone_is_refused(saved, content, message):
    with pytest.raises(ValueError, match=message):
        load_backbone(saved(content))


class RunsCode:
    def __reduce__(self):
        return (print, ("was run",))


def test_a_pickle_that_would_run_code_is_refused(saved, capsys):
    with pytest.raises(ValueError, match="holds more than tensors, which is refused"):
        load_backbone(saved(native() | {"extra": RunsCode()}))
    assert "was run" not in capsys.readouterr().out


@pytest.mark.parametrize("cut", [0, 4, 1000, -100])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_damaged_files_are_refused(tmp_path, saved, kind, cut):
    path = tmp_path / f"weights.{kind}"
    if kind == "pth":
        saved(native(), path.name)
    else:
        save_file(native(), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=rf"weights.{kind} is damaged"):
        load_backbone(str(path))


def test_shards_that_disagree_with_their_index_are_refused(tmp_path):
    folder = write_folder(tmp_path / "hibou", in_transformers_4_names(native()), shards=2)
    index = tmp_path / "hibou" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    shard = tmp_path / "hibou" / "model-00002-of-00002.safetensors"

    def refused(message, **weight_map):
        index.write_text(json.dumps({"weight_map": content["weight_map"] | weight_map}))
        with pytest.raises(ValueError, match=message):
            load_backbone(folder)

    refused("disagree about which tensors it holds: extra", extra=shard.name)
    refused("expected the name of a safetensors file beside it", extra="../model.safetensors")
    refused("expected the name of a safetensors file beside it", extra=3)
    shard.unlink()
    refused("names model-00002-of-00002.safetensors, which is not beside it")
    index.write_text("[]")
    with pytest.raises(ValueError, match="must hold an object, got list"):
        load_backbone(folder)
    index.write_text("{}")
    with pytest.raises(ValueError, match="has no weight_map"):
        load_backbone(folder)
    index.write_text("{")
    with pytest.raises(ValueError, match=r"index.json is not valid JSON"):
        load_backbone(folder)


def test_a_folder_that_leaves_the_choice_open_is_refused(tmp_path, saved):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"one safetensors model or one of .*, got none"):
        load_backbone(str(empty))
    saved(native(), "a.pth")
    saved(native(), "b.pt")
    with pytest.raises(ValueError, match=r"got a.pth, b.pt"):
        load_backbone(str(tmp_path))
    folder = write_folder(tmp_path / "hibou", in_transformers_4_names(native()), shards=2)
    save_file(native(), tmp_path / "hibou" / "model.safetensors")
    with pytest.raises(ValueError, match=r"several models: model.safetensors.index.json, model.safetensors"):
        load_backbone(folder)
    with pytest.raises(ValueError, match=r"Expected a file \*.safetensors or .*, got .*config.json"):
        load_backbone(f"{folder}/config.json")


def test_a_source_that_is_nowhere_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a file, nor a folder, nor a Hub id"):
        load_backbone(str(tmp_path / "absent"))
    with pytest.raises(ConnectionError, match="'org/absent' is no file or folder here, the Hub cannot be reached"):
        load_backbone("org/absent")


class SmallHub(BaseHTTPRequestHandler):
    """Answers as the Hub does for gated, missing and broken repositories, and serves the two in `FILES`."""

    FILES = {
        "open/hibou": ["README.md", "config.json", "model.safetensors", "modeling_dinov2.py", "pytorch_model.bin"],
        "open/native": ["config.json", "hibou.pth", "modeling_dinov2.py", "old/hibou.pth"],
    }

    def do_GET(self):
        repository = "/".join(self.path.removeprefix("/api/models").split("/")[1:3])
        if repository.startswith("gated/"):
            self.answer(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "restricted"})
        elif repository.startswith("broken/"):
            self.answer(418, b"", {})
        elif repository not in self.FILES:
            self.answer(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif "/resolve/" in self.path:
            self.answer(200, b"content", {"ETag": '"1"', "X-Repo-Commit": "a" * 40})
        else:
            names = self.FILES[repository]
            tree = [{"type": "file", "path": name, "size": 7, "oid": "0" * 40} for name in names]
            info = {"id": repository, "sha": "a" * 40, "siblings": [{"rfilename": name} for name in names]}
            content = json.dumps(tree if "/tree/" in self.path else info).encode()
            self.answer(200, content, {"Content-Type": "application/json"})

    def do_HEAD(self):
        self.do_GET()

    def answer(self, status, content, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


ASK_THE_HUB = """
import sys
from spider_tools.weight_sources import locate
for source in sys.argv[1:]:
    try:
        print(sorted(path.name for path in locate(source).iterdir()))
    except OSError as error:
        print(type(error).__name__, type(error.__cause__).__name__, error)
"""


@pytest.fixture
def ask_hub(tmp_path):
    """`ask_hub(*sources)`: what `locate` says about Hub ids, a line each, with the real client in its own process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), SmallHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def ask(*sources, endpoint=f"http://127.0.0.1:{server.server_port}"):
        environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
        command = [sys.executable, "-c", ASK_THE_HUB, *sources]
        done = subprocess.run(
            command, env=environment, cwd=remote_code.REPOSITORY_ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    yield ask
    server.shutdown()
    server.server_close()


def test_hub_ids_are_downloaded_without_code_and_refusals_say_what_to_do(ask_hub):
    answers = ask_hub("open/hibou", "open/native", "gated/hibou", "org/absent", "broken/hibou")
    hibou, native_only, gated, missing, broken = answers
    assert hibou == "['config.json', 'model.safetensors']"
    assert native_only == "['config.json', 'hibou.pth']"
    assert gated.startswith("PermissionError GatedRepoError gated/hibou is gated: ask for access on http://127.0.0.1")
    assert "HF_TOKEN" in gated
    assert missing.startswith("FileNotFoundError RepositoryNotFoundError 'org/absent' is no file or folder here, and")
    assert broken.startswith("ConnectionError LocalEntryNotFoundError 'broken/hibou' is no file or folder here")
    assert "418" in broken


def test_a_hub_that_does_not_answer_is_explained(ask_hub):
    (unreachable,) = ask_hub("org/absent", endpoint="http://127.0.0.1:9")
    assert unreachable.startswith("ConnectionError LocalEntryNotFoundError 'org/absent' is no file or folder here, the")


def test_a_model_of_this_project_is_loaded_whole(model_folder, make_model):
    loaded = load_spider(str(model_folder))
    expected = make_model().state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_a_model_with_missing_or_other_weights_is_refused(tmp_path, model_folder):
    for path in model_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights["extra.weight"] = weights.pop("projection.weight")
    weights["classifier.bias"] = torch.zeros(9)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: projection.weight; unused: extra.weight; mis-shaped: .*classifier"):
        load_spider(str(tmp_path))


def test_a_published_checkpoint_has_to_be_imported_first(tmp_path):
    folder = write_folder(tmp_path / "skin", in_transformers_4_names(native()), {"class_names": ["Fat", "Nerves"]})
    with pytest.raises(ValueError, match=r"no SPIDER model of this project.*weights import-spider SOURCE OUT"):
        load_spider(folder)


@pytest.mark.parametrize("organ", ["skin", "colorectal", "thorax", "breast"])
def test_new_writes_a_repository_without_weights(tmp_path, capsys, organ):
    main(["new", "--organ", organ, str(tmp_path / organ)])
    assert f"Configurations of the {organ} model" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / organ).iterdir()}
    code = {f"{name}_spider.py" for name in ("configuration", "image_processor", "modeling", "processing")}
    assert names == code | {"config.json", "preprocessor_config.json", "processor_config.json"}
    config = json.loads((tmp_path / organ / "config.json").read_text())
    assert config["class_names"] == paper_results.class_names(organ)
    assert config["architectures"] == ["SpiderForImageClassification"]


def test_new_writes_for_colorectal_what_this_repository_itself_publishes(tmp_path):
    main(["new", "--organ", "colorectal", str(tmp_path / "new")])
    for name in ("config.json", "preprocessor_config.json", "processor_config.json"):
        written, own = (
            json.loads((folder / name).read_text()) for folder in (tmp_path / "new", remote_code.REPOSITORY_ROOT)
        )
        written.pop("transformers_version", None)
        assert written == own, name


def test_new_refuses_a_folder_with_files(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match=r"FileExistsError: .* must be a new or empty folder"):
        main(["new", "--organ", "skin", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_interpolation_is_logged(saved, caplog):
    with caplog.at_level(logging.INFO, logger="spider_tools"):
        load_backbone(saved(native()), patch_size=35, interpolate_positions=True)
    assert "from 3x3 to 5x5" in caplog.text
    assert "taking 2, of 64 values each" in caplog.text

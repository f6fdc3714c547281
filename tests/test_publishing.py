"""Publishing, with the real client of the Hub against a server of its API: see hub_server.py."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from hub_server import Account, Hub, RefusalError, serve
from huggingface_hub import ModelCard, constants, file_download, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import _http as hub_http

from spider_tools import remote_code
from spider_tools.data.settings import DataSettings
from spider_tools.demo.synthetic import SyntheticSettings, write_dataset
from spider_tools.evaluation.predictions import Predictions
from spider_tools.evaluation.report import write_report
from spider_tools.evaluation.results import ReportContext
from spider_tools.model_folder import save_model_folder
from spider_tools.publishing import load_check
from spider_tools.publishing.__main__ import main
from spider_tools.publishing.checks import model_files
from spider_tools.publishing.model_card import write_model_card
from spider_tools.publishing.publish import publish
from spider_tools.publishing.settings import PublishSettings
from spider_tools.publishing.upload import check_target, upload
from spider_tools.training.run import train
from spider_tools.training.settings import TrainingSettings

ROOT = remote_code.REPOSITORY_ROOT
REPO = "lab/spider-skin"
WRITER, READER, STRANGER = "hf_writer", "hf_reader", "hf_stranger"
SETTINGS = PublishSettings(token=WRITER)
MODEL_FILES = [
    "config.json",
    "configuration_spider.py",
    "image_processor_spider.py",
    "model.safetensors",
    "modeling_spider.py",
    "preprocessor_config.json",
    "processing_spider.py",
    "processor_config.json",
]


@pytest.fixture
def hub(monkeypatch):
    """The server's state; this process's client talks to the server."""
    accounts = {
        WRITER: Account("anna", ("lab",)),
        READER: Account("bert", ("lab",), role="read"),
        STRANGER: Account("carl"),
    }
    hub = Hub(accounts)
    forget_sessions = getattr(hub_http, "reset_sessions", None) or hub_http.close_session
    with serve(hub) as endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for module in (constants, file_download):  # where older and newer clients read it
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        # The client waits up to 8 s between attempts.
        monkeypatch.setattr(hub_http, "time", SimpleNamespace(sleep=lambda seconds: None, time=lambda: 0.0))
        forget_sessions()
        yield hub
        forget_sessions()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_model):
    """A model folder as training and evaluation leave it, with everything around the model that stays at home."""
    folder = tmp_path_factory.mktemp("trained")
    save_model(make_model(), folder)
    checkpoint = folder / "training" / "checkpoints" / "step_00000007"
    checkpoint.mkdir(parents=True)
    for path in (checkpoint / "optimizer.bin", folder / "optimizer.pt", folder / ".env", folder / "notes.txt"):
        path.write_text("HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyzabcdefgh")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "modeling_spider.pyc").write_bytes(b"cache")
    evaluate_at_random(folder / "evaluation", make_model().config.class_names)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A trained model of one's own."""
    return shutil.copytree(trained, tmp_path / "runs" / "first")


def save_model(model, folder):
    model.config.training = {"dataset": "histai/SPIDER-skin", "regions": 40, "settings": {"epochs": 2}}
    save_model_folder(model, remote_code.image_processor_class()(patch_size=model.config.patch_size), folder)


def evaluate_at_random(folder, class_names):
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.ones(len(class_names)), 50)
    labels = rng.integers(0, len(class_names), 50)
    slides = [f"slide {i % 11}" for i in range(50)]
    context = ReportContext(dataset="histai/SPIDER-skin", split="test", model="runs/first", resamples=50)
    write_report(folder, Predictions(probabilities, labels, slides, class_names), context)


def as_shards(folder, make_model):
    """Cut the weights of a folder into many files; gives their names."""
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    make_model().save_pretrained(folder, max_shard_size="8KB")
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert len(shards) > 7  # more than the client sends at once
    return shards


def with_card(folder):
    return model_files(folder) | {"README.md": write_model_card(folder)}


def names(hub, repo_id=REPO, revision="main"):
    return sorted(set(hub.files(repo_id, revision)) - {".gitattributes"})


def commits(hub, repo_id=REPO):
    return [commit.title for commit in hub.repositories[repo_id].commits.values()]


# --- What is uploaded


def test_an_upload_is_one_commit_of_the_model_and_its_card_and_nothing_else(hub, folder):
    files = with_card(folder)
    url = upload(files, REPO, SETTINGS)
    assert names(hub) == sorted([*MODEL_FILES, "README.md"])
    uploaded = hub.files(REPO)
    for name in files:
        assert uploaded[name] == (folder / name).read_bytes()
    assert commits(hub) == ["initial commit", "Upload SPIDER model"]
    assert url == f"{constants.ENDPOINT}/{REPO}/commit/{hub.repositories[REPO].branches['main']}"


def test_the_same_files_again_make_no_commit_and_send_no_weights(hub, folder):
    first = upload(with_card(folder), REPO, SETTINGS)
    sent = hub.count("PUT", "/lfs/")
    again = upload(with_card(folder), REPO, replace(SETTINGS, exist_ok=True))
    assert again == first
    assert hub.count("PUT", "/lfs/") == sent == 1
    assert len(commits(hub)) == 2


def test_a_pinned_revision_keeps_its_files_when_the_model_changes(hub, folder, make_model, tmp_path):
    first = upload(with_card(folder), REPO, SETTINGS).rsplit("/")[-1]
    old = (folder / "model.safetensors").read_bytes()
    save_model(make_model(seed=1), folder)
    second = upload(with_card(folder), REPO, replace(SETTINGS, exist_ok=True)).rsplit("/")[-1]
    new = (folder / "model.safetensors").read_bytes()
    assert old != new
    for revision, expected in ((first, old), (second, new), ("main", new)):
        found = snapshot_download(REPO, revision=revision, cache_dir=tmp_path / "cache")
        assert Path(found, "model.safetensors").read_bytes() == expected
        assert sorted(os.listdir(found)) == sorted([".gitattributes", *MODEL_FILES, "README.md"])
    with pytest.raises(RevisionNotFoundError):
        snapshot_download(REPO, revision="0" * 40, cache_dir=tmp_path / "cache")


def test_weights_and_results_of_an_earlier_model_leave_in_the_same_commit(hub, folder, make_model):
    results = write_model_card(folder, folder / "evaluation").parent
    files = model_files(folder) | {name: results / name for name in ("README.md", "results.json")}
    upload(files, REPO, SETTINGS)
    repository = hub.repositories[REPO]
    present = repository.at("main").files
    repository.add("main", "by hand", {**present, "figure.svg": present["README.md"]})
    shards = as_shards(folder, make_model)
    upload(with_card(folder), REPO, replace(SETTINGS, exist_ok=True))
    expected = {*MODEL_FILES, *shards, "model.safetensors.index.json", "README.md", "figure.svg"}
    assert names(hub) == sorted(expected - {"model.safetensors"})
    assert commits(hub)[2:] == ["by hand", "Upload SPIDER model"]


def test_another_branch_leaves_main_as_it_is(hub, folder):
    url = upload(with_card(folder), REPO, replace(SETTINGS, branch="next/try 1"))
    assert names(hub) == []
    assert names(hub, revision="next/try 1") == sorted([*MODEL_FILES, "README.md"])
    assert url.rsplit("/")[-1] == hub.repositories[REPO].branches["next/try 1"]


def test_a_model_folder_behind_a_link_is_a_model_folder(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert sorted(model_files(tmp_path / "link")) == MODEL_FILES


# --- What is refused, before anything is uploaded


def link_out(folder):
    outside = folder.parent / "secret.json"
    (folder / "config.json").rename(outside)
    (folder / "config.json").symlink_to(outside)


def pickle_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index_of(*shards):
    def write(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(enumerate(shards))}))

    return write


def leave_token(folder):
    with open(folder / "config.json", "a") as file:
        file.write(f'"hf_{"aB3" * 12}"')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "is no folder"),
        (lambda f: (f / "processing_spider.py").unlink(), r"lacks processing_spider\.py"),
        (lambda f: (f / "model.safetensors").unlink(), r"lacks model\.safetensors"),
        (pickle_only, "pickles only, which run code"),
        (lambda f: (f / "model.safetensors.index.json").touch(), "holds both"),
        (index_of("../../.ssh/id_rsa"), "names '../../.ssh/id_rsa', expected files like"),
        (index_of("optimizer.pt"), "names 'optimizer.pt'"),
        (index_of("model-00001-of-00002.safetensors"), "lacks model-00001-of-00002"),
        (lambda f: (index_of()(f), (f / "model.safetensors.index.json").write_text("[]")), "no index of weights"),
        (link_out, "leads out of the folder, to .*secret.json"),
        (leave_token, "looks like an access token"),
    ],
)
def test_folders_that_are_no_safe_complete_model_are_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        model_files(folder)


@pytest.mark.parametrize("repo_id", ["spider", "lab/spider/skin", "lab/sp ider", "lab/-spider", "lab/spider.git", ""])
def test_an_id_that_the_hub_would_not_take_is_refused(repo_id):
    with pytest.raises(ValueError, match="is no repository id"):
        check_target(repo_id, SETTINGS)


def test_without_a_token_the_error_says_how_to_get_one(hub):
    with pytest.raises(PermissionError, match=r"no access token.*role 'write'.*hf auth login"):
        check_target(REPO, PublishSettings())
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "message"), [("hf_nobody", "wrong or has expired.*hf auth login"), (READER, "may only read.*'write'")]
)
def test_a_token_that_cannot_write_anywhere_is_refused_before_the_upload(hub, token, message):
    with pytest.raises(PermissionError, match=message):
        check_target(REPO, PublishSettings(token=token))


@pytest.mark.parametrize("exists", [False, True])
def test_an_account_without_rights_is_told_whom_to_ask(hub, folder, exists):
    if exists:
        upload(with_card(folder), REPO, SETTINGS)
    before = commits(hub) if exists else []
    with pytest.raises(PermissionError, match=r"may not write to lab/spider-skin .*\. Ask lab for the right"):
        upload(model_files(folder), REPO, PublishSettings(token=STRANGER, exist_ok=True))
    assert (commits(hub) if exists else list(hub.repositories)) == before


def test_an_existing_repository_needs_exist_ok(hub, folder):
    upload(with_card(folder), REPO, SETTINGS)
    for refused in (check_target, lambda *target: upload(with_card(folder), *target)):
        with pytest.raises(FileExistsError, match=r"has files already. --exist_ok adds a commit"):
            refused(REPO, SETTINGS)
    assert len(commits(hub)) == 2
    check_target(REPO, replace(SETTINGS, exist_ok=True))


def test_a_target_that_is_refused_is_refused_before_any_work(hub, folder):
    upload(model_files(folder), REPO, SETTINGS)
    with pytest.raises(FileExistsError, match="has files already"):
        publish(folder, REPO, SETTINGS)
    assert not (folder / "README.md").exists()


def test_a_refusal_among_the_large_files_keeps_its_reason(hub, folder):
    def refuse():
        raise RefusalError(403, "Your storage is full")

    weights = (folder / "model.safetensors").read_bytes()
    hub.meanwhile = (f"/lfs/{hashlib.sha256(weights).hexdigest()}", refuse)
    with pytest.raises(PermissionError, match=r"may not write to lab/spider-skin .*Your storage is full"):
        upload(with_card(folder), REPO, SETTINGS)


def test_offline_the_error_names_the_switch(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="unset HF_HUB_OFFLINE"):
        check_target(REPO, SETTINGS)


def test_a_dead_hub_is_a_connection_error(hub):
    hub.dead = True
    with pytest.raises(ConnectionError, match="Run the same command again"):
        check_target(REPO, SETTINGS)


def test_a_change_by_somebody_else_during_the_upload_is_not_overwritten(hub, folder):
    upload(with_card(folder), REPO, SETTINGS)
    files = hub.repositories[REPO].at("main").files
    hub.meanwhile = ("/preupload/", lambda: hub.repositories[REPO].add("main", "theirs", files))
    with open(folder / "config.json", "a") as file:
        file.write("\n")
    with pytest.raises(FileExistsError, match="Somebody else changed"):
        upload(with_card(folder), REPO, replace(SETTINGS, exist_ok=True))
    assert commits(hub)[-1] == "theirs"


# --- Private repositories


def test_a_private_repository_opens_to_its_members_only(hub, folder, tmp_path):
    upload(with_card(folder), REPO, replace(SETTINGS, private=True))
    assert hub.repositories[REPO].private
    for token in (False, STRANGER):
        with pytest.raises(RepositoryNotFoundError):
            snapshot_download(REPO, token=token, cache_dir=tmp_path / str(token))
    found = snapshot_download(REPO, token=READER, cache_dir=tmp_path / "reader")
    assert Path(found, "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_private_weights_do_not_go_to_a_public_repository(hub, folder):
    upload(with_card(folder), REPO, SETTINGS)
    with pytest.raises(ValueError, match="exists and is public"):
        upload(with_card(folder), REPO, replace(SETTINGS, private=True, exist_ok=True))


# --- The server dies


def test_a_server_that_dies_among_the_weights_leaves_nothing_visible_and_a_retry_goes_on(hub, folder, make_model):
    shards = as_shards(folder, make_model)
    files = with_card(folder)
    hub.dies_at = ("PUT", "/lfs/", 1)
    with pytest.raises(ConnectionError, match=r"nothing half-done. Run the same command again"):
        upload(files, REPO, SETTINGS)
    arrived = len(hub.objects)
    assert 1 <= arrived < len(shards)
    assert names(hub) == []
    hub.revive()
    upload(files, REPO, SETTINGS)
    assert names(hub) == sorted(files)
    assert hub.count("PUT", "/lfs/") == len(shards)
    assert commits(hub) == ["initial commit", "Upload SPIDER model"]


def test_a_server_that_dies_in_the_commit_leaves_the_earlier_version_and_a_retry_completes(hub, folder, make_model):
    upload(with_card(folder), REPO, SETTINGS)
    before = hub.files(REPO)
    save_model(make_model(seed=1), folder)
    files = with_card(folder)
    hub.dies_at = ("POST", "/commit/", hub.count("POST", "/commit/"))
    with pytest.raises(ConnectionError, match="nothing half-done"):
        upload(files, REPO, replace(SETTINGS, exist_ok=True))
    assert hub.files(REPO) == before
    hub.revive()
    sent = hub.count("PUT", "/lfs/")
    upload(files, REPO, replace(SETTINGS, exist_ok=True))
    assert hub.files(REPO)["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert hub.count("PUT", "/lfs/") == sent == 2
    assert len(commits(hub)) == 3


# --- The card


def test_the_card_passes_the_hubs_validation_and_a_damaged_one_does_not(hub, folder):
    path = write_model_card(folder, folder / "evaluation", REPO)
    files = model_files(folder) | {"README.md": path}
    upload(files, REPO, SETTINGS)
    assert hub.count("POST", "/api/validate-yaml") == 1
    sound = path.read_text()
    assert "model-index" in sound
    for old, new, message in (
        ("license: cc-by-nc-4.0", "license: spider", "license: 'spider' is unknown"),
        ("      type: histai/SPIDER-skin", "      type: 7", r"model-index: dataset\.type must be a string"),
    ):
        assert sound.count(old) == 1
        path.write_text(sound.replace(old, new))
        with pytest.raises(ValueError, match=message):
            upload(files, REPO, replace(SETTINGS, exist_ok=True))
    assert len(commits(hub)) == 2
    if not huggingface_hub.__version__.startswith("0."):  # that client asks huggingface.co, whatever the endpoint
        ModelCard(sound).validate()
        with pytest.raises(ValueError, match=message):
            ModelCard(path.read_text()).validate()


# --- The load check


def without_a_tensor(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["classifier.bias"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def with_other_classes(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"class_names": ["A", "B", "C"], "id2label": {}, "label2id": {}}
    for key in ("id2label", "label2id"):
        del config[key]
    (folder / "config.json").write_text(json.dumps(config))


def with_nan(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"][2] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def cut_in_half(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_a_tensor, "weights do not fit.*missing_keys: classifier.bias"),
        (with_other_classes, "(?s)mismatch|size"),
        (with_nan, r"Expected finite logits of shape \(1, 4\)"),
        (cut_in_half, "(?i)incomplete|deserializing"),
        (lambda f: (f / "preprocessor_config.json").write_text("{"), "(?i)json"),
    ],
)
def test_a_folder_that_does_not_load_is_found_out(folder, damage, message):
    load_check.check_folder(folder)
    damage(folder)
    with pytest.raises(Exception, match=message):
        load_check.check_folder(folder)


SPY = """
import os
assert "HF_TOKEN" not in os.environ and os.environ["HF_HUB_OFFLINE"] == "1" and "first" not in os.getcwd()
try:
    import spider_tools
except ImportError:
    import socket
    socket.create_connection(("127.0.0.1", 9))
"""


@pytest.mark.slow
def test_code_that_opens_a_connection_is_refused_in_a_process_without_project_tokens_and_settings(
    hub, folder, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with open(folder / "modeling_spider.py", "a") as file:
        file.write(SPY)
    with pytest.raises(ValueError, match=r"(?s)does not load from its files alone.*must not open network connections"):
        publish(folder, REPO, SETTINGS)
    assert not hub.repositories


IMPORT_WATCHED = """
import json, os, sys
import numpy, PIL.Image, torch, transformers
from transformers import AutoModel, AutoProcessor, AutoModelForImageClassification
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers import BertModel, Dinov2WithRegistersModel, ProcessorMixin, BaseImageProcessor

seen = []

def watch(event, arguments):
    if event.startswith("socket."):
        seen.append([event, repr(arguments)])
    elif event == "open" and isinstance(arguments[0], (str, bytes)):
        seen.append([event, os.path.realpath(os.fsdecode(arguments[0]))])

sys.addaudithook(watch)
folder = sys.argv[1]
for name in ("configuration_spider.SpiderConfig", "modeling_spider.SpiderForImageClassification",
             "image_processor_spider.SpiderImageProcessor", "processing_spider.SpiderProcessor"):
    get_class_from_dynamic_module(name, folder)
seen, result = [], seen
print(json.dumps([result, sys.path]))
"""


@pytest.mark.slow
def test_importing_the_remote_code_opens_no_connection_and_no_file_beyond_its_folder(folder, tmp_path):
    environment = clean_environment(tmp_path / "home") | {"HF_HUB_OFFLINE": "1"}
    output = run(["-I", "-c", IMPORT_WATCHED, str(folder)], environment, tmp_path)
    events, packages = json.loads(output.splitlines()[-1])
    opened = [Path(path) for event, path in events if event == "open"]
    assert [event for event in events if event[0] != "open"] == []
    # Transformers copies the code from the folder to its cache and runs it there.
    own = [folder.resolve(), (tmp_path / "home").resolve()]
    assert all(any(path.is_relative_to(place) for path in opened) for place in own)
    places = [Path(path).resolve() for path in packages]
    for path in opened:
        is_code = path.suffix in (".py", ".pyc") and any(path.is_relative_to(place) for place in places)
        assert is_code or any(path.is_relative_to(place) for place in own), path


# --- From end to end, each side in its own process


def clean_environment(home, **more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_", "PYTHON"))}
    return {**kept, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **more}


def run(arguments, environment, cwd):
    done = subprocess.run([sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


PUSH_PLAINLY = """
import sys
from transformers import AutoModel, AutoProcessor
for pair in sys.argv[1:]:
    source, repo_id = pair.split(">")
    AutoModel.from_pretrained(source, trust_remote_code=True).push_to_hub(repo_id, private=True)
    AutoProcessor.from_pretrained(source, trust_remote_code=True).push_to_hub(repo_id, private=True)
"""

LOAD_AS_A_STRANGER = """
import json, sys
import numpy as np
from transformers import AutoModel, AutoModelForImageClassification, AutoProcessor

region = np.load(sys.argv[1])
logits = {}
for auto, repo_id, revision in json.loads(sys.argv[2]):
    auto_class = {"any": AutoModel, "classifier": AutoModelForImageClassification}[auto]
    model = auto_class.from_pretrained(repo_id, revision=revision, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(repo_id, revision=revision, trust_remote_code=True)
    output = model.eval()(**processor(images=region, return_tensors="pt"))
    logits[f"{auto} {repo_id} {revision}"] = [output.logits[0].tolist(), output.predicted_class_names[0]]
try:
    AutoModel.from_pretrained(repo_id, trust_remote_code=True, token=False, cache_dir="another")
except OSError as error:
    logits["without token"] = str(error)
print(json.dumps(logits))
"""


@pytest.mark.slow
def test_a_stranger_loads_what_each_way_of_publishing_leaves(hub, folder, make_model, processor, tmp_path):
    mine = clean_environment(tmp_path / "mine", HF_ENDPOINT=constants.ENDPOINT, HF_TOKEN=WRITER)
    printed = run(["-m", "spider_tools.publishing", str(folder), REPO, "--private"], mine, ROOT)
    first = hub.repositories[REPO].branches["main"]
    assert f"{REPO}/commit/{first}\nPin it: revision='{first}'" in printed
    assert names(hub) == sorted([*MODEL_FILES, "README.md", "confusion_matrix.png", "results.json"])
    card = hub.files(REPO)["README.md"].decode()
    assert "license: cc-by-nc-4.0" in card
    assert f'repository, revision = "{REPO}", "<commit>"' in card
    run(["-c", PUSH_PLAINLY, f"{folder}>lab/plain", f"{REPO}>lab/copy"], mine, tmp_path)
    for pushed in ("lab/plain", "lab/copy"):
        assert set(names(hub, pushed)) == {*MODEL_FILES, "README.md"}
        # A copy must not run the code of the repository that it was loaded from.
        assert not [name for name in names(hub, pushed) if name.endswith(".json") and b"--" in hub.files(pushed)[name]]
    models = {first: make_model(), "main": make_model(seed=1)}
    save_model(models["main"], folder)
    upload(with_card(folder), REPO, replace(SETTINGS, exist_ok=True))

    region = np.random.default_rng(5).integers(0, 256, (140, 140, 3), dtype=np.uint8)
    np.save(tmp_path / "region.npy", region)
    wanted = [
        ("any", REPO, first),
        ("classifier", REPO, "main"),
        ("any", "lab/plain", "main"),
        ("any", "lab/copy", "main"),
    ]
    theirs = clean_environment(tmp_path / "theirs", HF_ENDPOINT=constants.ENDPOINT, HF_TOKEN=READER)
    script = ["-c", LOAD_AS_A_STRANGER, str(tmp_path / "region.npy"), json.dumps(wanted)]
    found = json.loads(run(script, theirs, tmp_path).splitlines()[-1])
    for (auto, repo_id, revision), model in zip(wanted, [models[first], models["main"], models[first], models[first]]):
        with torch.no_grad():
            expected = model(**processor(images=region, return_tensors="pt"))
        logits, name = found[f"{auto} {repo_id} {revision}"]
        np.testing.assert_allclose(logits, expected.logits[0], rtol=0, atol=1e-5)
        assert name == expected.predicted_class_names[0]
    assert "not a valid model identifier" in found["without token"] or "private" in found["without token"]


# --- The command


@pytest.fixture
def training(fresh_accelerator, tmp_path):
    """Settings of a short training run that publishes, and of its data."""
    write_dataset(tmp_path / "tissue", SyntheticSettings(4, 1, lattice=9, patch_size=28, seed=5))
    backbone = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14}
    (tmp_path / "backbone.json").write_text(json.dumps(backbone | {"image_size": 28}))
    settings = TrainingSettings(
        output_dir=tmp_path / "run",
        backbone="random",
        backbone_config=str(tmp_path / "backbone.json"),
        epochs=1,
        num_workers=0,
        mixed_precision="no",
        push_to_hub=True,
        hub_model_id=REPO,
        hub_private=True,
    )
    data = DataSettings(str(tmp_path / "tissue"), cache_dir=tmp_path / "cache", patch_size=28, validation_fraction=0.0)
    return settings, data


@pytest.mark.slow
def test_training_publishes_its_model_and_no_path_of_this_machine(hub, training, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    train(*training)
    assert names(hub) == sorted(["README.md", *MODEL_FILES])
    assert hub.repositories[REPO].private
    for name in ("README.md", "config.json"):
        assert str(training[0].output_dir.parent) not in hub.files(REPO, "main")[name].decode()


def test_training_that_could_not_publish_is_refused_before_it_starts(hub, training, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(PermissionError, match="There is no access token"):
        train(*training)
    assert not training[0].output_dir.exists()
    with pytest.raises(ValueError, match="--push_to_hub needs --hub_model_id"):
        replace(training[0], hub_model_id=None)


def test_results_older_than_the_weights_stay_out_of_the_card(hub, folder, caplog, monkeypatch):
    monkeypatch.setattr("spider_tools.publishing.check_loads", lambda files: None)
    os.utime(folder / "evaluation" / "results.json", (1, 1))
    publish(folder, REPO, SETTINGS)
    assert names(hub) == sorted([*MODEL_FILES, "README.md"])
    assert "is older than the weights" in caplog.text
    publish(folder, REPO, replace(SETTINGS, exist_ok=True, results=folder / "evaluation"))
    assert names(hub) == sorted([*MODEL_FILES, "README.md", "confusion_matrix.png", "results.json"])
    assert hub.files(REPO)["results.json"] == (folder / "evaluation" / "results.json").read_bytes()


def test_the_command_ends_with_the_error_alone(hub, folder):
    with pytest.raises(SystemExit, match=r"^PermissionError: There is no access token") as stopped:
        main([str(folder), REPO])
    assert stopped.value.code != 0


def test_settings_do_not_show_their_token():
    assert WRITER not in repr(SETTINGS)
    assert huggingface_hub.get_token() is None

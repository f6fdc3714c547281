"""The check that a stranger can load a model folder, and strangers who do, each side in its own process."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_client import READER, WRITER
from huggingface_hub import constants
from publishing_folders import MODEL_FILES, REPO, ROOT, SETTINGS, names, save_model, with_card

from spider_tools.publishing import load_check
from spider_tools.publishing.publish import publish
from spider_tools.publishing.upload import upload

pytestmark = pytest.mark.slow


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


def with_other_colours(folder):
    config = json.loads((folder / "config.json").read_text())
    config["image_mean"] = [0.2, 0.3, 0.4]
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_other_colours, r"config\.json and preprocessor_config\.json normalise pixels differently"),
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


@pytest.mark.slow
def test_a_process_that_the_system_kills_is_told_with_the_usual_cause(hub, folder):
    with open(folder / "modeling_spider.py", "a") as file:
        file.write("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with pytest.raises(ValueError, match=r"process was ended by SIGKILL\. Memory is the usual cause"):
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

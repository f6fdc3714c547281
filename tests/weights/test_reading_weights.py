"""Where weights come from: damaged files, folders that leave the choice open, and the Hub's refusals."""

import json
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from independent_dinov2 import in_transformers_4_names
from safetensors.torch import save_file
from small_backbones import native, save_pth, write_folder

from spider_tools.remote_code import REPOSITORY_ROOT
from spider_tools.weights.loading import load_backbone


@pytest.fixture
def saved(tmp_path):
    """`saved(content, name)`: the path of a torch.save file."""
    return partial(save_pth, tmp_path)


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


# --- The Hub


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
from spider_tools.weights.reading import locate
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
        done = subprocess.run(command, env=environment, cwd=REPOSITORY_ROOT, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    yield ask
    server.shutdown()
    server.server_close()


def test_hub_ids_are_downloaded_without_code_and_refusals_say_what_to_do(ask_hub):
    answers = ask_hub("open/hibou", "open/native", "gated/hibou", "org/absent", "broken/hibou")
    hibou, native_only, gated, missing, broken = answers
    assert hibou == "['config.json', 'model.safetensors']"
    assert native_only == "['config.json', 'hibou.pth']"
    assert gated.startswith(
        "PermissionError GatedRepoError The model gated/hibou is gated: ask for access on http://127.0.0.1"
    )
    assert "HF_TOKEN" in gated
    assert missing.startswith("FileNotFoundError RepositoryNotFoundError 'org/absent' is no file or folder here, and")
    assert broken.startswith("ConnectionError LocalEntryNotFoundError 'broken/hibou' is no file or folder here")
    assert "418" in broken


def test_a_hub_that_does_not_answer_is_explained(ask_hub):
    (unreachable,) = ask_hub("org/absent", endpoint="http://127.0.0.1:9")
    assert unreachable.startswith("ConnectionError LocalEntryNotFoundError 'org/absent' is no file or folder here, the")

"""A server of the Hub's API, in memory: as much of it as uploads, downloads and their refusals need.

`with serve(hub) as endpoint:` answers on a port of this machine; `endpoint` is what `HF_ENDPOINT` takes. What it knows
is a `Hub`: see hub_contents.py.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Optional
from urllib.parse import unquote, urlsplit

from hub_contents import Account, Commit, Hub, Repository, StoredFile, card_problems

LARGE_FILE = re.compile(r".*(\.safetensors|\.bin|\.tar\.\d+)")


class RefusalError(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, message: str, code: Optional[str] = None, **more: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.more = status, code, more


@contextmanager
def serve(hub: Hub) -> Iterator[str]:
    """Answer requests in threads of this process while the block runs; gives the endpoint's URL."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


_ID = r"(?P<repo_id>[^/]+/[^/]+)"
_REPO = r"/api/(?P<kind>models|datasets|spaces)/" + _ID
_FILE = r"/((?P<kind>datasets|spaces)/)?" + _ID + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
_ROUTES = (
    ("GET", r"/api/whoami-v2", "who_am_i"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate_card"),
    ("GET", _REPO, "info"),
    ("GET", _REPO + r"/revision/(?P<revision>[^/]+)", "info"),
    ("GET", _REPO + r"/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?", "tree"),
    ("POST", _REPO + r"/branch/(?P<branch>[^/]+)", "create_branch"),
    ("POST", _REPO + r"/preupload/(?P<revision>[^/]+)", "upload_modes"),
    ("POST", _REPO + r"/commit/(?P<branch>[^/]+)", "commit"),
    ("POST", r"/((?P<kind>datasets|spaces)/)?" + _ID + r"\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "put_object"),
    ("GET", _FILE, "resolve"),
    ("HEAD", _FILE, "resolve"),
)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        length = int(self.headers.get("Content-Length") or 0)
        with self.hub.lock:
            if self.hub.dies_at is not None:
                method, part, number = self.hub.dies_at
                like_it = self.command == method and part in path
                self.hub.dead = self.hub.dead or (like_it and self.hub.count(method, part) >= number)
            if self.hub.dead:
                self.rfile.read(length // 2)
                self.close_connection = True
                return
        self.body = self.rfile.read(length)
        try:
            with self.hub.lock:
                if self.hub.meanwhile is not None and self.hub.meanwhile[0] in path:
                    happens, self.hub.meanwhile = self.hub.meanwhile[1], None
                    happens()
                self.hub.requests.append((self.command, path))
                self._route(path)
        except RefusalError as refusal:
            headers = {"X-Error-Message": str(refusal)} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            self.answer({"error": str(refusal), **refusal.more}, refusal.status, headers)

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _route(self, path: str) -> None:
        for method, pattern, name in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == self.command:
                values = {k: v and unquote(v) for k, v in match.groupdict().items()}
                kind = values.pop("kind", None)
                if kind in ("datasets", "spaces"):
                    values["repo_id"] = f"{kind}/{values['repo_id']}"  # no model of the name
                getattr(self, name)(**values)
                return
        raise RefusalError(404, f"No such call: {self.command} {path}")

    def answer(self, content: Any, status: int = 200, headers: Optional[Mapping[str, str]] = None) -> None:
        if self.hub.mute_at is not None and self.hub.mute_at in self.path:
            self.hub.dead = self.close_connection = True
            return
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # --- Who asks, and what for

    @property
    def endpoint(self) -> str:
        return f"http://{self.headers['Host']}"

    def account(self) -> Optional[Account]:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.accounts:
            raise RefusalError(401, "Invalid credentials in Authorization header")
        return self.hub.accounts.get(token)

    def repository(self, repo_id: str) -> Repository:
        account, repository = self.account(), self.hub.repositories.get(repo_id)
        hidden = repository is None or repository.private
        if hidden and account is None:
            raise RefusalError(401, "Invalid username or password.", "RepoNotFound")
        if repository is None or (hidden and repo_id.split("/")[-2] not in account.namespaces):
            raise RefusalError(404, "Repository not found", "RepoNotFound")
        return repository

    def commit_at(self, repo_id: str, revision: str) -> Commit:
        commit = self.repository(repo_id).at(revision)
        if commit is None:
            raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def require_write(self, namespace: str) -> Account:
        account = self.account()
        if account is None:
            raise RefusalError(401, "Invalid username or password.")
        if account.role != "write" or namespace not in account.namespaces:
            raise RefusalError(403, f"You don't have the rights to write to the namespace {namespace}")
        return account

    # --- Calls

    def who_am_i(self) -> None:
        account = self.account()
        if account is None:
            raise RefusalError(401, "Invalid username or password.")
        auth = {"type": "access_token", "accessToken": {"displayName": "tests", "role": account.role}}
        orgs = [{"type": "org", "name": name} for name in account.orgs]
        self.answer({"type": "user", "name": account.name, "orgs": orgs, "auth": auth})

    def create(self) -> None:
        wanted = json.loads(self.body)
        account = self.account()
        namespace = wanted.get("organization") or (account and account.name)
        self.require_write(namespace)
        repo_id = f"{namespace}/{wanted['name']}"
        if wanted.get("type") in ("dataset", "space"):
            repo_id = f"{wanted['type']}s/{repo_id}"
        if repo_id in self.hub.repositories:
            raise RefusalError(409, "You already created this model repo", url=f"{self.endpoint}/{repo_id}")
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        repository = self.hub.repositories[repo_id] = Repository(private)
        first = {".gitattributes": StoredFile(b"*.safetensors filter=lfs\n")}
        if wanted.get("type") == "space":  # which nobody can start without knowing what it is
            first["README.md"] = StoredFile(f"---\nsdk: {wanted['sdk']}\n---\n".encode())
        repository.add("main", "initial commit", first)
        self.answer({"url": f"{self.endpoint}/{repo_id}"})

    def validate_card(self) -> None:
        problems = card_problems(json.loads(self.body)["content"])
        report = {"errors": [{"message": problem} for problem in problems], "warnings": []}
        self.answer(report, 400 if problems else 200)

    def info(self, repo_id: str, revision: Optional[str] = None) -> None:
        commit = self.commit_at(repo_id, revision or "main")
        self.answer(
            {
                "id": repo_id.removeprefix("datasets/").removeprefix("spaces/"),
                "sha": commit.sha,
                "private": self.hub.repositories[repo_id].private,
                "siblings": [{"rfilename": name} for name in commit.files],
            }
        )

    def tree(self, repo_id: str, revision: str, folder: Optional[str] = None) -> None:
        files = self.commit_at(repo_id, revision).files
        if folder is not None and not any(name.startswith(f"{folder}/") for name in files):
            raise RefusalError(404, f"{folder} does not exist", "EntryNotFound")
        entries = []
        for name, file in files.items():
            if folder is None or name.startswith(f"{folder}/"):
                entry = {"type": "file", "path": name, "oid": file.blob_id, "size": len(file.content)}
                pointer = {"oid": file.sha256, "size": len(file.content), "pointerSize": 130}
                entries.append(entry | ({"lfs": pointer} if file.lfs else {}))
        self.answer(entries)

    def create_branch(self, repo_id: str, branch: str) -> None:
        repository = self.repository(repo_id)
        self.require_write(repo_id.split("/")[-2])
        if branch in repository.branches:
            raise RefusalError(409, f"Reference already exists: {branch}")
        repository.branches[branch] = repository.branches["main"]
        self.answer({})

    def upload_modes(self, repo_id: str, revision: str) -> None:
        self.require_write(repo_id.split("/")[-2])
        present = self.commit_at(repo_id, revision).files
        files = []
        for file in json.loads(self.body)["files"]:
            mode = "lfs" if LARGE_FILE.fullmatch(file["path"]) else "regular"
            oid = present[file["path"]].etag if file["path"] in present else None
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer({"files": files})

    def lfs_batch(self, repo_id: str) -> None:
        self.require_write(repo_id.split("/")[-2])
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.objects:
                entry["actions"] = {"upload": {"href": f"{self.endpoint}/lfs/{wanted['oid']}"}}
            objects.append(entry)
        self.answer({"transfer": "basic", "objects": objects})

    def put_object(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise RefusalError(400, "The content does not have this hash")
        self.hub.objects[oid] = self.body
        self.answer({})

    def commit(self, repo_id: str, branch: str) -> None:
        repository = self.repository(repo_id)
        self.require_write(repo_id.split("/")[-2])
        if branch not in repository.branches:
            raise RefusalError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit", repository.branches[branch]) != repository.branches[branch]:
            raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repository.commits[repository.branches[branch]].files)
        for line in lines[1:]:
            self._apply(line["key"], line["value"], files)
        if "README.md" in files and card_problems(files["README.md"].content.decode()):
            raise RefusalError(400, "The metadata of README.md is invalid")
        commit = repository.add(branch, header["summary"], files)
        url = f"{self.endpoint}/{repo_id}/commit/{commit.sha}"
        self.answer({"success": True, "commitOid": commit.sha, "commitUrl": url, "hookOutput": ""})

    def _apply(self, key: str, value: dict[str, Any], files: dict[str, StoredFile]) -> None:
        path = value["path"]
        if key == "file":
            files[path] = StoredFile(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in self.hub.objects:
                raise RefusalError(400, f"The content of {path} was never uploaded")
            files[path] = StoredFile(self.hub.objects[value["oid"]], lfs=True)
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise RefusalError(404, f"{path}: A file with this name doesn't exist", "EntryNotFound")
        else:
            raise RefusalError(400, f"Unknown operation {key}")

    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        commit = self.commit_at(repo_id, revision)
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            error = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self.answer(b"Entry not found", 404, headers | error)
            return
        file = commit.files[path]
        self.answer(file.content, 200, headers | {"ETag": f'"{file.etag}"'})

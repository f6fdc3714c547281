"""What the stand-in for the Hub knows: accounts, repositories, and what it takes for a sound model card."""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import yaml

LICENSES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "other", "unknown")
PIPELINE_TAGS = ("image-classification", "image-segmentation", "image-feature-extraction")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Account:
    """Whom a token belongs to, where it may write, and its role: `"write"` or `"read"`."""

    name: str
    orgs: tuple[str, ...] = ()
    role: str = "write"

    @property
    def namespaces(self):
        return (self.name, *self.orgs)


@dataclass(frozen=True)
class StoredFile:
    content: bytes
    lfs: bool = False

    @property
    def sha256(self):
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self):
        """What git calls the file; for a large file, what it calls the pointer to it."""
        content = self.content
        if self.lfs:
            size = len(content)
            content = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {size}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self):
        return self.sha256 if self.lfs else self.blob_id


@dataclass(frozen=True)
class Commit:
    sha: str
    title: str
    files: Mapping[str, StoredFile]


@dataclass
class Repository:
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def add(self, branch: str, title: str, files: Mapping[str, StoredFile]) -> Commit:
        parts = [self.branches.get(branch, ""), title, *sorted(f"{n} {f.blob_id}" for n, f in files.items())]
        sha = hashlib.sha1("\n".join([str(len(self.commits)), *parts]).encode()).hexdigest()
        self.commits[sha] = Commit(sha, title, dict(files))
        self.branches[branch] = sha
        return self.commits[sha]

    def at(self, revision: str) -> Optional[Commit]:
        return self.commits.get(self.branches.get(revision, revision))


@dataclass
class Hub:
    """Everything that the server knows; it outlives the server's death.

    Attributes:
        accounts: By token.
        requests: Method and path of every request that was answered.
        dies_at: Method, part of a path, number: after so many answers to requests like it, the next one kills the
            server with half of its body read.
        mute_at: Part of a path: requests with it are carried out, and the server dies before it answers one.
        dead: Whether the server drops every connection; False starts it again.
        meanwhile: Part of a path, and what happens once before a request with it is answered.
    """

    accounts: dict[str, Account]
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    dies_at: Optional[tuple[str, str, int]] = None
    mute_at: Optional[str] = None
    dead: bool = False
    meanwhile: Optional[tuple[str, Callable[[], Any]]] = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """What a reader sees of a repository."""
        commit = self.repositories[repo_id].at(revision)
        assert commit is not None
        return {name: file.content for name, file in commit.files.items()}

    def revive(self) -> None:
        """Start the server again, with what it knew when it died."""
        self.dead, self.dies_at, self.mute_at = False, None, None

    def count(self, method: str, part: str) -> int:
        """How many requests with this method and this part of a path were answered."""
        return sum(1 for asked, path in self.requests if asked == method and part in path)


def card_problems(content: str) -> list[str]:
    """What is wrong with a model card's metadata, as the Hub documents it; an empty list for a sound card."""
    block = re.match(r"\s*---\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", content, re.DOTALL)
    if block is None:
        return []  # the Hub takes a card without metadata
    try:
        data = yaml.safe_load(block.group(1))
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    if data is None:
        return []
    if not isinstance(data, dict):
        return ["the metadata must be an object"]
    problems = [f"{key} must not be null" for key, value in data.items() if value is None]
    for key in ("base_model", "datasets"):
        ids = data.get(key, [])
        ids = [ids] if isinstance(ids, str) else ids
        problems += [f"{key}: {i!r} is not an id" for i in ids if not isinstance(i, str) or not _ID.fullmatch(i)]
    for key in ("tags", "metrics"):
        if not all(isinstance(value, str) and value for value in data.get(key, [])):
            problems.append(f"{key} must be a list of strings")
    for key, known in (("license", LICENSES), ("pipeline_tag", PIPELINE_TAGS)):
        if key in data and data[key] not in known:
            problems.append(f"{key}: {data[key]!r} is unknown")
    for model in data.get("model-index", []):
        problems += [f"model-index: {problem}" for problem in _model_index_problems(model)]
    return problems


def _model_index_problems(model: Any) -> Iterator[str]:
    if not isinstance(model.get("name"), str) or not model["name"]:
        yield "name must be a string"
    if not model.get("results"):
        yield "results must be a list that is not empty"
    for result in model.get("results", []):
        for part, keys in (("task", ("type",)), ("dataset", ("type", "name"))):
            for key in keys:
                if not isinstance(result.get(part, {}).get(key), str):
                    yield f"{part}.{key} must be a string"
        if not _ID.fullmatch(str(result.get("dataset", {}).get("type"))):
            yield "dataset.type must be an id"
        for metric in result.get("metrics") or [{}]:
            value = metric.get("value")
            if not isinstance(metric.get("type"), str) or not isinstance(value, (int, float)) or value != value:
                yield "metrics need a type and a value"

"""A data set to the Hub, as the published ones lie there: tar parts, and metadata.json outside of them too."""

import logging
import tarfile
import tempfile
from pathlib import Path
from typing import IO, Any

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from tqdm import tqdm

from ..hub import RENEW_TOKEN, TOKENS_PAGE, explained_upload

logger = logging.getLogger(__name__)

PART_BYTES = 4 << 30
_BESIDE = ("metadata.json", "README.md")
_PICTURES = ("contact_sheets", "overlays")


def check_dataset_target(repo_id: str) -> None:
    """Refuse, before hours of work, what could not be uploaded; changes nothing on the Hub.

    Raises:
        PermissionError: There is no access token, or it may only read.
        ConnectionError: The Hub cannot be reached, or is switched off.
    """
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("The Hub is switched off here: unset HF_HUB_OFFLINE to upload the data set.")
    if get_token() is None:
        raise PermissionError(f"There is no access token. {RENEW_TOKEN}")
    with explained_upload(repo_id):
        role = HfApi().whoami().get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise PermissionError(f"The token may only read. Make one with the role 'write': {TOKENS_PAGE}")


def push_dataset(folder: Path, repo_id: str, public: bool = False, part_bytes: int = PART_BYTES) -> str:
    """Upload a data set in one commit. What has arrived is not sent again when the call is repeated.

    Args:
        folder: With images/ and metadata.json.
        repo_id: `"org/name"`; made private if absent, unless `public`.
        public: See there.
        part_bytes: Most bytes of a part of the archive.

    Returns:
        URL of the commit.

    Raises:
        ValueError, PermissionError, ConnectionError: The Hub refuses it.
        OSError: There is no room for the archive beside the folder.
    """
    check_dataset_target(repo_id)
    api = HfApi()
    name = repo_id.split("/")[-1]
    with tempfile.TemporaryDirectory(prefix=".upload-", dir=folder) as made:
        parts = write_parts(folder, Path(made), name, part_bytes)
        with explained_upload(repo_id):
            api.create_repo(repo_id, repo_type="dataset", private=not public, exist_ok=True)
            operations: list[Any] = [CommitOperationAdd(path.name, str(path)) for path in parts]
            operations += [CommitOperationAdd(file, str(folder / file)) for file in _BESIDE]
            operations += [
                CommitOperationAdd(f"{kind}/{path.name}", str(path))
                for kind in _PICTURES
                for path in sorted((folder / kind).glob("*.png"))
            ]
            commit = api.create_commit(
                repo_id, operations, commit_message="Upload SPIDER data set", repo_type="dataset"
            )
    return str(commit.commit_url)


def write_parts(folder: Path, target: Path, name: str, part_bytes: int = PART_BYTES) -> list[Path]:
    """Pack images/ and metadata.json into parts of one tar archive; the same files give the same bytes.

    Args:
        folder: Of the data set.
        target: Gets `NAME.tar.000` and so on.
        name: Of the archive.
        part_bytes: Most bytes of a part.
    """
    files = [folder / "metadata.json", *sorted(p for p in (folder / "images").iterdir() if not p.name.startswith("."))]
    parts = _Parts(target, name, part_bytes)
    with parts, tarfile.open(fileobj=parts, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for path in tqdm(files, desc="packing", unit="file"):
            member = tarfile.TarInfo(str(path.relative_to(folder)))
            member.size = path.stat().st_size
            with open(path, "rb") as file:
                tar.addfile(member, file)
    return parts.paths


class _Parts:
    """A file to write to that becomes several, none longer than so many bytes."""

    def __init__(self, target: Path, name: str, part_bytes: int) -> None:
        self.paths: list[Path] = []
        self._target, self._name, self._most = target, name, part_bytes
        self._file: IO[bytes] | None = None
        self._left = 0

    def __enter__(self) -> "_Parts":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, content: bytes) -> int:
        """Write bytes, on into new parts as the last ones are full."""
        rest = memoryview(content)
        while len(rest):
            if self._file is None or self._left == 0:
                self.__exit__()
                self.paths.append(self._target / f"{self._name}.tar.{len(self.paths):03d}")
                self._file, self._left = open(self.paths[-1], "wb"), self._most
            written = self._file.write(rest[: self._left])
            self._left, rest = self._left - written, rest[written:]
        return len(content)

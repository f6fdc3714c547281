"""What every upload to the Hub asks first: may this account write there, and are the files there already."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from .files import file_sha256
from .hub import RENEW_TOKEN, TOKENS_PAGE, RepoType

_OF_THE_HUB = ".gitattributes"  # which the Hub puts into every repository


def api_for(repo_id: str, token: Optional[str] = None) -> HfApi:
    """A client that may be asked to upload.

    Args:
        repo_id: `"org/name"`.
        token: By default that of `hf auth login` or `HF_TOKEN`.

    Raises:
        ValueError: The id has another form.
        ConnectionError: The Hub is switched off.
        PermissionError: There is no access token.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no repository id: {error}") from error
    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} is no repository id: expected 'org/name', with the user or organisation.")
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("The Hub is switched off here: unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE to publish.")
    token = token or get_token()
    if token is None:
        raise PermissionError(f"There is no access token. {RENEW_TOKEN}")
    return HfApi(token=token)


def refuse_reader(api: HfApi) -> None:
    """Refuse a token that may only read; ask in `hub.explained_upload`.

    Raises:
        PermissionError: See there.
    """
    role = api.whoami().get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise PermissionError(f"The token may only read. Make one with the role 'write': {TOKENS_PAGE}")


def existing(api: HfApi, repo_id: str, repo_type: RepoType) -> Any:
    """What the Hub says of a repository, None if it is not there."""
    try:
        return api.repo_info(repo_id, repo_type=repo_type)
    except RepositoryNotFoundError:
        return None


def has_files(info: Any) -> bool:
    """Whether a repository, of `existing`, has files of its own; one that an interrupted upload made has none."""
    return info is not None and any(sibling.rfilename != _OF_THE_HUB for sibling in info.siblings or ())


@dataclass(frozen=True)
class Held:
    """A commit that has files as they are here, and how many others."""

    commit: str
    others: int


def held(
    api: HfApi,
    repo_id: str,
    files: Mapping[str, Path],
    repo_type: RepoType,
    branch: str = constants.DEFAULT_REVISION,
) -> Optional[Held]:
    """The newest commit of a branch if all of the files are in it as they are here, else None.

    Args:
        api: Of `api_for`.
        repo_id: Of a repository that is there.
        files: By the names that they have there.
        repo_type: See there.
        branch: See there.
    """
    try:
        commit = str(api.repo_info(repo_id, repo_type=repo_type, revision=branch).sha)
        entries = list(api.list_repo_tree(repo_id, recursive=True, repo_type=repo_type, revision=commit))
    except RevisionNotFoundError:
        return None
    present = {entry.path: entry for entry in entries if isinstance(entry, RepoFile) and entry.path != _OF_THE_HUB}
    if not all(name in present and _is_same(present[name], path) for name, path in files.items()):
        return None
    return Held(commit, len(present) - len(files))


def _is_same(entry: RepoFile, path: Path) -> bool:
    """Whether a file of a repository has the content of one here; git names it by a hash, a large one by its sha256."""
    size = path.stat().st_size
    if entry.size != size:
        return False
    if entry.lfs is not None:
        return entry.lfs.sha256 == file_sha256(path)
    return entry.blob_id == hashlib.sha1(b"blob %d\0" % size + path.read_bytes()).hexdigest()

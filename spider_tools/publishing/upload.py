"""Files of a model to the Hub, in one commit."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import ModelInfo, RepoFile
from huggingface_hub.utils import validate_repo_id

from ..files import file_sha256
from ..hub import RENEW_TOKEN, TOKENS_PAGE, explained_upload
from ..model_folder import INDEX, SHARD, WEIGHTS
from .model_card import RESULT_FILES
from .settings import PublishSettings

logger = logging.getLogger(__name__)

_OF_THE_HUB = ".gitattributes"  # which the Hub puts into every repository


def check_target(repo_id: str, settings: PublishSettings, files: Optional[Mapping[str, Path]] = None) -> None:
    """Refuse what could not be published to, before hours of work; changes nothing on the Hub.

    Args:
        repo_id: `"org/name"`.
        settings: See there.
        files: What is known already of what is to go there, by the names that it gets. A repository that holds these
            as they are is not refused: it may be this very model's, from an upload that was killed after its commit.

    Raises:
        ValueError, PermissionError, FileExistsError, ConnectionError: See `publish`.
    """
    api = _api(repo_id, settings)
    with explained_upload(repo_id):
        role = api.whoami().get("auth", {}).get("accessToken", {}).get("role")
        if role == "read":
            raise PermissionError(f"The token may only read. Make one with the role 'write': {TOKENS_PAGE}")
        info = _existing(api, repo_id, settings)
        if _is_refused(info, settings) and not (files and _held(api, repo_id, settings, files)):
            raise _has_files(repo_id)


def find_uploaded(files: Mapping[str, Path], repo_id: str, settings: PublishSettings) -> Optional[str]:
    """Look whether a repository holds files already, and nothing else; changes nothing on the Hub.

    Args:
        files: By the names that they get.
        repo_id: `"org/name"`.
        settings: See there.

    Returns:
        URL of the newest commit, whose files are these; None if there is something to upload.

    Raises:
        ValueError, PermissionError, FileExistsError, ConnectionError: See `publish`.
    """
    api = _api(repo_id, settings)
    with explained_upload(repo_id):
        info = _existing(api, repo_id, settings)
        held = None if info is None else _held(api, repo_id, settings, files)
        if held is not None and held.others == 0:
            logger.info("%s holds this model already; nothing was uploaded", repo_id)
            return f"{api.endpoint}/{repo_id}/commit/{held.commit}"
        if _is_refused(info, settings):
            raise _has_files(repo_id)
    return None


def upload(files: Mapping[str, Path], repo_id: str, settings: PublishSettings) -> str:
    """Upload files in one commit, and remove the weights and results of an earlier model in the same commit.

    Args:
        files: By the names that they get.
        repo_id: `"org/name"`; made if absent.
        settings: See there.

    Returns:
        URL of the commit; of the newest one if the repository holds the same already.

    Raises:
        ValueError, PermissionError, FileExistsError, ConnectionError: See `publish`.
    """
    url = find_uploaded(files, repo_id, settings)
    if url is not None:
        return url
    api = _api(repo_id, settings)
    with explained_upload(repo_id):
        if _existing(api, repo_id, settings) is None:
            # Without --private an organisation's own default decides.
            api.create_repo(repo_id, private=settings.private or None)
        if settings.branch != constants.DEFAULT_REVISION:
            api.create_branch(repo_id, branch=settings.branch, exist_ok=True)
        # The commit is refused if somebody else's came in between.
        head = api.model_info(repo_id, revision=settings.branch).sha
        present = api.list_repo_files(repo_id, revision=head)
        operations: list[Any] = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
        # Transformers prefers model.safetensors to shards: an old one would be loaded with the new configuration.
        operations += [CommitOperationDelete(name) for name in present if _is_ours(name) and name not in files]
        commit = api.create_commit(
            repo_id, operations, commit_message="Upload SPIDER model", revision=settings.branch, parent_commit=head
        )
    return str(commit.commit_url)


def _is_ours(name: str) -> bool:
    return name in (WEIGHTS, INDEX, *RESULT_FILES) or SHARD.fullmatch(name) is not None


def _api(repo_id: str, settings: PublishSettings) -> HfApi:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no repository id: {error}") from error
    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} is no repository id: expected 'org/name', with the user or organisation.")
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("The Hub is switched off here: unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE to publish.")
    token = settings.token or get_token()
    if token is None:
        raise PermissionError(f"There is no access token. {RENEW_TOKEN}")
    return HfApi(token=token)


def _existing(api: HfApi, repo_id: str, settings: PublishSettings) -> Optional[ModelInfo]:
    """What the Hub says of a repository that may be published to, None if it is not there."""
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        return None
    if settings.private and not info.private:
        raise ValueError(
            f"{repo_id} exists and is public, so that --private would not hold. Make it private in its settings on the "
            "Hub, or choose another name."
        )
    return info


def _is_refused(info: Optional[ModelInfo], settings: PublishSettings) -> bool:
    """Whether a repository has files that nobody said may be replaced."""
    # One that an interrupted upload made holds only what the Hub itself puts there.
    siblings = info.siblings or () if info is not None else ()
    return not settings.exist_ok and any(sibling.rfilename != _OF_THE_HUB for sibling in siblings)


@dataclass(frozen=True)
class _Held:
    """A commit that has files as they are here, and how many others."""

    commit: str
    others: int


def _held(api: HfApi, repo_id: str, settings: PublishSettings, files: Mapping[str, Path]) -> Optional[_Held]:
    """The newest commit of the branch if all of the files are in it as they are here, else None."""
    try:
        commit = str(api.model_info(repo_id, revision=settings.branch).sha)
        entries = list(api.list_repo_tree(repo_id, recursive=True, revision=commit))
    except RevisionNotFoundError:
        return None
    present = {entry.path: entry for entry in entries if isinstance(entry, RepoFile) and entry.path != _OF_THE_HUB}
    if not all(name in present and _is_same(present[name], path) for name, path in files.items()):
        return None
    return _Held(commit, len(present) - len(files))


def _is_same(entry: RepoFile, path: Path) -> bool:
    """Whether a file of a repository has the content of one here; git names it by a hash, a large one by its sha256."""
    size = path.stat().st_size
    if entry.size != size:
        return False
    if entry.lfs is not None:
        return entry.lfs.sha256 == file_sha256(path)
    return entry.blob_id == hashlib.sha1(b"blob %d\0" % size + path.read_bytes()).hexdigest()


def _has_files(repo_id: str) -> FileExistsError:
    return FileExistsError(
        f"{repo_id} has files already. --exist_ok adds a commit that replaces the model and its README.md; "
        "earlier commits stay. Or choose another name."
    )

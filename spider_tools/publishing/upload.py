"""Files of a model to the Hub, in one commit."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.hf_api import ModelInfo

from ..hub import explained_upload
from ..model_folder import INDEX, SHARD, WEIGHTS
from ..uploads import api_for, existing, has_files, held, refuse_reader
from .model_card import RESULT_FILES
from .settings import PublishSettings

logger = logging.getLogger(__name__)


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
    api = api_for(repo_id, settings.token)
    with explained_upload(repo_id):
        refuse_reader(api)
        info = _existing(api, repo_id, settings)
        if _is_refused(info, settings) and not (files and held(api, repo_id, files, "model", settings.branch)):
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
    api = api_for(repo_id, settings.token)
    with explained_upload(repo_id):
        info = _existing(api, repo_id, settings)
        same = None if info is None else held(api, repo_id, files, "model", settings.branch)
        if same is not None and same.others == 0:
            logger.info("%s holds this model already; nothing was uploaded", repo_id)
            return f"{api.endpoint}/{repo_id}/commit/{same.commit}"
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
    api = api_for(repo_id, settings.token)
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
        if "handler.py" in present and "handler.py" not in files:
            logger.warning(
                "%s keeps the handler.py of an earlier upload: --handler replaces it by this version's", repo_id
            )
        commit = api.create_commit(
            repo_id, operations, commit_message="Upload SPIDER model", revision=settings.branch, parent_commit=head
        )
    return str(commit.commit_url)


def _is_ours(name: str) -> bool:
    return name in (WEIGHTS, INDEX, *RESULT_FILES) or SHARD.fullmatch(name) is not None


def _existing(api: HfApi, repo_id: str, settings: PublishSettings) -> Optional[ModelInfo]:
    """What the Hub says of a repository that may be published to, None if it is not there."""
    info = existing(api, repo_id, "model")
    if info is not None and settings.private and not info.private:
        raise ValueError(
            f"{repo_id} exists and is public, so that --private would not hold. Make it private in its settings on the "
            "Hub, or choose another name."
        )
    return info


def _is_refused(info: Optional[ModelInfo], settings: PublishSettings) -> bool:
    """Whether a repository has files that nobody said may be replaced."""
    return not settings.exist_ok and has_files(info)


def _has_files(repo_id: str) -> FileExistsError:
    return FileExistsError(
        f"{repo_id} has files already. --exist_ok adds a commit that replaces the model and its README.md; "
        "earlier commits stay. Or choose another name."
    )

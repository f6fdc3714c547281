"""Files of a model to the Hub, in one commit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from ..hub import RENEW_TOKEN, TOKENS_PAGE, explained_upload
from ..model_folder import INDEX, SHARD, WEIGHTS
from .model_card import RESULT_FILES
from .settings import PublishSettings


def check_target(repo_id: str, settings: PublishSettings) -> None:
    """Refuse what could not be published to, before hours of work; changes nothing on the Hub.

    Raises:
        ValueError, PermissionError, FileExistsError, ConnectionError: See `publish`.
    """
    api = _api(repo_id, settings)
    with explained_upload(repo_id):
        role = api.whoami().get("auth", {}).get("accessToken", {}).get("role")
        if role == "read":
            raise PermissionError(f"The token may only read. Make one with the role 'write': {TOKENS_PAGE}")
        _check_existing(api, repo_id, settings)


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
    api = _api(repo_id, settings)
    with explained_upload(repo_id):
        if not _check_existing(api, repo_id, settings):
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


def _check_existing(api: HfApi, repo_id: str, settings: PublishSettings) -> bool:
    """Whether the repository exists, after a look whether this model may go there."""
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        return False
    if settings.private and not info.private:
        raise ValueError(
            f"{repo_id} exists and is public, so that --private would not hold. Make it private in its settings on the "
            "Hub, or choose another name."
        )
    # A repository that an interrupted upload made holds only what the Hub itself puts there.
    filled = any(sibling.rfilename != ".gitattributes" for sibling in info.siblings or ())
    if filled and not settings.exist_ok:
        raise FileExistsError(
            f"{repo_id} has files already. --exist_ok adds a commit that replaces the model and its README.md; "
            "earlier commits stay. Or choose another name."
        )
    return True

"""Files of a model to the Hub, in one commit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from .checks import INDEX, SHARD, TOKENS_PAGE, WEIGHTS
from .model_card import RESULT_FILES
from .settings import PublishSettings

_RENEW = f"Make one with the role 'write' ({TOKENS_PAGE}), then run `hf auth login` or set HF_TOKEN."
# The client's HTTP library differs by its version (requests, httpx, httpx2): these are that one's errors.
_HTTP_ERRORS: Any = tuple(c for c in HfHubHTTPError.__mro__ if c.__module__.startswith(("requests.", "httpx")))


def check_target(repo_id: str, settings: PublishSettings) -> None:
    """Refuse what could not be published to, before hours of work; changes nothing on the Hub.

    Raises:
        ValueError, PermissionError, FileExistsError, ConnectionError: See `publish`.
    """
    api = _api(repo_id, settings)
    with _explained(repo_id):
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
    with _explained(repo_id):
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
        raise PermissionError(f"There is no access token. {_RENEW}")
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


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Turn the client's errors into some that say what to do."""
    try:
        yield
    except (*_HTTP_ERRORS, RuntimeError) as error:
        # The client wraps what happens to one of several large files.
        cause = error.__cause__ or error if isinstance(error, RuntimeError) else error
        raise _explanation(cause, repo_id) from error


def _explanation(error: Any, repo_id: str) -> Exception:
    response = getattr(error, "response", None)
    status = None if response is None else response.status_code
    namespace = repo_id.split("/")[0]
    hidden = isinstance(error, RepositoryNotFoundError)  # so the Hub calls what an account may not see
    if status == 401 and not hidden:
        return PermissionError(f"The Hub does not take this access token: it is wrong or has expired. {_RENEW}")
    if status == 403 or hidden:
        said = getattr(error, "server_message", None)
        reason = f" ({said})" if said else ""
        return PermissionError(
            f"The account of this access token may not write to {repo_id}{reason}. Ask {namespace} for the right to, "
            f"take a token with the role 'write' of somebody who has it ({TOKENS_PAGE}), or publish under your own "
            "name."
        )
    if status in (409, 412):
        return FileExistsError(f"Somebody else changed {repo_id} at the same time. Look at it, then run this again.")
    if status is not None and 400 <= status < 500 and status != 429:
        return ValueError(f"The Hub refuses this upload to {repo_id}: {error}")
    return ConnectionError(
        f"The connection to the Hub broke off; readers of {repo_id} see nothing half-done. Run the same command again: "
        f"weights that have arrived are not sent again. ({type(error).__name__}: {error})"
    )

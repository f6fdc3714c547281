"""Ids of the Hub, downloads, and the Hub's errors in words: one class and one sentence for one cause, in every room."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

TOKENS_PAGE = "https://huggingface.co/settings/tokens"
RENEW_TOKEN = f"Make one with the role 'write' ({TOKENS_PAGE}), then run `hf auth login` or set HF_TOKEN."

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LOG_IN = "`hf auth login`, or an access token in HF_TOKEN"
# The client's HTTP library differs by its version (requests, httpx, httpx2): these are that one's errors.
_HTTP_ERRORS: Any = tuple(c for c in HfHubHTTPError.__mro__ if c.__module__.startswith(("requests.", "httpx")))

RepoType = Literal["model", "dataset", "space"]


def is_hub_id(source: str) -> bool:
    """Whether a source has the form `org/name` and is no path on this machine."""
    return bool(_REPO_ID.fullmatch(source)) and not Path(source).exists()


def download(repo_id: str, repo_type: RepoType, revision: str | None = None, **filters: Any) -> Path:
    """Download a repository, or find it in the local cache.

    Args:
        repo_id: `"org/name"`.
        repo_type: What kind of repository.
        revision: Branch, tag or commit.
        **filters: `allow_patterns` and `ignore_patterns` of `huggingface_hub.snapshot_download`.

    Returns:
        The folder of the snapshot.

    Raises:
        FileNotFoundError: It is no id, or there is no such repository or revision, or this account may not see it.
        PermissionError: It is gated, or the access token is not taken.
        ConnectionError: The Hub cannot be reached, and the cache does not have it.
    """
    if not is_hub_id(repo_id):
        raise FileNotFoundError(f"{repo_id!r} is neither a file, nor a folder, nor a Hub id like org/name.")
    try:
        folder = huggingface_hub.snapshot_download(repo_id, repo_type=repo_type, revision=revision, **filters)
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise _download_problem(error, repo_id, repo_type, revision) from error
    return Path(folder)


@contextmanager
def explained_upload(repo_id: str) -> Iterator[None]:
    """Turn the client's errors while writing to a repository into some that say what to do."""
    try:
        yield
    except (*_HTTP_ERRORS, RuntimeError) as error:
        # The client wraps what happens to one of several large files.
        cause = error.__cause__ or error if isinstance(error, RuntimeError) else error
        raise _upload_problem(cause, repo_id) from error


def _download_problem(error: Exception, repo_id: str, repo_type: RepoType, revision: str | None) -> OSError:
    kind = {"model": "model", "dataset": "data set", "space": "Space"}[repo_type]
    page = f"{constants.ENDPOINT}/{'' if repo_type == 'model' else f'{repo_type}s/'}{repo_id}"
    if isinstance(error, GatedRepoError):
        return PermissionError(
            f"The {kind} {repo_id} is gated: ask for access on {page} with your account, then use that account here "
            f"({_LOG_IN})."
        )
    if isinstance(error, RevisionNotFoundError):
        return FileNotFoundError(f"The {kind} {repo_id} has no revision {revision!r}. See {page}/tree/main.")
    if isinstance(error, RepositoryNotFoundError):
        return FileNotFoundError(
            f"{repo_id!r} is no file or folder here, and the Hub has no such {kind}. If it is private, use an account "
            f"here that may read it ({_LOG_IN})."
        )
    if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
        return ConnectionError(
            f"{repo_id!r} is no file or folder here, the Hub cannot be reached (or is switched off by HF_HUB_OFFLINE), "
            "and its cache on this machine does not have it. Download it where there is a network and give its folder. "
            f"({' '.join(str(error.__cause__ or error).split())})"
        )
    if _status_of(error) == 401:
        return _refused_token()
    return ConnectionError(f"The {kind} {repo_id} cannot be downloaded from {page}: {error}")


def _upload_problem(error: Any, repo_id: str) -> Exception:
    status = _status_of(error)
    namespace = repo_id.split("/")[0]
    hidden = isinstance(error, RepositoryNotFoundError)  # so the Hub calls what an account may not see
    if status == 401 and not hidden:
        return _refused_token()
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
        f"what has arrived is not sent again. ({type(error).__name__}: {error})"
    )


def _refused_token() -> PermissionError:
    return PermissionError(f"The Hub does not take this access token: it is wrong or has expired. {RENEW_TOKEN}")


def _status_of(error: Any) -> int | None:
    """The status of the Hub's answer, if there was one."""
    response = getattr(error, "response", None)
    return None if response is None else response.status_code

"""A Space of the Hub that shows a published model: app.py, this package beside it, and the model's id and commit."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from ..files import write_text
from ..hub import explained_upload
from ..uploads import api_for, existing, held, refuse_reader
from .checks import check_publishable
from .settings import PublishSettings
from .space_files import SETTINGS_NAME, code_of_space, folder_of, texts_of_space

logger = logging.getLogger(__name__)

_OF_THE_HUB = (".gitattributes", "README.md")  # which it puts into every new Space
_PACKAGE = "spider_tools/"


def check_space_target(model_id: str, settings: PublishSettings) -> None:
    """Refuse, before anything is uploaded, what could not be published as `settings.space`; changes nothing there.

    A Space that holds the same page already is not refused, whichever commit of the model it shows.

    Raises:
        ValueError: The id is none, gradio is not installed here, or the Space is public and should not be.
        PermissionError: There is no access token, or it may only read.
        FileExistsError: The Space has files, and nobody said that they may be replaced.
        ConnectionError: The Hub cannot be reached.
    """
    space = str(settings.space)
    api = api_for(space, settings.token)
    with tempfile.TemporaryDirectory(prefix="spider-space-") as made, explained_upload(space):
        files = _files(Path(made), model_id, "")
        for name, path in files.items():
            check_publishable(path, Path(made) if path.is_relative_to(made) else folder_of(name, path))
        refuse_reader(api)
        if _is_refused(api, settings) and not _holds_page(api, space, files):
            raise _has_files(space)


def publish_space(model_id: str, commit: str, settings: PublishSettings) -> str:
    """Upload the page for a published model, in one commit; the Hub then builds and starts it.

    Args:
        model_id: `"org/name"` of the model.
        commit: Of the model, 40 hex digits; the page shows that one, whatever is published later.
        settings: `space` says where.

    Returns:
        URL of the Space.

    Raises:
        ValueError, PermissionError, FileExistsError, ConnectionError: See `check_space_target`; the Hub refuses it.
    """
    space = str(settings.space)
    api = api_for(space, settings.token)
    url = f"{api.endpoint}/spaces/{space}"
    with tempfile.TemporaryDirectory(prefix="spider-space-") as made, explained_upload(space):
        files = _files(Path(made), model_id, commit)
        is_refused = _is_refused(api, settings)
        api.create_repo(space, repo_type="space", space_sdk="gradio", private=settings.private or None, exist_ok=True)
        if held(api, space, files, "space") is not None:
            logger.info("%s shows this model already; nothing was uploaded", space)
        elif is_refused and not _holds_page(api, space, files):
            raise _has_files(space)
        else:
            _commit(api, space, files)
        model = existing(api, model_id, "model")
    if model is not None and model.private:
        logger.warning(
            "%s is private: give the Space a secret HF_TOKEN that may read it, at %s/settings", model_id, url
        )
    return url


def _files(made: Path, model_id: str, commit: str) -> dict[str, Path]:
    """By name in the Space; what is written for it goes to a folder."""
    files = code_of_space()
    for name, text in texts_of_space(model_id, commit).items():
        write_text(made / name, text)
        files[name] = made / name
    return files


def _holds_page(api: HfApi, space: str, files: Mapping[str, Path]) -> bool:
    """Whether it is this page already, whichever commit of the model it shows."""
    page = {name: path for name, path in files.items() if name != SETTINGS_NAME}
    return held(api, space, page, "space") is not None


def _commit(api: HfApi, space: str, files: Mapping[str, Path]) -> None:
    # The commit is refused if somebody else's came in between.
    head = api.space_info(space).sha
    present = api.list_repo_files(space, repo_type="space", revision=head)
    operations: list[Any] = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
    # A module of an earlier version would be imported for what is a folder now, or the other way round.
    operations += [CommitOperationDelete(name) for name in present if name.startswith(_PACKAGE) and name not in files]
    api.create_commit(space, operations, commit_message="Upload SPIDER page", repo_type="space", parent_commit=head)


def _is_refused(api: HfApi, settings: PublishSettings) -> bool:
    """Whether the Space has files of somebody that nobody said may be replaced."""
    info = existing(api, str(settings.space), "space")
    if info is None:
        return False
    if settings.private and not info.private:
        raise ValueError(
            f"The Space {settings.space} exists and is public, so that --private would not hold. Make it private in "
            "its settings on the Hub, or choose another name."
        )
    names = {sibling.rfilename for sibling in info.siblings or ()}
    return not settings.exist_ok and bool(names - set(_OF_THE_HUB))


def _has_files(space: str) -> FileExistsError:
    return FileExistsError(
        f"The Space {space} has files already. --exist_ok adds a commit that replaces the page and its README.md; "
        "earlier commits stay. Or choose another name."
    )

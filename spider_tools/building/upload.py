"""A data set to the Hub, as the published ones lie there: tar parts, and metadata.json outside of them too."""

import logging
import re
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from ..hub import explained_upload
from ..uploads import api_for, existing, has_files, held, refuse_reader
from .packing import PART_BYTES, write_parts
from .settings import BuildSettings

logger = logging.getLogger(__name__)

_BESIDE = ("metadata.json", "README.md")
_PICTURES = ("contact_sheets", "overlays")
# What an earlier data set may have left in a repository: read beside this one's files it would be mixed up with them.
_OURS = re.compile(r"metadata\.json|README\.md|[^/]+\.tar\.\d+|(images|contact_sheets|overlays)/.*")


def check_dataset_target(settings: BuildSettings) -> None:
    """Refuse, before hours of work, what could not be uploaded to `push_to_hub`; changes nothing on the Hub.

    A repository that holds the same data set already is not refused: an upload may have been killed after its commit.

    Raises:
        PermissionError: There is no access token, or it may only read.
        ValueError: The repository is public, and nobody said that it may be.
        FileExistsError: It has files, and nobody said that they may be replaced.
        ConnectionError: The Hub cannot be reached, or is switched off.
    """
    repo_id = str(settings.push_to_hub)
    api = api_for(repo_id)
    with explained_upload(repo_id):
        refuse_reader(api)
        if _is_refused(api, settings) and not _has_same_metadata(api, settings):
            raise _has_files(repo_id)


def push_dataset(settings: BuildSettings, part_bytes: int = PART_BYTES) -> str:
    """Upload what was built in one commit. What has arrived is not sent again when the call is repeated.

    Args:
        settings: Of the building: `output_dir`, `push_to_hub`, `hub_public` and `hub_replace`.
        part_bytes: Most bytes of a part of the archive.

    Returns:
        URL of the commit; of the newest one if the repository holds the same already.

    Raises:
        ValueError, PermissionError, FileExistsError, ConnectionError: See `check_dataset_target`; the Hub refuses it.
        OSError: There is no room for the archive beside the folder.
    """
    folder, repo_id = settings.output_dir, str(settings.push_to_hub)
    check_dataset_target(settings)
    api = api_for(repo_id)
    with tempfile.TemporaryDirectory(prefix=".upload-", dir=folder) as made:
        parts = write_parts(folder, Path(made), repo_id.split("/")[-1], part_bytes)
        files = {path.name: path for path in parts} | {name: folder / name for name in _BESIDE}
        files |= {f"{kind}/{path.name}": path for kind in _PICTURES for path in sorted((folder / kind).glob("*.png"))}
        with explained_upload(repo_id):
            is_refused = _is_refused(api, settings)
            api.create_repo(repo_id, repo_type="dataset", private=not settings.hub_public, exist_ok=True)
            same = held(api, repo_id, files, "dataset")
            if same is not None and same.others == 0:
                logger.info("%s holds this data set already; nothing was uploaded", repo_id)
                return f"{api.endpoint}/datasets/{repo_id}/commit/{same.commit}"
            if is_refused:
                raise _has_files(repo_id)
            # The commit is refused if somebody else's came in between.
            head = api.dataset_info(repo_id).sha
            present = api.list_repo_files(repo_id, repo_type="dataset", revision=head)
            operations: list[Any] = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
            operations += [CommitOperationDelete(n) for n in present if _OURS.fullmatch(n) and n not in files]
            commit = api.create_commit(
                repo_id,
                operations,
                commit_message="Upload SPIDER data set",
                repo_type="dataset",
                parent_commit=head,
            )
    return str(commit.commit_url)


def _is_refused(api: HfApi, settings: BuildSettings) -> bool:
    """Whether the repository has files that nobody said may be replaced."""
    info = existing(api, str(settings.push_to_hub), "dataset")
    if info is not None and not info.private and not settings.hub_public:
        raise ValueError(
            f"{settings.push_to_hub} exists and is public. Make it private in its settings on the Hub, or pass "
            "--hub_public."
        )
    if info is not None and info.private and settings.hub_public:
        logger.warning("%s exists and is private, and stays so: --hub_public is for new ones.", settings.push_to_hub)
    return not settings.hub_replace and has_files(info)


def _has_same_metadata(api: HfApi, settings: BuildSettings) -> bool:
    """Whether the repository has the metadata.json that was built here before."""
    path = settings.output_dir / "metadata.json"
    return path.is_file() and held(api, str(settings.push_to_hub), {path.name: path}, "dataset") is not None


def _has_files(repo_id: str) -> FileExistsError:
    return FileExistsError(
        f"{repo_id} has files already. --hub_replace adds a commit that replaces the data set there; earlier commits "
        "stay. Or choose another name."
    )

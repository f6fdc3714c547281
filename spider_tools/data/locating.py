"""What `--dataset` may name: a folder of any supported kind, or a repository on the Hub."""

import os
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from PIL import Image

from ..hub import REPO_ID


def local_folder(dataset: str, revision: str | None) -> Path:
    """The folder that a data set lies in, downloaded if it is a Hub id.

    Args:
        dataset: An existing folder, or an id of the form `org/name`.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ValueError: There is no such folder, or the repository cannot be downloaded; the message says what to do.
    """
    path = Path(dataset)
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"The data set {dataset} is a file, expected the folder that it lies in.")
    if not REPO_ID.fullmatch(dataset):
        raise ValueError(f"The data set {dataset!r} is neither an existing folder nor a Hub id of the form 'org/name'.")
    return Path(_download(dataset, revision))


def _download(repo_id: str, revision: str | None) -> str:
    page = f"https://huggingface.co/datasets/{repo_id}"
    try:
        return huggingface_hub.snapshot_download(repo_id, repo_type="dataset", revision=revision)
    except GatedRepoError as error:
        raise ValueError(
            f"The data set {repo_id} is gated: ask for access on {page}, then log in with `hf auth login` or set "
            "HF_TOKEN to a token of the account that was granted it."
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"There is no data set {repo_id} on the Hub, and no folder of that name here, or it is private and the "
            f"token does not see it. See {page}; log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(f"The data set {repo_id} has no revision {revision!r}. See {page}/tree/main.") from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise ValueError(
            f"The data set {repo_id} is not in the local cache as a whole and the Hub cannot be reached (no network, "
            "or HF_HUB_OFFLINE is set). Go online once, or pass a folder."
        ) from error
    except HfHubHTTPError as error:
        raise ValueError(f"The data set {repo_id} could not be downloaded: {error}") from error


def find_spider_folder(folder: Path) -> Path | None:
    """The folder that holds `metadata.json` and `images/`: this one, or the only such one right below; else None.

    Raises:
        ValueError: `images/` is a link out of the folder.
    """
    children = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    found = [f for f in [folder, *children] if (f / "metadata.json").is_file() and (f / "images").is_dir()]
    if folder in found:
        found = [folder]
    if len(found) != 1:
        return None
    root = found[0].resolve()
    if (root / "images").resolve() != root / "images":
        raise ValueError(f"{found[0] / 'images'} is a symbolic link that leaves the data set's folder.")
    return found[0]


def holds_whole_regions(folder: Path) -> bool:
    """Whether a folder holds a saved data set, parquet files or images."""
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return True
    endings = (".parquet", *Image.registered_extensions())
    return any(name.lower().endswith(endings) for _, _, names in os.walk(folder) for name in names)

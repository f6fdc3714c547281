"""What `--dataset` may name: a folder of any supported kind, or a repository on the Hub."""

from pathlib import Path

from ..hub import download


def local_folder(dataset: str, revision: str | None) -> Path:
    """The folder that a data set lies in, downloaded if it is a Hub id.

    Args:
        dataset: An existing folder, or an id of the form `org/name`.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ValueError: It is a file.
        OSError: There is no such folder, or the repository cannot be downloaded; the message says what to do.
    """
    path = Path(dataset)
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"The data set {dataset} is a file, expected the folder that it lies in.")
    return download(dataset, "dataset", revision)


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

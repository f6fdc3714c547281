"""Publishing a model folder from its files to the commit."""

import logging
from pathlib import Path

from ..files import require_writable
from ..imported_folder import import_of_folder
from .checks import check_loads, check_publishable, model_files, own_results
from .endpoint import write_handler
from .model_card import RESULT_FILES, is_written_by_hand, read_config, write_model_card
from .settings import PublishSettings
from .space import check_space_target, publish_space
from .upload import check_target, find_uploaded, upload

logger = logging.getLogger(__name__)


def publish(folder: Path, repo_id: str, settings: PublishSettings = PublishSettings()) -> str:
    """Write the card of a model, check that the model loads, and upload it in one commit.

    Uploaded are the model's weights, configurations and code, the card, and of an evaluation results.json and
    confusion_matrix.png, and with `handler` of the settings handler.py and requirements.txt: nothing else that the
    folder holds. Readers see all of it or nothing. After an interruption
    the same call goes on: what has arrived is not sent again. A model that the repository holds already, and
    nothing beside it, makes no commit and needs no `exist_ok`. A README.md that somebody wrote by hand is uploaded as
    it is. A model that was imported and not verified is published too, with a warning. `settings.space` then gets a
    page that shows this commit.

    Args:
        folder: A model folder, as training leaves it.
        repo_id: `"org/name"` on the Hub; made if absent.
        settings: See there.

    Returns:
        URL of the commit, the newest one if the repository holds this model already; its last part is the revision
        to pin.

    Raises:
        ValueError: The id is none, the folder is incomplete or does not load, or its results are of another model.
        PermissionError: There is no token, or it may not do this.
        OSError: The folder cannot be written: the card goes there.
        FileExistsError: The repository has other files already, and `exist_ok` is not set.
        ConnectionError: The Hub cannot be reached, or the upload broke off.
    """
    files = model_files(folder)
    require_writable(folder, "MODEL_FOLDER")
    check_target(repo_id, settings, files)
    if settings.space is not None:
        check_space_target(repo_id, settings)
    _warn_of_unverified_import(folder)
    if settings.handler:
        served_by = write_handler(folder)
        for path in served_by.values():
            check_publishable(path, folder)
        files |= served_by
    results = settings.results or own_results(folder)
    if is_written_by_hand(folder / "README.md"):
        logger.warning(
            "%s was not written by this package and is published as it is; remove it to have a card written",
            folder / "README.md",
        )
        files["README.md"] = folder / "README.md"
    else:
        files["README.md"] = write_model_card(folder, results, repo_id, settings.license, settings.handler)
    if results is not None:
        files |= {name: results / name for name in RESULT_FILES if (results / name).is_file()}
    url = find_uploaded(files, repo_id, settings)
    if url is None:
        check_loads(files)
        url = upload(files, repo_id, settings)
    if settings.space is not None:
        logger.info("the Hub now builds and starts %s", publish_space(repo_id, url.rsplit("/", 1)[-1], settings))
    return url


def _warn_of_unverified_import(folder: Path) -> None:
    imported = import_of_folder(read_config(folder), folder)
    if imported is not None and not imported["verified"]:
        logger.warning("%s is published all the same. %s", folder, imported["sentence"])

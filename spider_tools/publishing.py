"""A trained model goes to the Hub, in one commit: `python -m spider_tools.publishing MODEL_FOLDER org/name`."""

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from .flags import add_flags, setting, take
from .model_card import RESULT_FILES, write_model_card

logger = logging.getLogger(__name__)

CODE_FILES = (
    "configuration_spider.py",
    "image_processor_spider.py",
    "modeling_spider.py",
    "processing_spider.py",
)
CONFIG_FILES = ("config.json", "preprocessor_config.json", "processor_config.json")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")
_LOAD_CHECK = Path(__file__).with_name("load_check.py")
_LOAD_CHECK_SECONDS = 1800
_TOKENS_PAGE = "https://huggingface.co/settings/tokens"
_RENEW = f"Make one with the role 'write' ({_TOKENS_PAGE}), then run `hf auth login` or set HF_TOKEN."
# The client's HTTP library differs by its version (requests, httpx, httpx2): these are that one's errors.
_HTTP_ERRORS: Any = tuple(c for c in HfHubHTTPError.__mro__ if c.__module__.startswith(("requests.", "httpx")))


@dataclass(frozen=True)
class PublishSettings:
    """Where and how a model is published.

    Attributes:
        token: Of an account that may write to the repository. By default that of `hf auth login` or `HF_TOKEN`. It has
            no flag: other users of a machine can read command lines.
    """

    private: bool = setting(False, help="make a new repository private, and refuse one that is public")
    exist_ok: bool = setting(False, help="publish into a repository that has files already, README.md included")
    results: Optional[Path] = setting(None, help="folder of an evaluation (default: MODEL_FOLDER/evaluation)")
    branch: str = setting("main", help="branch of the repository, made if absent")
    license: Optional[str] = setting(
        None, help="of the weights, as the Hub spells it (default: cc-by-nc-4.0 after training on SPIDER data)"
    )
    token: Optional[str] = field(default=None, repr=False)


def publish(folder: Path, repo_id: str, settings: PublishSettings = PublishSettings()) -> str:
    """Write the card of a model, check that the model loads, and upload it in one commit.

    Uploaded are the model's weights, configurations and code, the card, and of an evaluation results.json and
    confusion_matrix.png: nothing else that the folder holds. Readers see all of it or nothing. After an interruption
    the same call goes on: weights that have arrived are not sent again. A folder that the repository holds already
    makes no commit.

    Args:
        folder: A model folder, as training leaves it.
        repo_id: `"org/name"` on the Hub; made if absent.
        settings: See there.

    Returns:
        URL of the commit; its last part is the revision to pin.

    Raises:
        ValueError: The id is none, the folder is incomplete or does not load, or its results are of another model.
        PermissionError: There is no token, or it may not do this.
        FileExistsError: The repository has files already, and `exist_ok` is not set.
        ConnectionError: The Hub cannot be reached, or the upload broke off.
    """
    files = model_files(folder)
    check_target(repo_id, settings)
    results = settings.results or _own_results(folder)
    files["README.md"] = write_model_card(folder, results, repo_id, settings.license)
    if results is not None:
        files |= {name: folder / name for name in RESULT_FILES if (results / name).is_file()}
    check_loads(files)
    return upload(files, repo_id, settings)


def model_files(folder: Path) -> dict[str, Path]:
    """The files of a model, by the names that they get in a repository.

    Raises:
        ValueError: One is missing, leads out of the folder, or holds an access token.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder. Expected one that train.py wrote.")
    names = [*CONFIG_FILES, *CODE_FILES, *_weight_files(folder)]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} is no complete model: it lacks {', '.join(missing)}. train.py writes all of them.")
    files = {name: folder / name for name in names}
    for name, path in files.items():
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{path} leads out of the folder, to {path.resolve()}. Put the file itself there.")
        if not name.endswith(".safetensors") and _TOKEN.search(path.read_bytes()):
            raise ValueError(f"{path} holds what looks like an access token. Remove it, and revoke it: {_TOKENS_PAGE}")
    return files


def _weight_files(folder: Path) -> list[str]:
    index = folder / _INDEX
    if not index.is_file():
        if not (folder / _WEIGHTS).is_file() and any(folder.glob("*.bin")):
            raise ValueError(
                f"{folder} has its weights in pickles only, which run code when they are loaded. Load the model and "
                f"save it with save_pretrained: that writes {_WEIGHTS}."
            )
        return [_WEIGHTS]
    if (folder / _WEIGHTS).is_file():
        raise ValueError(f"{folder} holds both {_WEIGHTS} and {_INDEX}. Remove what is left of the other model.")
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} is no index of weights: {error!r}. Save the model again.") from error
    for shard in shards:
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise ValueError(f"{index} names {shard!r}, expected files like model-00001-of-00002.safetensors.")
    return [_INDEX, *shards]


def _own_results(folder: Path) -> Optional[Path]:
    """The evaluation in a model's folder, unless the weights have changed since."""
    found = folder / "evaluation" / "results.json"
    if not found.is_file():
        return None
    newest = max((folder / name).stat().st_mtime for name in _weight_files(folder))
    if found.stat().st_mtime < newest:
        logger.warning(
            "%s is older than the weights, so that the card shows no results: evaluate again, or pass --results %s if "
            "they are of these weights",
            found,
            found.parent,
        )
        return None
    return found.parent


def check_loads(files: Mapping[str, Path]) -> None:
    """Load a model from these files alone, in a clean process without network, and classify a region.

    The process has the interpreter's packages, but neither this project nor the user's caches, tokens and settings.

    Raises:
        ValueError: It does not load.
    """
    with tempfile.TemporaryDirectory(prefix="spider-load-check-") as temporary:
        bare = Path(temporary, "model")
        bare.mkdir()
        for name, path in files.items():
            (bare / name).symlink_to(path.resolve())
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_", "PYTHON"))}
        command = [sys.executable, "-I", str(_LOAD_CHECK), str(bare)]
        try:
            done = subprocess.run(
                command,
                env=kept | {"HF_HOME": str(Path(temporary, "cache")), "HF_HUB_OFFLINE": "1"},
                cwd=temporary,
                capture_output=True,
                text=True,
                timeout=_LOAD_CHECK_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(
                f"The model did not load and classify a region in {_LOAD_CHECK_SECONDS} s. Nothing was uploaded."
            ) from error
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-12:])
        raise ValueError(
            f"The model does not load from its files alone, or does not classify a region. Nothing was uploaded. Its "
            f"process ended with:\n{last}"
        )


def check_target(repo_id: str, settings: PublishSettings) -> None:
    """Refuse what could not be published to, before hours of work; changes nothing on the Hub.

    Raises:
        ValueError, PermissionError, FileExistsError, ConnectionError: See `publish`.
    """
    api = _api(repo_id, settings)
    with _explained(repo_id):
        role = api.whoami().get("auth", {}).get("accessToken", {}).get("role")
        if role == "read":
            raise PermissionError(f"The token may only read. Make one with the role 'write': {_TOKENS_PAGE}")
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
    return name in (_WEIGHTS, _INDEX, *RESULT_FILES) or _SHARD.fullmatch(name) is not None


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
            f"take a token with the role 'write' of somebody who has it ({_TOKENS_PAGE}), or publish under your own "
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


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Publish a model folder and print the commit."""
    parser = argparse.ArgumentParser(prog="python -m spider_tools.publishing", description=__doc__)
    parser.add_argument("model_folder", type=Path, help="what train.py wrote")
    parser.add_argument("repo_id", help="org/name on the Hub")
    add_flags(parser, PublishSettings)
    values = vars(parser.parse_args(argv))
    try:
        url = publish(values["model_folder"], values["repo_id"], take(PublishSettings, values))
    except (ValueError, OSError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    print(f"{url}\nPin it: revision={url.rsplit('/', 1)[-1]!r}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    main()

"""Slides by URL, read with fsspec: what a server says of them, what its folders hold, and how they get here whole.

A library's credentials are its own: `~/.aws`, `FSSPEC_S3_ANON=true`, `gcloud auth`, proxies and `.netrc`. What it says
of an error may hold the secrets of a URL, so that only what is made here is passed on.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import fsspec
from fsspec.callbacks import Callback

from ..slide_files.slide_error import SlideError, StoppedError
from .addresses import PROTOCOLS, WEB, file_of_url, protocol_of, public_address, without_secrets

_PATIENCE = 60  # seconds without a byte
_LONGEST_REASON = 300
_SHORTEST_SECRET = 2
# What tells the content of a file from an earlier one of its size, as services call it.
_VERSIONS = (
    "ETag etag generation md5Hash Content-MD5 Last-Modified LastModified last_modified mtime created updated".split()
)
# Classes of libraries that may not be installed.
_CUT_OFF = {"ClientPayloadError", "ServerDisconnectedError", "ClientOSError"}
_FORBIDDEN = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "ClientAuthenticationError"}


@dataclass(frozen=True)
class RemoteFile:
    """One file of a slide on a server.

    Attributes:
        url: With its secrets.
        name: Where it lies, relative to the folder of the slide.
        size: Bytes.
        version: What the server says that changes with its content; None if it says nothing of that sort.
    """

    url: str = field(repr=False)
    name: str
    size: int
    version: Optional[str]


def files_of_url(url: str) -> list[RemoteFile]:
    """The files of a slide, of which the first is the one to open: one, but for MIRAX.

    Raises:
        SlideError: There is no such file, it cannot be read, or the server does not say its size.
    """
    name = file_of_url(url)
    stem, suffix = os.path.splitext(name)
    first = _describe(url, name)
    if suffix.lower() != ".mrxs":
        return [first]
    beside = _entries(re.split(r"[?#]", url, maxsplit=1)[0][: -len(suffix)] + "/")
    return [first, *(_describe(entry, f"{stem}/{file_of_url(entry)}") for entry in beside)]


def version_of(files: Sequence[RemoteFile]) -> Optional[str]:
    """What changes with the content of any of the files; None where that is not known of all."""
    versions = [f"{file.name} {file.version}" for file in files if file.version is not None]
    return hashlib.sha256("\n".join(versions).encode()).hexdigest() if len(versions) == len(files) else None


def list_folder(url: str) -> list[str]:
    """URLs of the files in a folder, not in its subfolders, by their names.

    Raises:
        ValueError: There is no such folder, or it cannot be listed.
    """
    return sorted(_entries(url), key=file_of_url)


def is_folder(url: str) -> bool:
    """Whether a URL is that of a folder: it ends with a slash, or the service knows folders and says so.

    Raises:
        ValueError: The service cannot be asked.
    """
    if url.endswith("/"):
        return True
    if protocol_of(url) in WEB:  # where all of a file would have to be read to know
        return False
    with _in_words(url):
        system, path = _open(url)
        return bool(system.isdir(path))


def download(file: RemoteFile, target: Path, came: Callable[[int], Any]) -> None:
    """Write a file of a server, all of it.

    Args:
        file: Of `files_of_url`.
        target: Written to; its folder is there.
        came: Told of bytes as they come; may raise an Exception to end the download.

    Raises:
        SlideError: It cannot be read, or ends early or late.
    """
    with _in_words(file.url):
        system, path = _open(file.url)
        system.get_file(path, str(target), callback=_Counter(file, came))
    size = target.stat().st_size
    if size != file.size:
        raise SlideError(
            f"{public_address(file.url)} was cut off: {size:,} bytes came of {file.size:,}. Start again to try anew."
        )


class _Counter(Callback):
    def __init__(self, file: RemoteFile, came: Callable[[int], Any]) -> None:
        super().__init__()
        self._file, self._came, self._total = file, came, 0

    def relative_update(self, inc: int = 1) -> None:
        self._total += inc
        if self._total > self._file.size:
            address = public_address(self._file.url)
            raise SlideError(f"{address} has more bytes than the {self._file.size:,} that the server said.")
        self._came(inc)


def _describe(url: str, name: str) -> RemoteFile:
    with _in_words(url):
        system, path = _open(url)
        said = system.info(path)
    if said.get("type") == "directory":
        raise SlideError(f"{public_address(url)} is a folder: end it with a slash for the slides in it.")
    if said.get("size") is None:
        raise SlideError(
            f"{public_address(url)} has no size that the server tells, so that a download that is cut off would not be "
            "seen: copy it by other means."
        )
    versions = {key: str(said[key]) for key in _VERSIONS if said.get(key)}
    version = json.dumps([said["size"], versions], sort_keys=True) if versions else None
    return RemoteFile(url, name, int(said["size"]), version)


def _entries(url: str) -> list[str]:
    with _in_words(url):
        system, path = _open(url)
        if protocol_of(url) in WEB:
            found = [entry for entry in system.ls(path, detail=False) if entry.startswith(url)]
            # Links of a page may lead anywhere, also deeper and to the page itself in another order.
            return [entry for entry in found if re.fullmatch(r"[^/?#]+", entry[len(url) :])]
        files = [entry["name"] for entry in system.ls(path, detail=True) if entry["type"] == "file"]
        return [str(system.unstrip_protocol(name)) for name in files]


def _open(url: str) -> tuple[Any, Any]:
    """The file system of a URL, and what the file is called there."""
    protocol = protocol_of(url)
    options = _web_options(url) if protocol in WEB else {"use_listings_cache": False}
    return fsspec.core.url_to_fs(f"{protocol}{url[len(protocol) :]}", **options)


def _web_options(url: str) -> dict[str, Any]:
    import aiohttp

    patience = aiohttp.ClientTimeout(total=None, sock_connect=_PATIENCE, sock_read=_PATIENCE)
    return {
        "simple_links": False,
        "headers": {"Accept-Encoding": "identity"},  # else the size would not be that of the file
        "client_kwargs": {"timeout": patience, "trust_env": True, "raise_for_status": _refuse_status},
        # A signature in a query may be of its very letters.
        "encoded": re.fullmatch(r"[!-~]+", url) is not None,
        "skip_instance_cache": True,
    }


class _StatusError(Exception):
    """What a web server answered instead of a file."""


async def _refuse_status(response: Any) -> None:
    status = response.status
    if response.url.scheme == "http" and any(before.url.scheme == "https" for before in response.history):
        raise _StatusError(f"https leads to http, to {public_address(str(response.url))}, which others could change")
    if status in (401, 403):
        raise _StatusError(f"it may not be read with what the URL says ({status})")
    if status in (404, 410):
        raise _StatusError(f"there is no such file ({status})")
    if status >= 300:
        raise _StatusError(f"the server answers with status {status}")


@contextmanager
def _in_words(url: str) -> Iterator[None]:
    try:
        yield
    except (SlideError, StoppedError):
        raise
    except Exception as error:  # every library has classes of its own
        # The error itself may hold the URL, which a traceback would show.
        raise SlideError(f"{public_address(url)} cannot be read: {_reason(error, url)}.") from None


def _reason(error: BaseException, url: str) -> str:
    cause = error.__cause__ or error
    kinds = {type(error).__name__, type(cause).__name__}
    if isinstance(cause, _StatusError):
        return str(cause)
    if isinstance(error, ImportError):
        package = PROTOCOLS[protocol_of(url)]
        return f"{protocol_of(url)}:// needs the package {package}: pip install {package}"
    if isinstance(cause, TimeoutError) or any("Timeout" in kind for kind in kinds):
        return f"nothing came for {_PATIENCE} seconds"
    if "TooManyRedirects" in kinds:
        return "the server leads from one address to the next without an end"
    if any(kind.startswith("ClientConnector") for kind in kinds):
        return "the server cannot be reached"
    if kinds & _CUT_OFF or isinstance(cause, ConnectionError):
        return "the download was cut off"
    if isinstance(cause, FileNotFoundError):
        return "there is no such file, folder or bucket"
    if isinstance(cause, PermissionError) or kinds & _FORBIDDEN:
        return "it may not be read with the credentials that are there"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return f"{type(cause).__name__}: {_tame(str(cause), url)}".removesuffix(": ")


def _tame(text: str, url: str) -> str:
    """What a library says, in one line and without the secrets of the URL."""
    text = without_secrets(" ".join(text.replace(url, public_address(url)).split()))
    parts = {part for secret in re.findall(r"[?#].*|(?<=://)[^/]*@", url) for part in re.split(r"[?#&=:@]", secret)}
    for part in sorted(parts, key=len, reverse=True):
        text = text.replace(part, "...") if len(part) > _SHORTEST_SECRET else text
    return text.rstrip(".")[:_LONGEST_REASON]

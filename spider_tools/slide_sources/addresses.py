"""Slides by URL: which texts are URLs, what of them may be shown, and what the files are called."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from ..plain_text import escaped

PROTOCOLS = {
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "hf": "huggingface_hub",
    "memory": "fsspec",
}
"""From where slides are downloaded, and which package of PyPI that needs."""

WEB = ("http", "https")
_URL = re.compile(r"[a-z][a-z0-9+.-]+:(//|:.*://)", re.IGNORECASE)
_IN_TEXT = re.compile(r"[a-z][a-z0-9+.:-]+://[^\s'\"<>]+", re.IGNORECASE)
_COLLAPSED = re.compile(r"([a-z][a-z0-9+.-]+):/(?!/)", re.IGNORECASE)  # what Path makes of a URL
_OF_MANY_FILES = (".dcm", ".vms", ".vmu")  # which of those beside them are theirs is not known before they are read


def is_url(text: str) -> bool:
    """Whether a text is a URL, not a path; `file://` counts.

    Raises:
        ValueError: It was a URL before it became a `Path`.
    """
    collapsed = _COLLAPSED.match(text)
    if collapsed and collapsed[1].lower() in (*PROTOCOLS, "file") and not os.path.lexists(text):
        raise ValueError(f"{public_address(text.replace(':/', '://', 1))} is a URL in a Path: give URLs as text.")
    return _URL.match(text) is not None


def protocol_of(url: str) -> str:
    """What a URL begins with, in small letters: "https"."""
    return url.partition("://")[0].lower()


def public_address(url: str) -> str:
    """A URL without what may be secret: user, password, query and fragment."""
    protocol, rest = protocol_of(url), url.partition("://")[2]
    if "::" in protocol:
        return f"{protocol.partition(':')[0]}::..."
    # The last @ before any slash; what has another one later may be a password with a slash in it.
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    host = authority.rpartition("@")[2]
    later = rest[len(authority) :]
    if ":" in host and ("@" in later or not host.rpartition(":")[2].isdigit()):
        return f"{protocol}://..."
    path = re.split(r"[?#]", later, maxsplit=1)[0]
    return escaped(f"{protocol}://{host}{path}")


def without_secrets(text: str) -> str:
    """A text in which URLs are shown as by `public_address`."""
    return _IN_TEXT.sub(lambda found: public_address(found[0]), text)


def file_of_url(url: str) -> str:
    """What the file of a URL is called, its percent-encoding decoded; "" where it has no name.

    What comes of decoding may be no name of a file at all, as "../a.svs": `checked_name` refuses it.

    Raises:
        ValueError: It is not UTF-8.
    """
    rest = re.split(r"[?#]", url.partition("://")[2], maxsplit=1)[0]
    path = rest.partition("/")[2] if protocol_of(url) in WEB else rest
    try:
        return unquote(path.rpartition("/")[2], errors="strict")
    except UnicodeDecodeError as error:
        raise ValueError(f"{public_address(url)} names a file in bytes that are not UTF-8.") from error


def local_path(url: str) -> Path:
    """The path of a `file://` URL, as it stands there or decoded, whichever is there.

    Raises:
        ValueError: It is on another computer.
    """
    host, slash, path = url.partition("://")[2].partition("/")
    if host not in ("", "localhost"):
        raise ValueError(f"{public_address(url)} is on another computer, expected file:///path.")
    plain = Path(slash + path)
    return plain if os.path.lexists(plain) else Path(unquote(slash + path, errors="surrogateescape"))


def problem_of_url(url: str) -> str:
    """Why there is no slide to download from a URL, as far as that is known without asking; "" if there may be."""
    protocol, address = protocol_of(url), public_address(url)
    if protocol not in PROTOCOLS:
        known = ", ".join(f"{name}://" for name in (*PROTOCOLS, "file"))
        return f"{address} begins with {protocol}, expected one of {known}."
    suffix = os.path.splitext(file_of_url(url))[1].lower()
    if suffix in _OF_MANY_FILES:
        return (
            f"{address} is one of the many files of a slide ({suffix}): copy all of them into a folder and name that."
        )
    return ""

"""What is turned away before gradio reads it: long questions, more uploads than may be kept, and doors nobody needs."""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, Optional

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

QUESTION_BYTES = 1_000_000
"""Largest body of a request that is no upload; questions name files and numbers."""
_FORM_BYTES = 100_000  # what a form says around its file


class Door:
    """ASGI middleware in front of the page.

    Args:
        app: What is behind it.
        served: The folder with all uploads.
        largest: Bytes of one upload.
        most: Bytes of all that is kept at once; older uploads go after a while.
    """

    def __init__(self, app: Any, served: Path, largest: int, most: int) -> None:
        self._app, self._served, self._largest, self._most = app, served, largest, most

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer by itself, or let a request through, whose body then ends at the bound."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = scope["path"].rstrip("/").endswith("/upload")
        bound = self._largest + _FORM_BYTES if is_upload else QUESTION_BYTES
        refusal = self._refusal(scope, bound, is_upload)
        if refusal is None:
            await self._app(scope, _bounded(receive, bound), send)
            return
        status, sentence = refusal
        await _discard(_bounded(receive, bound))
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": sentence.encode()})

    def _refusal(self, scope: Message, bound: int, is_upload: bool) -> Optional[tuple[int, str]]:
        if "deep_link" in scope["path"].split("/"):
            return 404, "This page keeps no links to answers."
        length = _stated_length(scope)
        if length > bound:
            return 413, f"A request of {length:,} bytes has come, expected {bound:,} bytes at most."
        if is_upload and _size_of(self._served) + length > self._most:
            return 507, "Too much was uploaded by everybody in the last while: please try again later."
        return None


async def _discard(receive: Receive) -> None:
    """Read a body to its end: who still sends does not listen."""
    while (await receive()).get("more_body"):
        pass


def _bounded(receive: Receive, bound: int) -> Receive:
    """The same messages, up to so many bytes of body; after them the visitor seems to have left."""
    come = 0

    async def receive_some() -> Message:
        nonlocal come
        message = await receive()
        come += len(message.get("body", b""))
        return {"type": "http.disconnect"} if come > bound else message

    return receive_some


def _stated_length(scope: Message) -> int:
    stated = dict(scope["headers"]).get(b"content-length", b"")
    return int(stated) if stated.isdigit() else 0


def _size_of(folder: Path) -> int:
    """Bytes of all files below a folder; those that go meanwhile count nothing."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return size

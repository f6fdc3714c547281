"""A JSON list that is longer than the memory, value by value."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO


class RepeatedKeys(dict):
    """A JSON object with a key that appears more than once; `first` is such a key."""

    first = ""


class LongNumber:
    """A whole number of more digits than Python converts."""

    def __init__(self, digits: int) -> None:
        self._digits = digits

    def __repr__(self) -> str:
        return f"a number of {self._digits:,} digits"


def _whole_number(text: str) -> int | LongNumber:
    try:
        return int(text)
    except ValueError:
        return LongNumber(len(text.lstrip("-")))


def _as_object(pairs: list[tuple[str, Any]]) -> dict:
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    keys = [key for key, _ in pairs]
    repeated = RepeatedKeys(result)
    repeated.first = next(key for number, key in enumerate(keys) if key in keys[:number])
    return repeated


def iterate_json_list(path: Path) -> Iterator[Any]:
    """The values of a JSON list, one after the other, with the memory of a few.

    A published file of 160,000 records is hundreds of megabytes long, and as Python objects many times that.
    """
    with open(path, encoding="utf-8-sig") as file:
        window = JsonWindow(path, file)
        window.expect("[")
        if window.peek() == "]":
            raise ValueError(f"{path} is an empty list, expected records.")
        separator = ","
        while separator == ",":
            yield window.value()
            separator = window.expect(",]")
        window.expect_end()


class JsonWindow:
    """The part of a JSON file that is being decoded."""

    CHUNK = 1 << 22  # characters read at once
    LONGEST = 1 << 24  # characters of the longest value
    _SPACE = re.compile(r"[ \t\r\n]*")

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file
        self._text, self._position, self._done = "", 0, 0
        self._decoder = json.JSONDecoder(object_pairs_hook=_as_object, parse_int=_whole_number)

    def value(self) -> Any:
        """Decode the next value."""
        if len(self._text) - self._position < self.CHUNK // 4:
            self._fill()
        self.peek()
        while True:
            try:
                value, self._position = self._decoder.raw_decode(self._text, self._position)
                return value
            except json.JSONDecodeError as error:
                place = self._done + error.pos
                # The value may go on beyond the window.
                if len(self._text) - self._position > self.LONGEST or not self._fill():
                    raise self._failure(error.msg, place) from error
            except RecursionError as error:
                raise self._failure("objects are nested too deeply") from error

    def peek(self) -> str:
        """Skip white space; the next character, or an empty string at the end."""
        while True:
            match = self._SPACE.match(self._text, self._position)
            self._position = match.end() if match else self._position
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._fill():
                return ""

    def expect(self, characters: str) -> str:
        """Read one of the characters."""
        character = self.peek()
        if not character or character not in characters:
            found = repr(character) if character else "the end of the file"
            raise self._failure(f"expected {' or '.join(map(repr, characters))}, got {found}")
        self._position += 1
        return character

    def expect_end(self) -> None:
        """Refuse anything but white space."""
        if self.peek():
            raise self._failure("unexpected text after the end of the list")

    def _failure(self, problem: str, place: int | None = None) -> ValueError:
        place = self._done + self._position if place is None else place
        return ValueError(f"{self._path} is not a JSON list of records: {problem}, at character {place}.")

    def _fill(self) -> bool:
        try:
            more = self._file.read(self.CHUNK)
        except UnicodeDecodeError as error:
            raise ValueError(f"{self._path} is not UTF-8 text: {error}.") from error
        self._done += self._position
        self._text, self._position = self._text[self._position :] + more, 0
        return bool(more)

"""Names from anywhere as text that neither a terminal nor a spreadsheet takes for something to do."""

import unicodedata
from typing import Any

# What begins a formula in Excel, LibreOffice or Google Sheets; the last four are the wide forms of the first.
_FORMULA_SIGNS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_BEFORE_A_FORMULA = ("\t", "\r", "\n")
_CONTROLS = ("Cc", "Cs", "Zl", "Zp")  # Unicode's controls, lone surrogates and line ends
_TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # show text in another order than it has


def escaped(text: str) -> str:
    r"""Text whose control characters, line ends and bytes that are no UTF-8 are written as `\x1b`, `\n`, `\udcff`."""
    return "".join(char.encode("unicode_escape").decode("ascii") if _is_control(char) else char for char in text)


def spreadsheet_cell(text: str) -> str:
    """Escaped text with an apostrophe before what a spreadsheet would run as a formula, as it does itself."""
    runs = text.startswith(_BEFORE_A_FORMULA) or text.lstrip().startswith(_FORMULA_SIGNS)
    return "'" * runs + escaped(text)


def markdown_cell(value: Any) -> str:
    """A value as a cell of a Markdown table: in one line, with nothing that ends the cell or starts HTML."""
    return escaped(" ".join(str(value).split())).replace("|", "\\|").replace("<", "&lt;")


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in _CONTROLS or unicodedata.bidirectional(char) in _TURNING

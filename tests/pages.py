"""What a page of the documentation tells its reader to type and to write: so that tests can do just that."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """The lines after a prompt, in their order."""
    blocks = [text for language, text in _blocks(page) if language == "console"]
    return [line.removeprefix("$ ") for text in blocks for line in text.splitlines() if line.startswith("$ ")]


def files(page: str) -> dict[str, str]:
    """The files whose names stand in the first line of a block, as a comment."""
    found = {}
    for _, text in _blocks(page):
        first, _, rest = text.partition("\n")
        if re.fullmatch(r"# [\w.-]+\.\w+", first):
            found[first.removeprefix("# ")] = rest
    return found


def _blocks(page: str) -> list[tuple[str, str]]:
    return _BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))

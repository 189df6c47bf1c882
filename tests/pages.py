"""The code blocks of a documentation page, so that tests run what it says."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    """The texts of all blocks of a language on a page below docs/, in their order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [found[2] for found in _BLOCK.finditer(text) if found[1] == language]


def files(page: str) -> dict[str, str]:
    """The files of a page: blocks whose first line is a comment with the file's name."""
    texts = [found[2] for found in _BLOCK.finditer((DOCS / page).read_text(encoding="utf-8"))]
    named = ((re.match(r"# ([\w.-]+\.\w+)\n", text), text) for text in texts)
    return {name[1]: text for name, text in named if name}


def commands(page: str) -> list[str]:
    """What a reader types: every line of the console blocks with a prompt."""
    lines = "".join(blocks(page, "console")).splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]

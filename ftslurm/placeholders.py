"""Names in a command that every attempt fills in anew: `{nnodes}`, `{world}`, `{master_addr}` and the others below.

They serve commands whose text nobody can rewrite, as in `bash -c 'mylauncher --hosts {nnodes} ...'`. Exactly these
names in single braces are filled in; `${rank}` is the shell's, `{{rank}}` somebody's template, and both stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

NAMES = ("nnodes", "world", "master_addr", "master_port", "node_rank", "rank")
_ANY = re.compile(r"(?<![${])\{(" + "|".join(NAMES) + r")\}(?!\})")


def used(command: Sequence[str]) -> frozenset[str]:
    """Return the names that a command has."""
    return frozenset(found[1] for word in command for found in _ANY.finditer(word))


def filled(command: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Return the command with the values of one rank, by name."""
    return [_ANY.sub(lambda found: values[found[1]], word) for word in command]

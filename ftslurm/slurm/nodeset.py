"""Node lists in Slurm's short form, without asking Slurm: `expand` and `fold`.

Both keep the order, because the order of SLURM_JOB_NODELIST is what users' programs map ranks by; a *set* of nodes
(ClusterShell's NodeSet) sorts and must never do that. The law: `expand(fold(names)) == names` for names without
duplicates. Own code, since `scontrol show hostnames` fails where no slurm.conf is found, and is a process per call.

The grammar is that of Slurm's hostlist (scontrol(1), "show hostnames"): names separated by commas outside brackets;
in brackets numbers and ranges, padded with zeros; several brackets a name, the last one running fastest. What `fold`
writes is narrower: one bracket, at the end of the name, which every release reads.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ftslurm.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_NODES = 65_536
MAX_CHARS = 1_048_576
_PART = re.compile(r"((?:[^,\[\]]|\[[^\[\]]*\])+)(?:,|$)")
_PIECE = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+)")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")
_NUMBERED = re.compile(r"(.*?)([0-9]{1,18})")


def expand(text: str) -> tuple[str, ...]:
    """The names in `text`, in order, each once; `` gives none.

    Raises:
        UsageError: not a node list, or more than MAX_NODES names.
    """
    if len(text) > MAX_CHARS:
        raise UsageError(f"a node list of {len(text)} characters is too long (limit {MAX_CHARS})")
    names: dict[str, None] = {}
    position = 0
    while position < len(text):
        match = _PART.match(text, position)
        if not match:
            raise _not_a_list(text)
        names.update(dict.fromkeys(_expand_part(match[1], text)))
        if len(names) > MAX_NODES:
            raise UsageError(f"more than {MAX_NODES} nodes in {_short(text)}")
        position = match.end()
    if text.endswith(","):
        raise _not_a_list(text)
    return tuple(names)


def fold(names: Iterable[str]) -> str:
    """`names` in Slurm's short form, in the given order: n1 n2 n3 m5 is `n[1-3],m5`.

    Raises:
        UsageError: one of them is not a node's name.
    """
    groups: list[tuple[str, list[str]]] = []
    for name in names:
        prefix, digits = _split(name)
        if digits and groups and groups[-1][0] == prefix and groups[-1][1]:
            groups[-1][1].append(digits)
        else:
            groups.append((prefix, [digits] if digits else []))
    return ",".join(prefix + _fold_numbers(numbers) for prefix, numbers in groups)


def check_name(name: str) -> str:
    """`name` itself if it can be a node's name; it is safe as an argument of a command then.

    Raises:
        UsageError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{_short(name)} is not the name of a node")
    return name


def _expand_part(part: str, text: str) -> list[str]:
    """All names of one comma-separated part: the product over its brackets."""
    names = [""]
    for inside, plain in _PIECE.findall(part):
        endings = [plain] if plain else _expand_bracket(inside, text)
        if len(names) * len(endings) > MAX_NODES:
            raise UsageError(f"more than {MAX_NODES} nodes in {_short(text)}")
        names = [name + ending for name in names for ending in endings]
    if not all(map(_NAME.fullmatch, names)):
        raise _not_a_list(text)
    return names


def _expand_bracket(inside: str, text: str) -> list[str]:
    """`1-3,07` as 1 2 3 07; the width of a range is that of its lower end, as in Slurm."""
    numbers: list[str] = []
    for item in inside.split(","):
        match = _RANGE.fullmatch(item)
        if not match:
            raise _not_a_list(text)
        low, high = match[1], match[2] or match[1]
        if int(high) < int(low) or len(high) < len(low) or (high[0] == "0" and len(high) != len(low)):
            raise _not_a_list(text)
        if int(high) - int(low) >= MAX_NODES or len(numbers) > MAX_NODES:
            raise UsageError(f"more than {MAX_NODES} nodes in {_short(text)}")
        numbers += [str(number).zfill(len(low)) for number in range(int(low), int(high) + 1)]
    return numbers


def _split(name: str) -> tuple[str, str]:
    """(prefix, trailing digits) of a name; no digits where they are too many to count with, or all there is."""
    check_name(name)
    match = _NUMBERED.fullmatch(name)
    return (match[1], match[2]) if match and match[1] else (name, "")


def _fold_numbers(numbers: list[str]) -> str:
    """Digits of names with one prefix: `3`, or `[3,1-2]`."""
    if len(numbers) <= 1:
        return "".join(numbers)
    runs: list[list[str]] = []
    for digits in numbers:
        if runs and str(int(runs[-1][-1]) + 1).zfill(len(runs[-1][0])) == digits:
            runs[-1].append(digits)
        else:
            runs.append([digits])
    return "[" + ",".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs) + "]"


def _not_a_list(text: str) -> UsageError:
    return UsageError(f"{_short(text)} is not a node list", hint="write it as Slurm does: node[01-04,07],login1")


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")

"""Where nodes are and how loaded, from Slurm's own words. What Slurm does not say is left out."""

from __future__ import annotations

import re

from ftslurm.errors import UsageError
from ftslurm.slurm import nodeset

_SWITCH = re.compile(r"SwitchName=(\S+)\s+Level=(\d+).*?\sNodes=(\S+)")
_NODE = re.compile(r"^NodeName=(\S+)", re.MULTILINE)
_NUMBERS = re.compile(r"\b(CPULoad|CPUTot)=([0-9.]+)")


def switches(text: str) -> dict[str, str]:
    """Return the leaf switch of every node, from `scontrol show topology`; none where the site has no tree."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = _SWITCH.search(line)
        if match is None or match[2] != "0":
            continue
        try:
            names = nodeset.expand(match[3])
        except UsageError:
            continue
        found.update(dict.fromkeys(names, match[1]))
    return found


def loads(text: str) -> dict[str, float]:
    """Return the load per CPU of every node, from `scontrol show node -o`; a node without a load (N/A) is left out."""
    found = {}
    for line in text.splitlines():
        name, numbers = _NODE.match(line), dict(_NUMBERS.findall(line))
        if name is not None and "CPULoad" in numbers and float(numbers.get("CPUTot", 0)) > 0:
            found[name[1]] = float(numbers["CPULoad"]) / float(numbers["CPUTot"])
    return found

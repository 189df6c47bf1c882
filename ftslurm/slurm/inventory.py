"""What kinds of nodes a site has, from sinfo: by partition and equipment, how many, and how many stand idle now.

sinfo(1). `--exact` keeps nodes of different equipment apart; %F counts nodes as allocated/idle/other/total. A line of
another form is left out: what is not known of a site is not guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftslurm.slurm.parse import SEPARATOR

if TYPE_CHECKING:
    from ftslurm.slurm.client import SlurmClient

COLUMNS = SEPARATOR.join(("%R", "%a", "%F", "%c", "%m", "%G"))
_NUMBER = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([KM]?)\+?")
_GPUS = re.compile(r"(?:^|,)gpu(?::([^:(),]+))?:([0-9]{1,4})(?=[(,]|$)")
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """The nodes of a partition that are equipped alike.

    Attributes:
        partition: its name, as Slurm has it.
        gpu: the type of their GPUs as the site calls it; empty: none is said, or there are none.
        gpus: how many of these a node has; a node with two types of them is two groups.
        cpus: of a node.
        memory_bytes: of a node, as Slurm counts it.
        idle: how many stand idle.
        total: how many there are, whatever their state.
    """

    partition: str
    gpu: str = ""
    gpus: int = 0
    cpus: int = 0
    memory_bytes: int = 0
    idle: int = 0
    total: int = 0

    @property
    def label(self) -> str:
        """How people tell it from others."""
        return f"{self.partition}: {self.gpus} x {self.gpu or 'GPU'}" if self.gpus else f"{self.partition}: no GPU"


def node_groups(client: SlurmClient) -> tuple[NodeGroup, ...]:
    """Return the groups of nodes of all partitions that are up, in Slurm's order.

    Raises:
        ServiceUnavailable: Slurm did not answer, or is not here.
        Refused: Slurm's answer is no.
    """
    return groups(client.run(["sinfo", "--noheader", "--exact", "-o", COLUMNS]).check().stdout)


def groups(text: str) -> tuple[NodeGroup, ...]:
    """Return what sinfo has said; nodes of a partition that differ in nothing that is shown here are one group."""
    found: dict[tuple[str, str, int, int, int], NodeGroup] = {}
    for line in text.splitlines():
        for group in _groups_of(line):
            key = (group.partition, group.gpu, group.gpus, group.cpus, group.memory_bytes)
            before = found.get(key)
            found[key] = group if before is None else _together(before, group)
    return tuple(found.values())


def _together(one: NodeGroup, other: NodeGroup) -> NodeGroup:
    return NodeGroup(
        partition=one.partition,
        gpu=one.gpu,
        gpus=one.gpus,
        cpus=one.cpus,
        memory_bytes=one.memory_bytes,
        idle=one.idle + other.idle,
        total=one.total + other.total,
    )


def _groups_of(line: str) -> list[NodeGroup]:
    cells = line.split(SEPARATOR)
    if len(cells) != 6 or cells[1].strip() != "up":
        return []
    counts = [_number(cell) for cell in cells[2].split("/")]
    cpus, memory = _number(cells[3]), _number(cells[4])
    if len(counts) != 4 or None in (*counts, cpus, memory):
        return []
    gpus = [(kind, int(count)) for kind, count in _GPUS.findall(cells[5])] or [("", 0)]
    return [
        NodeGroup(
            partition=cells[0].strip(),
            gpu=kind,
            gpus=count,
            cpus=cpus or 0,
            memory_bytes=(memory or 0) * _MIB,
            idle=counts[1] or 0,
            total=counts[3] or 0,
        )
        for kind, count in gpus
    ]


def _number(text: str) -> int | None:
    """A count, which large sites see as `1.5K`; a least one ends with `+`."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    return round(float(match[1]) * {"": 1, "K": 2**10, "M": 2**20}[match[2]])

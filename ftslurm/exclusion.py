"""Which nodes a new job leaves out, and why: the user's own list, those the run has given up, the ledger's lemons.

The ledger never stands in the way: where it cannot be read, or Slurm does not know the partition, nothing is
left out for its sake and a note says so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftslurm import ledger
from ftslurm.core.lemons import Record, Standing, judge, to_exclude
from ftslurm.errors import FtslurmError
from ftslurm.slurm import nodeset

if TYPE_CHECKING:
    from pathlib import Path

    from ftslurm.slurm.client import SlurmClient

ALL = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a job asks for: `nodes` of `partition` (empty: the default one), and nodes that are left out anyway."""

    nodes: int
    partition: str | None = None
    given: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """The whole list, and what there is to say about it."""

    nodes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def names(text: str) -> tuple[str, ...]:
    """Return the nodes of a list on the command line, as Slurm writes it.

    Raises:
        UsageError: it is not a node list.
    """
    return nodeset.expand(text) if text else ()


def standing(folder: Path, fleet: tuple[str, ...]) -> tuple[Record, ...]:
    """Return what the ledger says of every node that it knows, worst first; `fleet` are the nodes to judge among.

    Raises:
        StorageError: the ledger cannot be read.
    """
    found = ledger.read(folder)
    known = {each.node for each in found.marks}
    return judge(found.marks, found.forgiven, time.time(), len(known | set(fleet)))


def fleet_of(client: SlurmClient, partition: str | None) -> tuple[str, ...]:
    """Return the nodes of a partition, by default of the one that jobs go to; none where Slurm knows none.

    Raises:
        ServiceUnavailable: slurmctld does not answer.
    """
    if not partition:
        defaults = [name for name, fields in client.partitions().items() if fields.get("Default") == "YES"]
        partition = defaults[0] if defaults else ALL
    return client.partition_nodes(partition) if partition else ()


def by_ledger(client: SlurmClient, folder: Path, wanted: Wanted) -> Exclusion:
    """Return the nodes to leave out: those that are given, and the lemons that the partition can do without."""
    try:
        if not ledger.read(folder).marks:
            return Exclusion(nodes=wanted.given)
        fleet = fleet_of(client, wanted.partition)
        records = standing(folder, fleet)
    except FtslurmError as error:
        return Exclusion(nodes=wanted.given, notes=(f"the node ledger excludes nothing: {error}",))
    rest = tuple(node for node in fleet if node not in wanted.given)
    chosen = to_exclude(records, rest, wanted.nodes)
    notes = [f"the node ledger excludes {each.node}: {each.reason}" for each in chosen]
    lemons = [each for each in records if each.standing is Standing.LEMON and each.node in rest and each not in chosen]
    if lemons:
        left = ", ".join(each.node for each in lemons)
        why = f"{wanted.nodes} of {len(rest)} nodes are asked for, and at most 5 % (or one) are ever left out"
        notes.append(f"the node ledger would exclude {left} too, and does not: {why}")
    return Exclusion(nodes=(*wanted.given, *(each.node for each in chosen)), notes=tuple(notes))

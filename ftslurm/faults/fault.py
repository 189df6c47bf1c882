"""What a fault is: what is done to what, and what is right to conclude from it and to do about it. It is data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ftslurm.faults.deeds import Deed

SLOW_S = 90.0
"""A slow rank is named after five windows of ten seconds."""

SLOW_RANKS = 3
"""Of two ranks nobody can say which one is slow (`ftslurm.core.progress.scores`)."""


class Where(StrEnum):
    """What a fault is done to. NODE is one that the supervisor does not run on, HOST the one that it does."""

    RANK = "rank"
    NODE = "node"
    HOST = "host"
    SUPERVISOR = "supervisor"
    STORAGE = "storage"
    CONTROLLER = "controller"
    CHECKPOINT = "checkpoint"
    PROGRAM = "program"


class Need(StrEnum):
    """What a fault cannot do without. YES: it cannot be undone and costs something, so somebody must say yes."""

    ROOT = "root"
    LAB = "lab"
    GPU = "gpu"
    PROGRAM = "program"
    YES = "yes"


PRIVILEGED = frozenset({Need.ROOT, Need.LAB})


class Expected(StrEnum):
    """What the run is right to do."""

    RELAUNCH = "relaunch"
    RELAUNCH_WITHOUT_NODE = "relaunch without the node"
    SUCCESSOR = "another supervisor, training goes on"
    SUCCESSOR_WITHOUT_HOST = "another supervisor, relaunch without the host"
    TELL = "tell, and nothing else"
    NOTHING = "nothing"
    REFUSE = "refuse the checkpoint, use the one before it"
    WAIT = "wait, and try again"
    END = "end, so that it can be resumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault.

    Attributes:
        name: what the command calls it.
        row: its row of the fault matrix.
        what: it in one sentence.
        where: what it is done to.
        deed: how it is done.
        needs: what it cannot do without.
        causes: the slugs that the run may rightly say of it; empty: it is right to say nothing.
        may_pass: it is right as well to say nothing.
        costs_node: it is right to exclude the node.
        stops_training: a new attempt must follow.
        expected_action: what the run is right to do.
        undo: how it is undone; empty: it needs no undoing, or there is none (`Need.YES`).
        lasts_s: how long it lasts unless somebody says otherwise; None: it is over at once.
        stand_in: the fault without privileges that comes next to it.
        no_stand_in: why there is none.
        ranks: in a run with fewer ranks it cannot be noticed.
        weight: its share of the failures of a large training (`weights`); 0: never drawn by default.
    """

    name: str
    row: int
    what: str
    where: Where
    deed: Deed
    needs: frozenset[Need] = frozenset()
    causes: frozenset[str] = frozenset()
    may_pass: bool = False
    costs_node: bool = False
    stops_training: bool = True
    expected_action: Expected = Expected.RELAUNCH
    undo: str = ""
    lasts_s: float | None = None
    stand_in: str = ""
    no_stand_in: str = ""
    ranks: int = 1
    weight: float = 0.0

    @property
    def privileged(self) -> bool:
        """Whether an ordinary user cannot make it on a cluster."""
        return bool(self.needs & PRIVILEGED)

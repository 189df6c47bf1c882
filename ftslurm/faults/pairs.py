"""Row 18 of the fault matrix: a second fault while the first is being recovered from."""

from __future__ import annotations

from ftslurm.core.diagnosis import Cause
from ftslurm.faults.deeds import Moment, Pair
from ftslurm.faults.fault import Expected, Fault, Need, Where

GONE = frozenset({Cause.NODE_UNREACHABLE, Cause.NODE_DOWN})

FAULTS = (
    Fault(
        name="kill-kill",
        row=18,
        what="a rank is killed, and another one as soon as the ranks are started again",
        where=Where.RANK,
        deed=Pair(first="kill", second="kill", moment=Moment.RELAUNCH),
        causes=frozenset({Cause.RANK_KILLED}),
    ),
    Fault(
        name="kill-supervisor",
        row=18,
        what="a rank is killed, and the supervisor before it has decided",
        where=Where.RANK,
        deed=Pair(first="kill", second="supervisor-kill", moment=Moment.DETECTION),
        causes=frozenset({Cause.RANK_KILLED, "supervisor_restarted", "taken_over"}),
    ),
    Fault(
        name="kill-cut",
        row=18,
        what="a rank is killed, and a node's cable is pulled while the ranks are started again",
        where=Where.RANK,
        deed=Pair(first="kill", second="node-cut", moment=Moment.RELAUNCH),
        needs=frozenset({Need.LAB}),
        causes=frozenset({Cause.RANK_KILLED}) | GONE,
        costs_node=True,
        expected_action=Expected.RELAUNCH_WITHOUT_NODE,
        undo="the cable is put back",
        lasts_s=600.0,
        stand_in="kill-kill",
    ),
    Fault(
        name="corrupt-kill",
        row=18,
        what="a bit of the newest checkpoint flips, and then a rank is killed: that checkpoint is wanted, and refused",
        where=Where.RANK,
        deed=Pair(first="checkpoint-flip", second="kill", moment=Moment.DETECTION),
        needs=frozenset({Need.YES}),
        causes=frozenset({Cause.RANK_KILLED, Cause.CHECKPOINT_DAMAGED}),
        expected_action=Expected.REFUSE,
    ),
)

"""Rows 17 and 19 of the fault matrix: the scheduler, and those who watch the run."""

from __future__ import annotations

from ftslurm.core.diagnosis import Cause
from ftslurm.faults.deeds import Controller, Prey, Schedule, Send
from ftslurm.faults.fault import Expected, Fault, Need, Where

LAB = frozenset({Need.LAB})
ANOTHER = frozenset({"supervisor_restarted", "taken_over"})

FAULTS = (
    Fault(
        name="controller-stop",
        row=17,
        what="slurmctld is stopped: Slurm answers nobody",
        where=Where.CONTROLLER,
        deed=Controller(kill=False),
        needs=LAB,
        stops_training=False,
        expected_action=Expected.NOTHING,
        undo="slurmctld goes on",
        lasts_s=20.0,
        no_stand_in="only an administrator can stop slurmctld",
    ),
    Fault(
        name="controller-kill",
        row=17,
        what="slurmctld is killed",
        where=Where.CONTROLLER,
        deed=Controller(kill=True),
        needs=LAB,
        stops_training=False,
        expected_action=Expected.NOTHING,
        undo="slurmctld is started again",
        lasts_s=20.0,
        no_stand_in="only an administrator can stop slurmctld",
    ),
    Fault(
        name="node-drain",
        row=17,
        what="an administrator drains a node (scontrol update State=DRAIN)",
        where=Where.NODE,
        deed=Schedule(verb="drain"),
        needs=LAB,
        causes=frozenset({Cause.NODE_UNHEALTHY, Cause.EXCISED, "health_warning", "node_left_out"}),
        may_pass=True,
        stops_training=False,
        expected_action=Expected.NOTHING,
        undo="the node is resumed",
        lasts_s=30.0,
        no_stand_in="only an administrator changes the state of a node",
    ),
    Fault(
        name="requeue",
        row=17,
        what="the job is requeued (scontrol requeue)",
        where=Where.CONTROLLER,
        deed=Schedule(verb="requeue"),
        needs=frozenset({Need.YES}),
        causes=frozenset({"requeued", Cause.CANCEL, Cause.PREEMPTION, Cause.SCHEDULER, Cause.RANK_KILLED}),
    ),
    Fault(
        name="cancel",
        row=17,
        what="the job is cancelled (scancel)",
        where=Where.CONTROLLER,
        deed=Schedule(verb="cancel"),
        needs=frozenset({Need.YES}),
        causes=frozenset({Cause.CANCEL}),
        expected_action=Expected.END,
    ),
    Fault(
        name="supervisor-kill",
        row=19,
        what="the supervisor gets SIGKILL",
        where=Where.SUPERVISOR,
        deed=Send(signal="SIGKILL", to=Prey.SUPERVISOR),
        causes=ANOTHER,
        stops_training=False,
        expected_action=Expected.SUCCESSOR,
    ),
    Fault(
        name="supervisor-stop",
        row=19,
        what="the supervisor is stopped (SIGSTOP)",
        where=Where.SUPERVISOR,
        deed=Send(signal="SIGSTOP", to=Prey.SUPERVISOR, back="SIGCONT"),
        causes=ANOTHER,
        stops_training=False,
        expected_action=Expected.SUCCESSOR,
        undo="SIGCONT",
        lasts_s=60.0,
    ),
    Fault(
        name="agent-kill",
        row=19,
        what="a node's agent gets SIGKILL",
        where=Where.NODE,
        deed=Send(signal="SIGKILL", to=Prey.AGENT),
        causes=frozenset({Cause.AGENT_LOST}),
        stops_training=False,
        expected_action=Expected.TELL,
    ),
)

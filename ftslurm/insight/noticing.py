"""Who noticed a failure, in words, from the event with which it came to light."""

from __future__ import annotations

from ftslurm.core.events import (
    AgentLost,
    AllocationGranted,
    Event,
    LaunchEnded,
    NodeFenced,
    NodeSuspected,
    RankExited,
    SlurmReported,
    TimerFired,
    WorldMustered,
)
from ftslurm.core.symptoms import AutopsyTaken, LossAlarm


def who_noticed(event: Event, node: str) -> str:
    """One sentence; `node` is the one that it is about, where it is about one."""
    match event:
        case NodeSuspected():
            others = f"; {event.peers_silent} of {event.peers} other nodes silent too" if event.peers else ""
            return f"{event.node} was silent for {event.silent_s:.1f} s (suspicion phi {event.phi:.1f}{others})"
        case AgentLost():
            return f"the agent of {event.node} closed its connection ({event.reason or 'no reason given'})"
        case RankExited():
            end = f"was ended by signal {event.signal}" if event.signal else f"exited with code {event.code}"
            return f"rank {event.rank} on {event.node} {end}"
        case LaunchEnded():
            return f"the launcher of attempt {event.attempt} ended with code {event.code} before every rank was there"
        case WorldMustered():
            return f"the ranks of attempt {event.attempt} came up, but not as planned"
        case SlurmReported():
            return f"Slurm does not count {node} among the job's nodes any more"
        case NodeFenced():
            return f"{event.node} has processes that would not die"
        case AutopsyTaken():
            return "the ranks of an attempt made no progress, and were looked at"
        case LossAlarm():
            return f"rank {event.rank} told the loss {event.value} at step {event.step}"
        case TimerFired():
            return _timer(event.name.partition(":")[0], node)
        case AllocationGranted():
            how = f"taken over by {event.host}" if event.takeover else "started again"
            return f"the supervisor was {how} in the middle of a launch"
        case _:
            return f"{type(event).__name__} about {node}" if node else type(event).__name__


def _timer(name: str, node: str) -> str:
    known = {
        "agents": f"no agent came up on {node} in time",
        "fence": f"{node} did not confirm in time that its ranks are gone",
        "muster": "not every rank came up in time",
        "reprobe": f"{node} is still silent",
        "autopsy": "the ranks of an attempt made no progress, and nobody could look at them in time",
        "agent": f"the agent that was started again on {node} did not come",
    }
    return known.get(name, f"the timer {name} ran out")

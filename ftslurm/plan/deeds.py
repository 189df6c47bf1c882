"""What the core does, in a few words for a person: one line for an action."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ftslurm.core.actions import (
    Action,
    AskToSave,
    Drain,
    EndRun,
    FenceAttempt,
    LaunchAttempt,
    ProbeNode,
    Replicate,
    Requeue,
    Restore,
    Say,
    SetTimer,
)
from ftslurm.insight.text import count, folded


def deeds(actions: Iterable[Action]) -> tuple[Action, ...]:
    """What is done: neither what is said, and for what reason, nor for how long is waited."""
    done = (each for each in actions if not isinstance(each, Say | SetTimer))
    return tuple(replace(each, reason="") if isinstance(each, EndRun | Requeue) else each for each in done)


def told(actions: Iterable[Action]) -> tuple[str, ...]:
    """The same in words."""
    return tuple(words(each) for each in deeds(actions))


def words(action: Action) -> str:
    """Return what an action does; one that says something is told by its slug and its text."""
    match action:
        case Say():
            return f"says {action.slug}: {action.text}" if action.slug else f"says: {action.text}"
        case SetTimer():
            return f"waits {action.after_s:g} s at most ({action.name})"
        case LaunchAttempt():
            start = f"from {action.generation}" if action.generation else "from the beginning"
            return f"starts attempt {action.attempt} on {folded(action.nodes)}, {start}"
        case Requeue():
            without = f" without {folded(action.exclude)}" if action.exclude else ""
            return f"asks for {count(action.num_nodes, 'node')}{without} ({action.by})"
        case EndRun():
            why = f": {action.reason}" if action.reason else ""
            return f"ends the run: {action.phase}, exit code {action.code}{why}"
        case FenceAttempt():
            return f"stops attempt {action.attempt} on {folded(action.nodes)}"
        case Restore():
            return f"brings {action.generation} to {folded(action.nodes)}"
        case Drain():
            return f"copies {action.generation} to shared storage from {folded(action.nodes)}"
        case Replicate():
            return f"has partners copy {action.generation}"
        case AskToSave():
            return f"asks the program to save ({action.why})"
        case ProbeNode():
            return f"asks about {action.node}"
        case _:
            return type(action).__name__

"""What a diagnosis is made of: the causes and classes of failures, the scope, and the record that carries the reason.

How one is reached: `core.verdict` judges a silent node, `core.fusion` weighs all that is known of an attempt's end.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """What happened, as finely as the evidence tells it. `FailureClass` says whose trouble it is."""

    RANK_KILLED = "rank_killed"
    RANK_CRASHED = "rank_crashed"
    APPLICATION_ERROR = "application_error"
    NAN = "nan"
    PROGRAM_HANG = "program_hang"
    OOM_HOST = "oom_host"
    OOM_GPU = "oom_gpu"
    NODE_UNREACHABLE = "node_unreachable"
    NODE_FROZEN = "node_frozen"
    NODE_DOWN = "node_down"
    NODE_UNKILLABLE = "node_unkillable"
    NODE_UNHEALTHY = "node_unhealthy"
    EXCISED = "excised"
    AGENT_LOST = "agent_lost"
    FABRIC = "fabric"
    GPU = "gpu"
    STORAGE = "storage"
    TIME_LIMIT = "time_limit"
    PREEMPTION = "preemption"
    CANCEL = "cancel"
    SCHEDULER = "scheduler"
    LAUNCH_FAILED = "launch_failed"
    WRONG_WORLD = "wrong_world"
    CHECKPOINT_DAMAGED = "checkpoint_damaged"
    UNKNOWN = "unknown"


class FailureClass(StrEnum):
    """Whose trouble a failure is: the classes of reports, metrics and the ledger."""

    APPLICATION = "application"
    PROGRAM_HANG = "program_hang"
    OOM_HOST = "oom_host"
    OOM_GPU = "oom_gpu"
    NODE_DOWN = "node_down"
    NODE_UNREACHABLE = "node_unreachable"
    FABRIC = "fabric"
    GPU = "gpu"
    STORAGE = "storage"
    TIME_LIMIT = "time_limit"
    PREEMPTION = "preemption"
    CANCEL = "cancel"
    SCHEDULER = "scheduler"
    UNKNOWN = "unknown"


_CLASSES = {
    Cause.RANK_KILLED: FailureClass.APPLICATION,
    Cause.RANK_CRASHED: FailureClass.APPLICATION,
    Cause.APPLICATION_ERROR: FailureClass.APPLICATION,
    Cause.NAN: FailureClass.APPLICATION,
    Cause.NODE_FROZEN: FailureClass.NODE_UNREACHABLE,
    Cause.NODE_UNKILLABLE: FailureClass.NODE_DOWN,
    Cause.NODE_UNHEALTHY: FailureClass.NODE_DOWN,
    Cause.EXCISED: FailureClass.SCHEDULER,
    Cause.AGENT_LOST: FailureClass.UNKNOWN,
    Cause.LAUNCH_FAILED: FailureClass.SCHEDULER,
    Cause.WRONG_WORLD: FailureClass.SCHEDULER,
    Cause.CHECKPOINT_DAMAGED: FailureClass.STORAGE,
}
"""The causes whose class has another name. APPLICATION means that a process of the program ended or failed and nothing
speaks against node, device, storage or scheduler: a rank that somebody killed belongs there, since its node is kept."""


NODE_CAUSES = frozenset(
    {
        Cause.NODE_UNREACHABLE,
        Cause.NODE_FROZEN,
        Cause.NODE_DOWN,
        Cause.NODE_UNKILLABLE,
        Cause.NODE_UNHEALTHY,
        Cause.EXCISED,
    }
)
"""Causes that befall a node as a whole."""


def class_of(cause: Cause) -> FailureClass:
    """Return the class that a cause belongs to."""
    return _CLASSES.get(cause) or FailureClass(cause.value)


class Scope(StrEnum):
    """What a diagnosis is about."""

    RANK = "rank"
    NODE = "node"
    JOB = "job"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """A verdict with its reason; `signature` is equal for two failures that look the same."""

    cause: Cause
    scope: Scope
    where: str
    confidence: float
    reason: str
    signature: str = ""

    @property
    def blames_node(self) -> bool:
        """Whether it speaks against a node as such, and not only against what ran there."""
        return self.scope is Scope.NODE and self.cause in NODE_CAUSES | {Cause.GPU}

    @property
    def failure_class(self) -> FailureClass:
        """Whose trouble it is."""
        return class_of(self.cause)

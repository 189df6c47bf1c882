"""What the supervisor learns of the cluster besides its own nodes: the queue's wait, switches and loads.

Nothing depends on an answer: it is asked for in the background, and what is not known counts as unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftslurm.core.events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueEstimated(Event):
    """How long a requeued job would wait beyond Slurm's own delay; None: nobody knows, and `source` says why."""

    wait_s: float | None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesSurveyed(Event):
    """The leaf switch and the load per CPU of nodes, where Slurm knows them, as (node, value)."""

    switches: tuple[tuple[str, str], ...] = ()
    loads: tuple[tuple[str, float], ...] = ()

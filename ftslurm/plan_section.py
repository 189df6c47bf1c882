"""The part of a configuration that `ftslurm plan` reckons with: `plan`. A run itself does not look at it.

Everything may be left out: then it follows from the rest of the file, is measured (`ftslurm plan --from`), or is
assumed, and the forecast says which. What nobody knows stays unknown.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema

from ftslurm.fields import Rate, duration, shown
from ftslurm.model_section import ModelSection, Size
from ftslurm.sections import Section

RateName = Literal["good", "typical", "bad", "learnt"]
_NAMES = ("good", "typical", "bad", "learnt")
MOST_FAILURES = 100_000.0
_DAY_S = 86400.0


def failure_rate(value: object) -> float | str:
    """A rate as somebody writes it: a name, or failures in 1,000 node-days. Raises ValueError."""
    if isinstance(value, str) and value in _NAMES:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected {', '.join(_NAMES)} or failures in 1,000 node-days, got {shown(value)}")  # noqa: TRY004 - pydantic collects ValueErrors only
    if not 0 < value <= MOST_FAILURES:
        raise ValueError(f"failures in 1,000 node-days must be more than 0 and at most {MOST_FAILURES:,.0f}")
    return float(value)


FailureRate: TypeAlias = Annotated[
    float | RateName,
    BeforeValidator(failure_rate),
    WithJsonSchema({"anyOf": [{"enum": list(_NAMES)}, {"type": "number", "exclusiveMinimum": 0}]}),
]


class Plan(Section):
    """What `ftslurm plan` reckons with; a run itself does not look at it."""

    rate: FailureRate = Field(
        "typical",
        description="Failures in 1,000 node-days: good (2.34), typical (3.79), bad (6.50), learnt (from the node ledger"
        " and Slurm's accounting), or a number; too low advises too few saves and spares",
    )
    work: Annotated[float, *duration(60, 3650 * _DAY_S)] | None = Field(
        None, description="Training that is wanted in all, as its time without any loss on all nodes, as in 12d"
    )
    save: Annotated[float, *duration(0.001, _DAY_S)] | None = Field(
        None, description="Time that training stands still for one save; left out: from state and the bandwidths"
    )
    detect: Annotated[float, *duration(0.001, _DAY_S)] | None = Field(
        None, description="Time from a failure until it is known; left out: from heartbeat"
    )
    restart: Annotated[float, *duration(0.001, 7 * _DAY_S)] | None = Field(
        None, description="Time from there to the first new step: stop, launch, load; left out: assumed to be 5m"
    )
    repair: Annotated[float, *duration(1, 3650 * _DAY_S)] | None = Field(
        None,
        description="Mean time until a lost node is back (not the median: few long ones count most); left out: 133h",
    )
    queue_wait: Annotated[float, *duration(0, 365 * _DAY_S)] | None = Field(
        None, description="Time that a job of this size waits in the queue; left out: unknown, and counted as none"
    )
    availability: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.99, description="How surely there are spares enough at any moment; 0.99 is the P99 of the nodes in repair"
    )
    state: Size = Field(None, description="Size of one checkpoint of the whole training, as in 1.2T")
    scratch_bandwidth: Rate = Field(
        None, description="Bytes a second that one node writes to its scratch, as in 2G/s: what a save waits for"
    )
    shared_bandwidth: Rate = Field(
        None, description="Bytes a second that shared storage takes from this job in all, as in 20G/s"
    )
    model: ModelSection | None = Field(
        None, description="The model that is trained, for memory, step time and the nodes that it fits on"
    )

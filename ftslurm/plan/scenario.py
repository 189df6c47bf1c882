"""What is simulated: one YAML file, as strict as the configuration of a run.

    nodes: 2048
    span: 30d
    faults: {rate: typical}
    sweep: {nodes: [512, 1024, 2048]}

An unknown key is an error with a suggestion; every mistake is told at once, with file, line and column. `recovery` is
the section of a run's own configuration, word for word, so that a policy can be tried here and then used. Rates run on
all wall time in which a node is up, whether it trains, restarts or waits.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from ftslurm.fields import Count, CountOrNone, Line, Name, Rate, duration, shown
from ftslurm.model_section import Size
from ftslurm.plan.rates import PRESETS
from ftslurm.quantities import format_duration, parse_duration
from ftslurm.sections import Recovery, Section

MOST_FAILURES = 100_000.0
YEAR_S = 365 * 86400.0
FORMULAS = ("young", "daly", "exact")
HARDWARE = 0.78
"""The share of Llama 3's 419 unexpected stops that was hardware's, confirmed or suspected (arXiv 2407.21783)."""


def _failure_rate(value: object) -> float | str:
    if isinstance(value, str) and value in PRESETS:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected {', '.join(PRESETS)} or failures in 1,000 node-days, got {shown(value)}")  # noqa: TRY004 - pydantic collects ValueErrors only
    if not 0 <= value <= MOST_FAILURES:
        raise ValueError(f"failures in 1,000 node-days must be from 0 to {MOST_FAILURES:,.0f}, got {shown(value)}")
    return float(value)


def _interval(value: object) -> float | str:
    if value in (*FORMULAS, "none"):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"expected young, daly, exact, none or a duration such as 30m, got {shown(value)}")  # noqa: TRY004 - as above
    seconds = parse_duration(value)
    if not 0.1 <= seconds <= YEAR_S:
        raise ValueError("must be between 100ms and 365d")
    return seconds


FailureRate = Annotated[
    float | str,
    BeforeValidator(_failure_rate),
    WithJsonSchema({"anyOf": [{"enum": list(PRESETS)}, {"type": "number", "minimum": 0}]}),
]
Interval = Annotated[
    float | str,
    BeforeValidator(_interval),
    PlainSerializer(lambda each: each if isinstance(each, str) else format_duration(each), return_type=str),
    WithJsonSchema({"type": "string"}),
]
Share = Annotated[float, Field(ge=0, le=1, strict=False, allow_inf_nan=False)]
Frequency = Annotated[float, Field(ge=0, le=MOST_FAILURES, strict=False, allow_inf_nan=False)]


class Faults(Section):
    """What fails, and how often."""

    kind: Literal["exponential", "weibull", "lemons", "clustered", "trace"] = Field(
        "exponential",
        description="exponential: equal nodes without memory; weibull: clusters in time; lemons: some nodes are worse;"
        " clustered: as a real fleet; trace: what has happened, again",
    )
    rate: FailureRate = Field(
        "typical", description="Failures in 1,000 node-days: good (2.34), typical (3.79), bad (6.50), or a number"
    )
    mtbf: Annotated[float, *duration(1, 100 * YEAR_S)] | None = Field(
        None, description="Mean time between failures of the whole job on all `nodes`, instead of `rate`"
    )
    node_share: Share | None = Field(
        None,
        description="Share of the failures that cost their node; the others need a relaunch only. Left out: 0.78, of a"
        " trace 1",
    )
    shape: Annotated[float, Field(ge=0.2, le=10, strict=False)] = Field(
        0.62, description="Of weibull: below 1 faults come in clusters; 0.62 is what a fleet has shown"
    )
    bad_share: Share = Field(0.15, description="Of lemons: the share of nodes that are worse")
    bad_factor: Annotated[float, Field(ge=1, le=1000, strict=False)] = Field(
        5.0, description="Of lemons: how many times as often these fail"
    )
    trace: Line | None = Field(None, description="Of trace: its file, beside the scenario")
    trace_nodes: Count | None = Field(
        None, description="Of trace: nodes of its fleet, also those that never failed; left out: those it names"
    )


class Detection(Section):
    """How fast failures are noticed, and how rightly."""

    delay: Annotated[float, *duration(0, 86400)] = Field(6.0, description="From a failure until it is known")
    diagnosis: Annotated[float, *duration(0, 86400)] = Field(
        2.0, description="From there until the old attempt has been stopped and a plan is made"
    )
    wrong_exclusions: Frequency = Field(
        0.0, description="How often a healthy node is given up, in 1,000 node-days of training"
    )
    wrong_diagnoses: Annotated[float, Field(ge=0, le=0.9, strict=False)] = Field(
        0.0, description="Share of the failures whose node is kept though it is broken, or given up though it is not"
    )


class Repairs(Section):
    """How lost nodes come back: lognormal, and one after the other where there are few to repair them."""

    median: Annotated[float, *duration(1, 100 * YEAR_S)] = Field(20.4 * 3600, description="Half take no longer")
    mean: Annotated[float, *duration(1, 100 * YEAR_S)] = Field(
        132.8 * 3600, description="The mean, at least the median: few long repairs count most"
    )
    repairers: CountOrNone = Field(0, description="How many nodes are repaired at a time; 0: all of them")


class Requeues(Section):
    """What it takes to get other nodes from Slurm."""

    delay: Annotated[float, *duration(0, 30 * 86400)] = Field(
        129.0, description="Slurm's own delay before a requeued job may start again"
    )
    wait: Annotated[float, *duration(0, YEAR_S)] = Field(0.0, description="What it waits in the queue beyond that")
    wait_known: bool = Field(
        default=True, description="Whether the planner knows that wait; a live run does after three measured requeues"
    )


class Checkpoints(Section):
    """When training is saved, and how long copies take from level to level."""

    every: Interval = Field(
        "daly", description="Work between two saves: a duration, or young, daly or exact for the job's own MTBF; none"
    )
    stall: Annotated[float, *duration(0, 86400)] | None = Field(
        None, description="Time that training stands still for one; left out: from size and scratch"
    )
    size: Size = Field(None, description="Size of one checkpoint of the whole training, as in 1.2T")
    scratch: Rate = Field(None, description="Bytes a second of one node's own disk, as in 2G/s; left out: no time")
    partner: Rate = Field(
        None, description="Bytes a second of the copy that another node keeps; left out: there is no such copy"
    )
    shared: Rate = Field(
        None, description="Bytes a second that shared storage moves for the whole job; left out: no time"
    )
    contention: Annotated[float, Field(ge=0, le=0.9, strict=False)] = Field(
        0.0, description="Mean share of that which others use; each stretch of training and each load draws its own"
    )
    durable_every: Annotated[float, *duration(0, 30 * 86400)] = Field(
        0.0, description="Shortest time between two copies to shared storage; 0s: as fast as it takes them"
    )
    damaged: Share = Field(0.0, description="Share of the loads at which the newest is refused, and one older taken")
    reshards: bool = Field(default=True, description="Whether another number of ranks can load a checkpoint")


class Scenario(Section):
    """One scenario, without its sweep."""

    name: Name = Field("scenario", description="Name, for reports")
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = Field(1, description="Of all that is drawn")
    replications: Annotated[Count, Field(le=100_000)] = Field(
        20, description="How often each case is simulated; the more, the narrower its interval"
    )
    nodes: Annotated[Count, Field(le=100_000)] = Field(description="Nodes that the training uses, without spares")
    gpus_per_node: Count = Field(8, description="GPUs, and ranks, of a node")
    fleet: Annotated[Count, Field(le=200_000)] | None = Field(
        None, description="Nodes that Slurm can choose among; left out: nodes and spares, and no other ones"
    )
    span: Annotated[float, *duration(60, 10 * YEAR_S)] = Field(30 * 86400.0, description="Wall time that is simulated")
    restart: Annotated[float, *duration(0, 7 * 86400)] = Field(
        300.0, description="From a plan to the first new step, where reading the checkpoint does not take longer"
    )
    resume_after: Annotated[float, *duration(0, YEAR_S)] = Field(
        8 * 3600.0, description="How long a run that has given up stands still until somebody resumes it"
    )
    ledger: bool = Field(
        default=False, description="Whether nodes that fail more than chance allows are left out at a requeue"
    )
    faults: Faults = Faults()
    detection: Detection = Detection()
    repair: Repairs = Repairs()
    requeue: Requeues = Requeues()
    checkpoint: Checkpoints = Checkpoints()
    recovery: Recovery = Recovery()

    @property
    def held(self) -> int:
        """Nodes of the allocation, spares included."""
        return self.nodes + self.recovery.spares

    @property
    def among(self) -> int:
        """Nodes that Slurm can choose among."""
        return self.fleet if self.fleet is not None else self.held

    @property
    def expected_strikes(self) -> float:
        """Failures and false alarms that come in one run to all nodes of the fleet; of a trace nobody has to expect."""
        rate = (0.0 if self.faults.kind == "trace" else self.rate) + self.detection.wrong_exclusions
        return rate / 1000 * self.among * self.span / 86400.0

    @property
    def node_share(self) -> float:
        """The share of failures that cost their node."""
        given = self.faults.node_share
        return given if given is not None else 1.0 if self.faults.kind == "trace" else HARDWARE

    @property
    def rate(self) -> float:
        """Failures of a node in 1,000 node-days, of all kinds. A trace has its own."""
        if self.faults.mtbf is not None:
            return 1000 * 86400.0 / (self.faults.mtbf * self.nodes)
        given = self.faults.rate
        return PRESETS[given].per_1000_node_days if isinstance(given, str) else given

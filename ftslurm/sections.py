"""The base of every part of a configuration, and the parts on what is watched (progress, nodes) and what may follow.

The other parts stand in `ftslurm.config`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from ftslurm.fields import (
    AbsolutePath,
    CollectiveTimeout,
    Count,
    CountOrNone,
    HangAfter,
    Lines,
    LogPattern,
    Metric,
    PlanOrder,
    Texts,
    WorldSizes,
    duration,
    shown,
)

_WAYS = r"auto|requeue|resubmit|none|chain:([2-9]|[1-9][0-9]{1,2})"


def _way(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(_WAYS, value):
        raise ValueError(f"expected auto, requeue, chain:N with N from 2 to 999, resubmit or none, got {shown(value)}")
    return value


ContinueBy: TypeAlias = Annotated[
    str, BeforeValidator(_way), WithJsonSchema({"type": "string", "pattern": f"^({_WAYS})$"})
]


class Section(BaseModel):
    """What all parts of a configuration have in common."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=False, hide_input_in_errors=True
    )


class Progress(Section):
    """When a run that is alive is nevertheless stuck."""

    startup: Annotated[float, *duration(1, 7 * 86400)] = Field(
        1800.0, description="Time for all ranks to register and start; too low kills slow imports on cold storage"
    )
    hang_after: HangAfter = Field(
        "auto",
        description="Silence after which a training step counts as a hang: auto (learnt), none, or a duration;"
        " too low ends healthy runs that pause without saying so",
    )
    collective_timeout: CollectiveTimeout = Field(
        600.0,
        description="After so long a collective ends the program by itself (NCCL: 10m); ranks that are silent for 0.8"
        " times that are looked at before it, and nothing is ended; none: they are not",
    )
    log_pattern: LogPattern | None = Field(
        None, description=r"Regular expression for the output of ranks that do not beat, as in step (?P<step>\d+)"
    )
    files: Lines = Field((), description="Files (glob) whose change is progress, where nothing else shows it")
    on_nan: Literal["say", "rollback"] = Field(
        "say", description="What follows a loss that is NaN or infinite; rollback: the checkpoint before it"
    )

    @field_validator("files", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class Probes(Section):
    """What every node is asked about itself and its devices."""

    interval: Annotated[float, *duration(1, 86400)] = Field(
        30.0, description="Time between two rounds of probes; too low costs CPU, too high notices a sick node late"
    )
    gpus: Literal["auto", "off"] = Field(
        "auto", description="auto: NVIDIA's management library is asked where resources.gpus_per_node is not 0"
    )
    compute_test: Literal["auto", "off"] = Field(
        "auto", description="auto: a small matrix product is checked at the start and before a relaunch, also on GPUs"
    )


class HealthRule(Section):
    """From which value of a metric on a node is how well. Rules for a metric replace the built-in ones for it."""

    metric: Metric = Field(description="What is measured, such as scratch_free; docs/health.md lists all")
    above: Annotated[float, Field(allow_inf_nan=False, strict=False)] | None = Field(
        None, description="Bad when the value is more than this"
    )
    below: Annotated[float, Field(allow_inf_nan=False, strict=False)] | None = Field(
        None, description="Bad when the value is less than this"
    )
    for_: Annotated[Count, Field(le=1000)] = Field(
        3, alias="for", description="Readings in a row until it counts, and twice as many until it is over"
    )
    severity: Literal["warning", "critical", "failed"] = Field("warning", description="Level of the node then")
    action: Literal["none", "say", "avoid", "exclude"] = Field(
        "say", description="avoid: not used at the next relaunch if enough others are left; exclude: given up"
    )

    @property
    def limit(self) -> float:
        """The value from which on it is bad."""
        limit = self.below if self.above is None else self.above
        return 0.0 if limit is None else limit

    @model_validator(mode="after")
    def _one_side(self) -> HealthRule:
        if (self.above is None) == (self.below is None):
            raise ValueError("expected either above or below")
        return self


class Hooks(Section):
    """Programs of the user's that run on the batch host, with facts as JSON on standard input, for at most 30 s."""

    health: Texts = Field((), description="Runs when the level of a node changes, as in [/home/me/bin/tell, --health]")


class Recovery(Section):
    """What may be done about a failure."""

    prefer: PlanOrder = Field((), description="auto (the cheapest plan), or an order such as [spare, shrink, requeue]")
    spares: CountOrNone = Field(
        0, description="Idle nodes that are held beyond resources.nodes and replace lost ones at full size"
    )
    min_nodes: Count = Field(
        1,
        description="Never go on with fewer nodes; equal to resources.nodes forbids shrinking, and with it a smaller"
        " global batch",
    )
    world_multiple_of: Count = Field(1, description="The number of ranks is always a multiple of this")
    world_sizes: WorldSizes = Field((), description="The only numbers of ranks to run with, as a list; left out: any")
    efficiency: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="Work of a node in a smaller world, as a share of that in the full one; lower shrinks less; left"
        " out: as the run's own steps tell, and 1 until it has had two sizes",
    )
    placement: Literal["round_robin", "load_balanced", "topology"] = Field(
        "round_robin",
        description="Which nodes are used where there are more than needed: Slurm's order, the least loaded, or those"
        " that share a switch",
    )
    ledger: AbsolutePath | None = Field(
        None,
        description="Folder of the node ledger, which a group may share; left out: FTSLURM_LEDGER, or ledger under the"
        " run's root, for runs beside their scripts under ~/.ftslurm/runs",
    )
    continue_: ContinueBy = Field(
        "auto",
        alias="continue",
        description="How a run goes on when this job cannot: requeue, chain:N (N jobs that wait for one another),"
        " resubmit (the job submits the next one), none; auto: requeue, else resubmit, else none",
    )
    on_finish_after_takeover: Literal["requeue", "cancel"] = Field(
        "requeue",
        description="How the job ends where the script's host was lost: by a requeue, after which the script returns"
        " the run's exit code, or cancelled",
    )
    max_attempts: Count = Field(20, description="Attempts in all, the first included; the run fails after them")
    no_progress_limit: Count = Field(
        3, description="Attempts, or jobs of full length, in a row without a new checkpoint; the run fails after them"
    )

    @property
    def chain(self) -> int:
        """The number of jobs of a chain; 0: the run is none."""
        return int(self.continue_.partition(":")[2] or 0)

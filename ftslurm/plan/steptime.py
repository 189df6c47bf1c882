"""How long a step of a transformer takes, before anybody has measured one: its arithmetic, its bubble, its all-reduce.

    arithmetic   (6 P + 12 L h s) operations a token (Chowdhery et al., arXiv 2204.02311, appendix B), by what a GPU
                 reaches; full recomputation does the forward third again, selective that of attention alone
    bubble       arithmetic / (1 - bubble share) (`plan.pipelines`)
    all-reduce   of the gradients among the copies, by the fastest algorithm (`plan.collectives`); with ZeRO 3 two
                 all-gathers and a reduce-scatter instead, half as much again (ZeRO, section 7)

Nothing is taken to overlap: a program that sends gradients during its backward pass is faster. The messages of tensor
parallelism, which stay inside a node, and those between stages are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftslurm.plan.collectives import Link, fastest, sharded_s
from ftslurm.plan.pipelines import bubble_share

if TYPE_CHECKING:
    from ftslurm.model_section import ModelSection

_TERA = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """The seconds of a step, by what they go into; `by` names the way gradients are added up."""

    compute_s: float
    bubble_s: float
    reduce_s: float
    by: str

    @property
    def total_s(self) -> float:
        """The whole step."""
        return self.compute_s + self.bubble_s + self.reduce_s


def link_of(model: ModelSection) -> Link | None:
    """Return a rank's link; None where its bandwidth is not known."""
    return None if model.bandwidth is None else Link(model.latency, model.bandwidth)


def step_of(model: ModelSection, ranks: int) -> StepTime | None:
    """Return the time of a step on so many ranks, each copy doing as much as ever; None where too little is known.

    Raises:
        ValueError: the ranks are no multiple of a copy's.
    """
    if ranks < 1 or ranks % model.model_ranks:
        raise ValueError(f"{ranks} ranks are no multiple of {model.model_ranks}, which a copy of the model takes")
    link = link_of(model)
    if link is None or model.gpu_tflops is None:
        return None
    compute_s = operations(model) / (model.gpu_tflops * _TERA)
    idle = bubble_share(model.pipeline, model.micro_batches)
    reduce_s, by = _reduce(model, ranks // model.model_ranks, link)
    return StepTime(compute_s=compute_s, bubble_s=compute_s * idle / (1 - idle), reduce_s=reduce_s, by=by)


def operations(model: ModelSection) -> float:
    """Return the floating-point operations of one rank in a step."""
    tokens = model.micro_batch * model.micro_batches * model.sequence
    products, attention = 2.0 * model.parameters, 4.0 * model.layers * model.hidden * model.sequence
    again = {"none": 0.0, "selective": attention, "full": products + attention}[model.recompute]
    return tokens * (3 * (products + attention) + again) / model.model_ranks


def efficiency(model: ModelSection, smaller: int, full: int) -> float | None:
    """Return what a rank does in a smaller world, as a share of that in the full one; None where too little is known.

    Raises:
        ValueError: as `step_of`.
    """
    small, whole = step_of(model, smaller), step_of(model, full)
    return None if small is None or whole is None else whole.total_s / small.total_s


def _reduce(model: ModelSection, copies: int, link: Link) -> tuple[float, str]:
    own = model.parameters / model.model_ranks
    if model.zero == 3 and copies > 1:
        gathered_s = 2 * sharded_s(own * model.weight_bytes, copies, link)
        return gathered_s + sharded_s(own * model.gradient_bytes, copies, link), "all-gathers and a reduce-scatter"
    algorithm, seconds = fastest(own * model.gradient_bytes, copies, link)
    return seconds, f"all-reduce by {algorithm}" if copies > 1 else "one copy: nothing to add up"

"""Pipelines: how long a step of m micro-batches takes on p stages, how much of it is bubble, what a stage has to hold.

Both schedules empty the pipeline at the end of a step, so that all weights are of one step, and both take

    (m + p - 1) (f + b)        of which the share (p - 1)/(m + p - 1) is bubble

where f and b are the seconds of a forward and a backward pass of one micro-batch through one stage, the same for all.

- GPipe (Huang et al., arXiv 1811.06965): all forward passes, then all backward passes. A stage holds the activations of
  all m micro-batches.
- 1F1B (PipeDream-Flush; Narayanan et al., arXiv 2104.04473): after its first passes a stage goes one forward, one
  backward. Stage s of 0 to p - 1 holds those of at most p - s micro-batches.
"""

from __future__ import annotations

from enum import StrEnum


class Schedule(StrEnum):
    """The order of the passes of a stage."""

    GPIPE = "gpipe"
    ONE_F_ONE_B = "1f1b"


def bubble_share(stages: int, micro_batches: int) -> float:
    """Return the share of a step in which a stage has nothing to do; 0 for a single stage.

    Raises:
        ValueError: less than one stage or micro-batch.
    """
    _check(stages, micro_batches)
    return (stages - 1) / (micro_batches + stages - 1)


def step_s(stages: int, micro_batches: int, pass_s: float) -> float:
    """Return the seconds of a step, where `pass_s` are those of one micro-batch on one stage, there and back.

    Raises:
        ValueError: as `bubble_share`.
    """
    _check(stages, micro_batches)
    return (micro_batches + stages - 1) * pass_s


def held(schedule: Schedule, stages: int, micro_batches: int, stage: int = 0) -> int:
    """Return of how many micro-batches a stage, counted from 0, holds the activations at most; stage 0 holds most.

    Raises:
        ValueError: as `bubble_share`, or there is no such stage.
    """
    _check(stages, micro_batches)
    if not 0 <= stage < stages:
        raise ValueError(f"there is no stage {stage} of {stages}")
    return micro_batches if schedule is Schedule.GPIPE else min(micro_batches, stages - stage)


def _check(stages: int, micro_batches: int) -> None:
    if stages < 1 or micro_batches < 1:
        raise ValueError(f"{stages} stages and {micro_batches} micro-batches make no pipeline")

"""The closed forms of pipelines, against stages that do their passes one after the other as soon as they can."""

from __future__ import annotations

import pytest

from ftslurm.plan.pipelines import Schedule, bubble_share, held, step_s

FORWARD_S, BACKWARD_S = 1.0, 2.0
SHAPES = [(1, 1), (1, 6), (2, 1), (2, 2), (4, 2), (4, 4), (4, 16), (7, 5), (8, 64)]


def order(schedule, stages, micro_batches, stage):
    """The passes of a stage, in order: (is it a forward one, micro-batch)."""
    forward = [(True, each) for each in range(micro_batches)]
    backward = [(False, each) for each in range(micro_batches)]
    if schedule is Schedule.GPIPE:
        return forward + backward
    first = min(stages - stage - 1, micro_batches)
    pairs = [each for pair in zip(forward[first:], backward, strict=False) for each in pair]
    return forward[:first] + pairs + backward[len(forward) - first :]


def simulated(schedule, stages, micro_batches):
    """When the last pass is over, how long each stage works, and how many micro-batches each holds at most."""
    todo = [order(schedule, stages, micro_batches, stage) for stage in range(stages)]
    done, free, most = {}, [0.0] * stages, [0] * stages
    while any(todo):
        for stage, passes in enumerate(todo):
            while passes:
                forward, batch = passes[0]
                before = stage - 1 if forward else stage + 1
                needs = (forward, batch, before) if 0 <= before < stages else (True, batch, stage)
                if (0 <= before < stages or not forward) and needs not in done:
                    break
                begin = max(free[stage], done.get(needs, 0.0) if needs != (True, batch, stage) or not forward else 0.0)
                free[stage] = done[forward, batch, stage] = begin + (FORWARD_S if forward else BACKWARD_S)
                passes.pop(0)
                kept = sum((True, each, stage) in done for each in range(micro_batches))
                most[stage] = max(
                    most[stage], kept - sum((False, each, stage) in done for each in range(micro_batches))
                )
    return max(free), most


@pytest.mark.parametrize(("stages", "micro_batches"), SHAPES)
@pytest.mark.parametrize("schedule", Schedule)
def test_closed_forms_are_those_of_the_schedule(schedule, stages, micro_batches):
    """The time of a step, its bubble, and what every stage holds."""
    over_s, most = simulated(schedule, stages, micro_batches)
    assert over_s == step_s(stages, micro_batches, FORWARD_S + BACKWARD_S)
    works_s = micro_batches * (FORWARD_S + BACKWARD_S)
    assert bubble_share(stages, micro_batches) == pytest.approx(1 - works_s / over_s)
    assert most == [held(schedule, stages, micro_batches, stage) for stage in range(stages)]


def test_published_bubbles():
    """GPipe's bubble is negligible from four times as many micro-batches as stages; one micro-batch uses one stage."""
    assert bubble_share(8, 32) == pytest.approx(7 / 39)
    assert bubble_share(8, 1) == pytest.approx(7 / 8)
    assert bubble_share(1, 5) == 0


def test_impossible_pipelines_are_refused():
    """No stages, no micro-batches, no such stage."""
    for stages, micro_batches in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="make no pipeline"):
            step_s(stages, micro_batches, 1.0)
    with pytest.raises(ValueError, match="there is no stage 4 of 4"):
        held(Schedule.GPIPE, 4, 4, 4)

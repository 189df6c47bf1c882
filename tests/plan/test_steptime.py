"""The time of a step before anybody has measured one."""

from __future__ import annotations

import pytest

from ftslurm.plan.steptime import efficiency, operations, step_of
from tests.plan.models import model

FAST = {"gpu_tflops": 150, "bandwidth": "20G/s"}


def test_operations_are_those_of_palms_appendix():
    """6 P + 12 L h s a token; full recomputation does the forward third again, selective attention's alone."""
    token = 6 * 175e9 + 12 * 96 * 12288 * 2048
    assert operations(model()) == pytest.approx(token * 2048)
    assert operations(model(tensor=8, pipeline=8, micro_batches=64, micro_batch=2)) == pytest.approx(token * 2048 * 2)
    assert operations(model(recompute="full")) == pytest.approx(token * 2048 * 4 / 3)
    assert operations(model(recompute="selective")) == pytest.approx((token + 4 * 96 * 12288 * 2048) * 2048)


def test_published_training_time():
    """After arXiv 2104.04473: GPT-3 on 1,024 A100 at 140 TFLOP/s takes 34 days for 300 billion tokens."""
    described = model(tensor=8, pipeline=8, micro_batches=96, recompute="full", gpu_tflops=140, bandwidth="1000G/s")
    tokens = 2048 * 96 * 16
    # Their 140 TFLOP/s have the bubble in them; their 8 P a token leave attention's products out, which are 3 %.
    assert 300e9 / tokens * step_of(described, 1024).compute_s / 86400 == pytest.approx(34, rel=0.04)


def test_parts_of_a_step():
    """Arithmetic by speed, the bubble by the schedule, gradients by the fastest algorithm; ZeRO 3 sends half as much again."""
    described = {"tensor": 8, "pipeline": 8, "micro_batches": 63, **FAST}
    step = step_of(model(**described), 2048)
    assert step.bubble_s / (step.compute_s + step.bubble_s) == pytest.approx(7 / 70)
    assert step.total_s == step.compute_s + step.bubble_s + step.reduce_s
    assert step.by == "all-reduce by ring"
    sharded = step_of(model(**described, zero=3), 2048)
    assert sharded.reduce_s == pytest.approx(1.5 * step.reduce_s)
    alone = step_of(model(**described), 64)
    assert (alone.reduce_s, alone.by) == (0.0, "one copy: nothing to add up")


def test_efficiency_of_a_smaller_world():
    """Fewer copies wait less for each other; nothing is said where speeds are unknown."""
    described = model(tensor=8, pipeline=8, micro_batches=1, **FAST)
    assert 1 < efficiency(described, 64, 2048) < 2048 / 64
    assert efficiency(described, 2048, 2048) == 1
    assert efficiency(model(), 64, 2048) is efficiency(model(gpu_tflops=1), 64, 2048) is None


def test_a_cut_that_does_not_go_is_refused():
    """The ranks are a multiple of those of a copy."""
    with pytest.raises(ValueError, match="100 ranks are no multiple of 64"):
        step_of(model(tensor=8, pipeline=8), 100)

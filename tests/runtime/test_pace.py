from __future__ import annotations

from statistics import fmean

from ftslurm.core.working import WorkPaced
from ftslurm.runtime.working import StepGauge


def told(steps):
    """What a gauge says of (step, time) pairs."""
    gauge = StepGauge(7)
    return [event for step, at in steps for event in gauge.take(step, at)]


def test_pace_is_told_after_times_that_double():
    """Twenty seconds after the first five steps, then forty, then eighty: a journal of days holds few of them."""
    found = told((step, 0.5 * step) for step in range(400))
    assert [event.steps for event in found] == [40, 80, 160]
    assert {event.step_s for event in found} == {0.5}
    assert found[0] == WorkPaced(attempt=7, steps=40, step_s=0.5)


def test_long_steps_are_told_after_ten():
    """A pace is never that of fewer than ten steps."""
    assert [event.steps for event in told((step, 60.0 * step) for step in range(30))] == [10, 10]


def test_first_steps_and_rare_long_ones_do_not_count():
    """Steps that compile, and those that wait for a save, leave the median as it is."""
    took_s = [30.0] * 5 + ([1.0] * 9 + [20.0]) * 10
    at = [sum(took_s[: step + 1]) for step in range(len(took_s))]
    found = told(enumerate(at))
    assert {event.step_s for event in found} == {1.0}
    assert fmean(took_s[5:]) > 2.5


def test_several_steps_between_two_looks():
    """Digests come twice a second: steps that are faster are divided among them."""
    assert {event.step_s for event in told((10 * look, 0.5 * look) for look in range(200))} == {0.05}


def test_steps_that_stand_or_go_back_tell_nothing():
    """The same step again, none at all, and that of a rank behind are no pace."""
    assert told((step, at) for at, step in enumerate([-1] * 100)) == []
    assert told((step, 10.0 * at) for at, step in enumerate([50] * 100)) == []
    assert told((step, 10.0 * at) for at, step in enumerate([50, 49] * 50)) == []

"""What an earlier run shows of its costs, from its journal."""

from __future__ import annotations

import pytest

from ftslurm.core.working import WorkBegun, WorkPaused
from ftslurm.insight.walltime import Category, Interval
from ftslurm.plan.measured import measure, outages, read
from tests.insight.journals import Tale, config_policy, make_run


def begun(tale, step):
    """The ranks of the newest attempt tell their first step."""
    tale.happen(WorkBegun(attempt=tale.run.attempt.number, step=step), after=1.5)


def eventful():
    """Three saves, a lost node, a save."""
    tale = Tale(config_policy()).start()
    begun(tale, 1)
    for step in (100, 200, 300):
        tale.save(step, after=20)
        tale.happen(WorkPaused(attempt=tale.run.attempt.number, took_s=0.8))
    tale.wait(5).lose("n3").launched()
    begun(tale, 301)
    tale.save(400, after=20)
    tale.happen(WorkPaused(attempt=tale.run.attempt.number, took_s=0.8))
    return tale


def test_costs_of_a_run(tmp_path):
    """Saves, detection, restart, interval and size, each with how often it was seen."""
    found = measure(make_run(tmp_path, eventful()))
    assert found.save_s[0] == pytest.approx(0.8)
    assert found.detect_s[0] == pytest.approx(3.1, abs=1.1)  # the silence, and the witnesses
    assert found.restart_s[0] > 2.0 + 1.5  # until the ranks are there, until the first step
    assert found.interval_s[0] == pytest.approx(22, abs=1)
    assert found.state_bytes[0] == 4000
    assert found.drain_s[0] > 0
    assert "mean of 4 saves of" in found.save_s[1]
    assert "mean of 1 failure of" in found.detect_s[1]
    assert found.remarks == ()


def test_pauses_that_were_not_told_any_more_do_not_count():
    """A save after the last word of its attempt makes the others no cheaper."""
    tale = eventful()
    tale.save(500, after=20)
    tale.wait(1).lose("n2").launched()
    found = read(tale.entries, "r").save_s
    assert found[0] == pytest.approx(0.8)
    assert found[1] == "measured: mean of 4 saves of r"


def test_what_a_run_does_not_show_is_unknown():
    """Without failures and without pauses that are told: None, and a remark for each."""
    found = read(Tale(config_policy()).start().save(100, after=10).entries, "r")
    assert (found.save_s, found.detect_s, found.restart_s, found.interval_s) == (None, None, None, None)
    assert len(found.remarks) == 2
    assert read([], "r").remarks == ("the journal of r is empty",)


def spell(*parts):
    """Stretches of time, one after the other, of (category, seconds)."""
    now, found = 0.0, []
    for category, seconds in parts:
        found.append(Interval(now, now + seconds, category))
        now += seconds
    return found


def test_failures_that_the_job_got_over():
    """From the first sign to the first step; one that ended the job, or the run, is none."""
    found = outages(
        spell(
            (Category.STARTING, 9), (Category.PRODUCTIVE, 50), (Category.DETECTING, 3), (Category.RECOVERING, 4),
            (Category.LOADING, 5), (Category.RECOMPUTING, 6), (Category.RECOVERING, 1), (Category.QUEUED, 100),
            (Category.STARTING, 9), (Category.PRODUCTIVE, 5), (Category.RECOVERING, 2), (Category.IDLE, 1),
        )
    )  # fmt: skip
    assert [(each.detect_s, each.restart_s) for each in found] == [(3, 9)]

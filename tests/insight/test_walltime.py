from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftslurm.core.symptoms import RanksStalled
from ftslurm.core.working import WorkBegun, WorkPaused, WorkRegained
from ftslurm.insight import walltime
from ftslurm.insight.story import Teller
from ftslurm.insight.walltime import Category, ettr, goodput
from tests.insight.journals import START, Tale, policy_for
from tests.insight.test_against_core import deeds


def _told(tale: Tale, event: type, **facts: object) -> None:
    attempt = tale.run.attempt
    if attempt is not None:
        tale.happen(event(attempt=attempt.number, **facts))


seconds = st.floats(0.0, 20.0)
words = st.one_of(
    st.builds(
        lambda s, u, a: lambda t: _told(t, WorkBegun, step=s, until=u, ago_s=a),
        st.integers(-1, 40),
        st.integers(-1, 40),
        seconds,
    ),
    st.builds(lambda a: lambda t: _told(t, WorkRegained, step=40, ago_s=a), seconds),
    st.builds(lambda s, a: lambda t: _told(t, WorkPaused, took_s=s, ago_s=a), seconds, seconds),
    st.builds(
        lambda s: lambda t: _told(t, RanksStalled, ranks=(0,), count=1, phase="step", silent_s=s, limit_s=1.0), seconds
    ),
)
scripts = st.lists(st.one_of(deeds, words), max_size=40)


def spent(tale: Tale, until: float | None = None) -> dict[Category, float]:
    """What the tale's time went into; only what is not zero."""
    kept = walltime.of(tale.entries)
    return {
        name: round(each, 3) for name, each in kept.spent(tale.now if until is None else until).items() if each > 1e-6
    }


@settings(max_examples=400)
@given(scripts, st.floats(-10.0, 5000.0), st.floats(0.0, 100.0))
def test_the_parts_sum_to_the_whole(script, more, queued):
    """Of every journal that the core can write: intervals without gaps, in order, whose sum is the wall time."""
    tale = Tale(policy_for(min_nodes=1)).start()
    for deed in script:
        tale.wait(1.0)
        deed(tale)
    kept = walltime.of(tale.entries, submitted=START - queued)
    until = tale.now + max(more, 0.0)
    found, parts = kept.intervals(until), kept.spent(until)
    whole = until - (START - queued)
    assert sum(parts.values()) == pytest.approx(whole, rel=1e-3)
    assert all(each >= 0.0 for each in parts.values())
    assert found[0].start == START - queued
    assert found[-1].end == until
    for one, other in itertools.pairwise(found):
        assert one.end == other.start
        assert one.category is not other.category
        assert one.seconds > 0.0
    for name in Category:
        assert sum(each.seconds for each in found if each.category is name) == pytest.approx(parts[name], abs=1e-6)
    window = kept.window(until, 30.0)
    assert sum(window.values()) == pytest.approx(min(30.0, whole))
    assert kept.window(until, 1e9) == pytest.approx(parts)


@settings(max_examples=200)
@given(scripts)
def test_nothing_is_taken_back_but_what_silence_hid(script):
    """Entry by entry only the time that seemed to be work, or loading, can become less: the rest only grows."""
    tale = Tale(policy_for(min_nodes=1)).start()
    for deed in script:
        tale.wait(1.0)
        deed(tale)
    kept, before = walltime.Walltime(), dict.fromkeys(Category, 0.0)
    for entry in tale.entries:
        kept.see(entry)
        now = kept.spent(entry.t)
        uncertain = walltime.WORK | {Category.LOADING, Category.SAVING, Category.STARTING, Category.RECOVERING}
        assert all(now[name] >= before[name] - 1e-6 for name in Category if name not in uncertain)
        before = now


def test_a_lost_node():
    """The silence is detection, the restart recovery; what was lost is recomputed for as long as it had taken."""
    tale = Tale().start().save(100, after=10).wait(3)
    tale.lose("n3").launched().wait(10)
    assert spent(tale) == {
        "starting": 2.5, "productive": 15.5 + 10 - 5.5, "detecting": 4.1, "recovering": 3.0, "recomputing": 5.5,
    }  # fmt: skip


def test_what_is_lost_twice_is_recomputed_twice():
    """A crash while lost work is made good leaves what was not made good yet, and adds what was."""
    tale = Tale().start().wait(10)
    tale.crash(0, signal=9).launched().wait(4)
    tale.crash(0, signal=9).launched().wait(100)
    found = spent(tale)
    assert found["recomputing"] == pytest.approx(4.2 + 10.2)
    assert found["productive"] == pytest.approx(10.2 + 100 - 10.2)


def test_ranks_that_tell_their_steps():
    """Loading ends with the first step, recomputing where the ranks had been before, saving is what they stood still."""
    tale = Tale().start().wait(7)
    _told(tale, WorkBegun, step=1, ago_s=1.0)
    tale.wait(20)
    _told(tale, WorkPaused, took_s=3.0, ago_s=2.0)
    tale.crash(0).launched().wait(5)
    _told(tale, WorkBegun, step=1, until=9)
    tale.wait(30)
    _told(tale, WorkRegained, step=10)
    tale.wait(8)
    found = spent(tale)
    assert found["loading"] == pytest.approx(6.0 + 5.0)
    assert found["recomputing"] == pytest.approx(30.0)
    assert found["saving"] == pytest.approx(3.0)
    assert found["productive"] == pytest.approx(1.0 + 20 - 3 + 0.2 + 8)


def test_a_stall_began_before_it_was_noticed():
    """The time for which ranks had stood still when it was noticed is detection."""
    tale = Tale().start().wait(40)
    _told(tale, RanksStalled, ranks=(0,), count=1, phase="step", silent_s=25.0, limit_s=20.0)
    tale.timer("autopsy", after=5.0)
    tale.stopped().launched()
    found = spent(tale)
    assert (found["productive"], found["detecting"]) == (pytest.approx(15.0), pytest.approx(30.0))


def test_a_requeue_and_a_resumption():
    """Waiting for Slurm is queued, the last save is saving, and the time after an end is idle and no part of the ETTR."""
    tale = Tale().start().wait(50)
    tale.stop("time_limit", save=True)
    tale.save(50, after=2)
    tale.stopped().drained("000000050-0000").requeued()
    tale.start(after=12).wait(36.5)
    tale.finish()
    tale.start(resumed=True, job_id="202", after=1000)
    found = walltime.of(tale.entries).spent(tale.now)
    assert found[Category.QUEUED] == pytest.approx(12.0)
    assert found[Category.SAVING] > 2.0
    assert found[Category.IDLE] == pytest.approx(1000.0)
    whole = sum(found.values())
    assert goodput(found) == pytest.approx(found[Category.PRODUCTIVE] / whole)
    assert ettr(found) == pytest.approx(found[Category.PRODUCTIVE] / (whole - 1000.0))
    assert ettr(dict.fromkeys(Category, 0.0)) is None


@settings(max_examples=40)
@given(scripts)
def test_who_tells_the_story_counts_the_same_time(script):
    """The time that is counted beside a story is that which is counted alone."""
    tale = Tale(policy_for(min_nodes=1)).start()
    for deed in script:
        tale.wait(1.0)
        deed(tale)
    teller = Teller()
    for entry in tale.entries:
        teller.see(entry)
    teller.story(tale.now)
    assert teller.walltime.intervals(tale.now) == walltime.of(tale.entries).intervals(tale.now)


def test_a_job_that_was_lost_without_a_word():
    """Where a job's end was not written down, nothing after its last entry counts as work."""
    tale = Tale().start().wait(10).save(10)
    last = tale.now
    tale.restart += 1
    tale.start(after=300)
    found = walltime.of(tale.entries).intervals(tale.now)
    assert [(each.start, each.category) for each in found if each.category is Category.QUEUED] == [
        (last, Category.QUEUED)
    ]

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.progress import (
    CEILING_S,
    FLOOR_S,
    KEPT,
    LOSSES,
    LOSSES_NEEDED,
    SLOW_WINDOWS,
    WARM_UP,
    Learnt,
    Losses,
    Patience,
    Sign,
    Situation,
    foresee,
    judge,
    learn,
    learnt_limit_s,
    limit_s,
    scores,
    stragglers,
    take_loss,
)

AUTO, NONE = Patience(), Patience(auto=False)
FIXED = Patience(auto=False, hang_after_s=4.0)
QUIET = Situation(attempt=0, quiet_s=1e6)
QUICK = learn(Learnt(), 4, {"step": [0.1] * 10})


def sign(rank=0, age_s=0.0, **fields):
    """A rank that trains."""
    return Sign(**{"rank": rank, "source": "beat", "beats": 50, "step": 50, "phase": "step", "age_s": age_s, **fields})


@pytest.mark.parametrize(
    ("taken_s", "limit"),
    [
        ([], None),
        ([0.1] * 4, None),
        ([0.1] * 5, FLOOR_S),
        ([10.0] * 9, 30.0),
        ([10.0] * 99 + [100.0], 150.0),
        ([1000.0] * 9, CEILING_S),
        ([3000.0] * 9, 4500.0),
    ],
)
def test_learnt_limit(taken_s, limit):
    """max(1.5 x the rarest, 3 x the median) between floor and ceiling; a step as long as the ceiling is no hang."""
    assert learnt_limit_s(taken_s) == (None if limit is None else pytest.approx(limit))


@given(st.lists(st.floats(0, 1e7), min_size=5, max_size=500))
def test_learning_can_never_switch_detection_off(taken_s):
    """Whatever was seen, the limit is finite, over the floor, and never below what is usual."""
    known = learn(Learnt(), 1, {"step": taken_s}).taken_s["step"]
    limit = learnt_limit_s(known)
    assert limit is not None
    assert FLOOR_S <= limit <= max(CEILING_S, 1.5 * max(taken_s))
    assert limit >= 1.5 * sorted(known)[len(known) // 2] or limit == CEILING_S or len(known) % 2 == 0


def test_what_is_learnt_belongs_to_a_world_size():
    """Another number of ranks starts anew; the newest times count."""
    assert learn(QUICK, 4, {"save": [9.0]}).taken_s == {"step": (0.1,) * 10, "save": (9.0,)}
    assert learn(QUICK, 3, {"save": [9.0]}).taken_s == {"save": (9.0,)}
    assert learn(QUICK, 4, {"step": [2.0] * KEPT}).taken_s["step"] == (2.0,) * KEPT


@pytest.mark.parametrize(
    ("now", "patience", "hangs", "limit"),
    [
        (sign(phase="init"), AUTO, 0, 1800.0),
        (sign(beats=WARM_UP), FIXED, 0, 1800.0),
        (sign(beats=WARM_UP), replace(FIXED, hang_after_s=7200.0), 0, 7200.0),
        (sign(), FIXED, 3, 4.0),
        (sign(phase="save"), FIXED, 0, 1800.0),
        (sign(), AUTO, 0, FLOOR_S),
        (sign(), AUTO, 2, 16 * FLOOR_S),
        (sign(), AUTO, 9, CEILING_S),
        (sign(phase="evaluation"), AUTO, 0, 1800.0),
    ],
)
def test_limit_of_a_phase(now, patience, hangs, limit):
    """Start-up, the first steps and what was never seen have the patience of start-up; verdicts in a row stretch it."""
    assert limit_s(now, QUICK, patience, hangs) == limit


def test_silence_of_all_is_a_stall():
    """One rank stands still and the others wait for it: all are silent, the one that has done less is named."""
    signs = [sign(rank, 25.0, step=50 - (rank == 2)) for rank in range(4)]
    stall = judge(signs, QUICK, AUTO, QUIET)
    assert stall is not None
    assert (stall.ranks, stall.count, stall.behind, stall.step) == ((0, 1, 2, 3), 4, (2,), 50)
    assert (stall.silent_s, stall.limit_s, stall.phase) == (25.0, FLOOR_S, "step")
    assert judge([sign(0, 25.0), sign(1, 1.0)], QUICK, AUTO, QUIET).ranks == (0,)


@pytest.mark.parametrize(
    ("signs", "patience", "now"),
    [
        ([sign(0, 19.0)], AUTO, QUIET),
        ([sign(0, 999.0)], NONE, QUIET),
        ([sign(0, 999.0)], AUTO, replace(QUIET, quiet_s=10.0)),
        ([sign(0, 999.0), sign(1, 999.0, phase="save")], AUTO, QUIET),
        ([sign(0, 999.0, source="", phase="init")], AUTO, QUIET),
        ([sign(0, 9999.0, source="", phase="init"), sign(1, 1.0)], replace(AUTO, expected=True), QUIET),
        ([sign(0, 9999.0, source="", phase="init")], FIXED, QUIET),
        ([], AUTO, QUIET),
    ],
    ids=["soon", "off", "storage hung", "another saves", "no signal", "only some beat", "no checkpoint yet", "nobody"],
)
def test_silence_that_means_nothing(signs, patience, now):
    """Nobody is called stuck for silence that has another explanation."""
    assert judge(signs, QUICK, patience, now) is None


def test_silence_that_means_something_without_beats():
    """A start that never ends where progress is expected; checkpoints as the only sign, where the user set the limit."""
    silent = [sign(rank, 2000.0, source="", phase="init", beats=0, step=-1) for rank in range(3)]
    assert judge(silent, QUICK, replace(AUTO, expected=True), QUIET).phase == "init"
    assert judge(silent, QUICK, AUTO, replace(QUIET, checkpoints=True)) is None
    stall = judge(silent, QUICK, FIXED, replace(QUIET, quiet_s=5.0, checkpoints=True))
    assert (stall.ranks, stall.silent_s, stall.behind) == ((0, 1, 2), 5.0, ())


# ----------------------------------------------------------------------------------------------------------- slow


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0], [0.0, 0.0]),
        ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]),
        ([1.0, 2.0, 3.0], [-0.6745, 0.0, 0.6745]),
        ([1.0, 1.0, 1.0, 2.0], [0.0, 0.0, 0.0, 1.349]),
        ([1.0] * 7 + [2.0], [0.0] * 7 + [7.0]),
    ],
)
def test_scores(values, expected):
    """0.6745 (x - median) / MAD; where the MAD is 0 the middle half, then the range."""
    assert list(scores(dict(enumerate(values))).values()) == pytest.approx(expected)


def test_a_straggler_is_slow_five_times_in_a_row():
    """Once is chance; a gap starts anew; it is told once; less than 10 % is nothing."""
    usual = {rank: 1.0 + 0.01 * (rank % 3) for rank in range(8)}
    slow = {**usual, 5: 1.4}
    streaks, told = {}, []
    for window in [slow] * 4 + [usual] + [slow] * 8:
        streaks, found = stragglers(streaks, window)
        told.append([each.rank for each in found])
    assert told == [[]] * (5 + SLOW_WINDOWS - 1) + [[5]] + [[]] * 3
    assert stragglers({5: 4}, {**usual, 5: 1.09}) == ({}, ())
    assert stragglers({5: 4}, {}) == ({}, ())
    ((only,),) = [stragglers({5: 4}, slow)[1]]
    assert (only.rank, only.own_s, only.windows) == (5, 1.4, SLOW_WINDOWS)


# ---------------------------------------------------------------------------------------------------------- wrong


def told(values, losses=None):
    """What becomes of these losses."""
    losses, odd = losses or Losses(), []
    for value in values:
        losses, found = take_loss(losses, value)
        odd.append(found)
    return losses, odd


def test_losses():
    """No number at once; a spike only against enough good values, which it does not join; 3 deviations are noted."""
    steady = [1.0 + 0.01 * (step % 5) for step in range(LOSSES_NEEDED)]
    losses, odd = told(steady)
    assert odd == [None] * LOSSES_NEEDED
    for value in (math.nan, math.inf, -math.inf):
        after, found = take_loss(losses, value)
        assert after == losses
        assert found.score == math.inf
    after, spike = take_loss(losses, 1.5)
    assert after == losses
    assert spike.score > 6
    after, note = take_loss(losses, 1.02 + 4 * 0.01 / 0.6745)
    assert len(after.values) == LOSSES_NEEDED + 1
    assert 3 < note.score < 6
    assert take_loss(losses, 0.5)[1] is None
    assert len(told(steady * 9)[0].values) == LOSSES
    assert take_loss(Losses(values=(1.0,) * LOSSES_NEEDED), 9.0)[1] is None


# ------------------------------------------------------------------------------------------------- a look before the end

NCCL = replace(AUTO, collective_s=600.0)
SLOW = learn(Learnt(), 4, {"step": [200.0] * 9})


def test_ranks_are_looked_at_before_a_collective_gives_up():
    """At 0.8 of its time-out, where the limit of a hang is longer or there is none."""
    signs = [sign(rank, 481.0, step=50 - (rank == 2)) for rank in range(4)]
    stall = foresee(signs, SLOW, NCCL, QUIET)
    assert (stall.early, stall.ranks, stall.behind, stall.limit_s, stall.silent_s) == (
        True,
        (0, 1, 2, 3),
        (2,),
        480.0,
        481.0,
    )
    assert judge(signs, SLOW, NCCL, QUIET) is None
    for patience in (replace(NONE, collective_s=600.0), replace(FIXED, hang_after_s=3600.0, collective_s=600.0)):
        assert foresee(signs, SLOW, patience, QUIET) == stall
    assert foresee([sign(phase="init", beats=0, source="", age_s=500.0)], SLOW, replace(NCCL, expected=True), QUIET)
    assert foresee([sign(0, 500.0), sign(1, 1.0, phase="save")], SLOW, NCCL, QUIET).ranks == (0,)


@pytest.mark.parametrize(
    ("now", "learnt", "patience", "situation"),
    [
        (sign(age_s=479.0), SLOW, NCCL, QUIET),
        (sign(age_s=999.0), SLOW, AUTO, QUIET),
        (sign(age_s=999.0), SLOW, NCCL, replace(QUIET, quiet_s=479.0)),
        (sign(age_s=999.0), QUICK, NCCL, QUIET),
        (sign(age_s=999.0), SLOW, replace(FIXED, collective_s=600.0), QUIET),
        (sign(age_s=500.0), learn(Learnt(), 4, {"step": [500.0]}), NCCL, QUIET),
        (sign(age_s=999.0, source=""), SLOW, NCCL, QUIET),
        (sign(age_s=600.0), SLOW, NCCL, replace(QUIET, looked_s=100.0)),
    ],
)
def test_who_is_not_looked_at_early(now, learnt, patience, situation):
    """Too early, turned off, excused, the hang limit comes first, usual, nothing is seen, or seen already."""
    assert foresee([now], learnt, patience, situation) is None


def test_the_next_stall_is_looked_at_anew():
    """Ranks that went on after a look, and stand still again."""
    assert foresee([sign(age_s=600.0)], SLOW, NCCL, replace(QUIET, looked_s=700.0)).early

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ftslurm.core.about import SaveKind
from ftslurm.core.interval import daly
from ftslurm.core.savepolicy import (
    AUTO_UNMEASURED_S,
    Moment,
    Order,
    SavePolicy,
    decide,
    deterministic,
    due_by_step,
    improves,
    interval_s,
    kind_of_save,
    lead_s,
    needs_a_clock,
)
from ftslurm.errors import DataDamaged

QUIET = Moment(step=100, now_s=1000.0, last_save_step=90, last_save_s=950.0)

policies = st.builds(
    SavePolicy,
    every_steps=st.integers(0, 50),
    every_s=st.none() | st.just("auto") | st.floats(0.1, 1e4),
    epoch_end=st.booleans(),
    metric=st.sampled_from(["", "loss"]),
    metric_mode=st.sampled_from(["min", "max"]),
    min_steps=st.integers(0, 50),
    min_interval_s=st.just(0.0) | st.floats(0, 1e3),
    full_every=st.integers(1, 9),
    compression=st.sampled_from(["none", "zstd"]),
)
moments = st.builds(
    Moment,
    step=st.integers(0, 200),
    epoch_ended=st.booleans(),
    now_s=st.floats(0, 1e5),
    last_save_step=st.integers(0, 200),
    last_save_s=st.floats(0, 1e5),
    in_flight=st.booleans(),
    best=st.none() | st.floats(),
    metrics=st.just({}) | st.fixed_dictionaries({"loss": st.floats()}),
    order=st.none() | st.sampled_from(Order),
    signal=st.sampled_from(["", "SIGTERM"]),
    remaining_s=st.none() | st.floats(-10, 1e4),
    save_cost_s=st.floats(0, 100),
    drain_s=st.floats(0, 100),
    mtbf_s=st.floats(0, 1e6),
    step_s=st.floats(0, 10),
)


def is_urgent(moment: Moment) -> bool:
    """Whether an order, a signal or the deadline may be behind a save."""
    near = moment.remaining_s is not None and moment.remaining_s <= lead_s(moment)
    return bool(moment.signal) or moment.order is not None or near


# ---------------------------------------------------------------------------------------------------------------- laws


@given(policy=policies, moment=moments)
def test_nothing_in_flight(policy: SavePolicy, moment: Moment) -> None:
    """No save is decided while one is in flight, whoever asks for it."""
    assert not decide(policy, replace(moment, in_flight=True)).save


@given(policy=policies, moment=moments)
def test_floors(policy: SavePolicy, moment: Moment) -> None:
    """Only an order, a signal or the deadline goes below a floor."""
    assume(moment.now_s >= moment.last_save_s)
    if decide(policy, moment).save and not is_urgent(moment):
        assert moment.step - moment.last_save_step >= policy.min_steps
        assert moment.now_s - moment.last_save_s >= policy.min_interval_s


@given(policy=policies, moment=moments)
def test_urgent_is_heard(policy: SavePolicy, moment: Moment) -> None:
    """An order or a signal is followed whatever the floors say, unless a save is in flight or nothing is new."""
    assume(moment.signal or moment.order is not None)
    assert decide(policy, moment).save == (not moment.in_flight and moment.step > moment.last_save_step)


@given(policy=policies, ours=moments, theirs=moments)
def test_alike_on_every_rank(policy: SavePolicy, ours: Moment, theirs: Moment) -> None:
    """What is not announced follows from step, last save's step and epoch's end alone: every rank says the same."""
    decision = decide(policy, ours)
    by_step = due_by_step(policy, ours.step, ours.last_save_step, epoch_ended=ours.epoch_ended)
    if decision.save and not decision.needs_announcement:
        assert by_step == decision
    if by_step.save:
        other = replace(
            theirs,
            step=ours.step,
            last_save_step=ours.last_save_step,
            epoch_ended=ours.epoch_ended,
            in_flight=False,
            order=None,
            signal="",
            remaining_s=None,
        )
        assert decide(policy, other) == by_step


@given(policy=policies, moment=moments)
def test_reasons(policy: SavePolicy, moment: Moment) -> None:
    """Every decision has a reason of one line."""
    reason = decide(policy, moment).reason
    assert reason
    assert "\n" not in reason


@given(policy=policies, moment=moments)
def test_nothing_twice(policy: SavePolicy, moment: Moment) -> None:
    """The step of the last save, and one before it, are never saved again: a generation is never written twice."""
    assert not decide(policy, replace(moment, step=min(moment.step, moment.last_save_step))).save


@given(every=st.integers(1, 50), floor=st.integers(0, 200), stride=st.integers(1, 7))
def test_steps_are_round(every: int, floor: int, stride: int) -> None:
    """Saves by steps come at multiples, or at the first step after one; each multiple asks for one save at most."""
    policy, last, saved = SavePolicy(every_steps=every, min_steps=floor), 0, []
    for step in range(0, 400, stride):
        if due_by_step(policy, step, last, epoch_ended=False).save:
            saved.append(step)
            last = step
    multiples = [step // every for step in saved]
    assert multiples == sorted(set(multiples))
    if floor <= 1 and stride == 1:
        assert saved == list(range(every, 400, every))


@given(policy=policies)
def test_json_round_trip(policy: SavePolicy) -> None:
    """A policy survives the environment of the ranks."""
    text = policy.to_json()
    assert "\n" not in text
    assert SavePolicy.from_json(text) == policy


@given(last=st.floats(0, 1e4), limit=st.floats(1, 1e4), cost=st.floats(0.1, 50), drain=st.floats(0, 50))
def test_one_save_before_the_deadline(last: float, limit: float, cost: float, drain: float) -> None:
    """With the time running out second by second, the deadline asks for one save, and early enough for its drain."""
    last_s, last_step, saves = last, 0, []
    end_s = last + limit
    for second in range(int(limit) + 1):
        now_s = last + second
        moment = Moment(
            step=second + 1,
            now_s=now_s,
            last_save_step=last_step,
            last_save_s=last_s,
            remaining_s=end_s - now_s,
            save_cost_s=cost,
            drain_s=drain,
            step_s=1.0,
        )
        if decide(SavePolicy(), moment).save:
            saves.append(now_s)
            last_s, last_step = now_s, second + 1
    assert len(saves) <= 1
    if limit > 1.5 * (cost + drain) + 4:
        assert end_s - saves[0] >= 1.5 * (cost + drain) + 1


# ----------------------------------------------------------------------------------------------------------- sentences


@pytest.mark.parametrize(
    ("policy", "changes", "save", "announced", "reason"),
    [
        ({}, {}, False, False, "nothing asks for a save at step 100"),
        ({"every_steps": 50}, {}, True, False, "step 100: every 50 steps"),
        ({"every_steps": 50, "min_interval_s": 10.0}, {}, True, True, "step 100: every 50 steps"),
        ({"every_steps": 50, "min_interval_s": 60.0}, {}, False, False, "step 100: every 50 steps, but the last save is 50.0 s ago, less than 60 s"),
        ({"every_steps": 50, "min_steps": 20}, {}, False, False, "step 100: every 50 steps, but the last save is 10 steps ago, fewer than 20"),
        ({"epoch_end": True}, {"epoch_ended": True}, True, False, "step 100 ended an epoch"),
        ({"every_s": 30.0}, {}, True, True, "50 s since the last save: every 30 s"),
        ({"every_s": 30.0, "min_steps": 11}, {}, False, False, "50 s since the last save: every 30 s, but the last save is 10 steps ago, fewer than 11"),
        ({"every_s": "auto"}, {"now_s": 1250.0}, True, True, "300 s since the last save: every 300 s until a save is measured"),
        ({"every_s": "auto"}, {"save_cost_s": 0.1, "mtbf_s": 7200.0}, True, True, "50 s since the last save: every 38 s (a save costs 0.1 s, a failure comes every 7200 s)"),
        ({"metric": "loss"}, {"metrics": {"loss": 2.5}}, True, True, "loss 2.5 is the first that is known"),
        ({"metric": "loss"}, {"metrics": {"loss": 2.5}, "best": 3.0}, True, True, "loss 2.5 is better than 3"),
        ({"metric": "loss"}, {"metrics": {"loss": 3.5}, "best": 3.0}, False, False, "nothing asks for a save at step 100"),
        ({}, {"order": Order.OPERATOR}, True, True, "the operator asked for it"),
        ({}, {"order": Order.NODE_WARNING}, True, True, "a node is not well"),
        ({}, {"signal": "SIGUSR1"}, True, True, "SIGUSR1 was received"),
        ({}, {"remaining_s": 20.0, "save_cost_s": 4.0, "drain_s": 10.0}, True, True, "20 s to the time limit, and a save and its drain take 14.0 s"),
        ({}, {"order": Order.PREEMPT, "in_flight": True}, False, False, "the save of step 90 is not finished; the job is being preempted: the next one follows it"),
        ({"every_steps": 50}, {"in_flight": True}, False, False, "the save of step 90 is not finished"),
        ({"every_steps": 50}, {"last_save_step": 100}, False, False, "step 100 is saved already"),
    ],
)  # fmt: skip
def test_sentences(policy: dict, changes: dict, save: bool, announced: bool, reason: str) -> None:
    """Each trigger and floor says itself, with its numbers, and whether the other ranks have to be told."""
    found = decide(SavePolicy(**policy), replace(QUIET, **changes))
    assert (found.save, found.needs_announcement, found.reason) == (save, announced, reason)


@pytest.mark.parametrize(
    ("policy", "alike", "clock"),
    [
        ({}, True, False),
        ({"every_steps": 10, "min_steps": 5}, True, False),
        ({"epoch_end": True, "min_interval_s": 1.0}, False, True),
        ({"every_s": 10.0}, True, True),
        ({"metric": "loss"}, True, True),
    ],
)
def test_who_decides(policy: dict, alike: bool, clock: bool) -> None:
    """Steps and epochs need nobody; seconds and metrics need one rank, and so does a floor in seconds."""
    assert deterministic(SavePolicy(**policy)) is alike
    assert needs_a_clock(SavePolicy(**policy)) is clock


def test_auto_is_daly() -> None:
    """`auto` is Daly's interval, between the end of a save and the beginning of the next."""
    policy = SavePolicy(every_s="auto")
    measured = replace(QUIET, save_cost_s=2.0, mtbf_s=50_000.0)
    assert interval_s(policy, measured) == daly(2.0, 50_000.0) + 2.0
    assert interval_s(policy, QUIET) == AUTO_UNMEASURED_S
    assert interval_s(SavePolicy(every_s=9.0), measured) == 9.0
    assert interval_s(SavePolicy(), measured) is None


@pytest.mark.parametrize(
    ("mode", "value", "best", "better"),
    [
        ("min", 1.0, 2.0, True),
        ("min", 2.0, 2.0, False),
        ("max", 3.0, 2.0, True),
        ("max", 1.0, 2.0, False),
        ("min", math.nan, None, False),
        ("max", math.inf, 2.0, False),
        ("min", 1.0, math.nan, True),
        ("min", 1.0, None, True),
    ],
)
def test_improves(mode: str, value: float, best: float | None, better: bool) -> None:
    """Better is strictly better; what is not finite is never better, nor the best."""
    assert improves(SavePolicy(metric="m", metric_mode=mode), value, best) is better


@pytest.mark.parametrize(
    ("every", "since", "base", "share", "kind", "reason"),
    [
        (1, 0, True, 0.0, SaveKind.FULL, "every save is full"),
        (8, 0, False, 0.0, SaveKind.FULL, "there is no committed full save to build on"),
        (8, 0, True, 0.0, SaveKind.DIFF, "number 1 of 7 since the last full one"),
        (8, 6, True, 0.4, SaveKind.DIFF, "number 7 of 7 since the last full one"),
        (8, 7, True, 0.4, SaveKind.FULL, "7 differential saves followed the last full one"),
        (8, 2, True, 0.63, SaveKind.FULL, "the last differential save was 63 % of a full one"),
    ],
)
def test_kind_of_save(every: int, since: int, base: bool, share: float, kind: SaveKind, reason: str) -> None:
    """One of `full_every` saves is full; so is one without a base, and one after a differential save that was large."""
    found = kind_of_save(SavePolicy(full_every=every), since_full=since, has_base=base, diff_share=share)
    assert found == (kind, reason)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("every_steps", -1),
        ("every_steps", True),
        ("every_s", 0),
        ("every_s", "often"),
        ("epoch_end", 1),
        ("metric", None),
        ("metric_mode", "best"),
        ("min_steps", 1.5),
        ("min_interval_s", -1.0),
        ("min_interval_s", "1s"),
        ("full_every", 0),
        ("compression", "gzip"),
        ("more", 1),
    ],
)
def test_json_is_distrusted(name: str, value: object) -> None:
    """A value that a policy cannot hold, and a key that it does not have, are refused."""
    record = {**json.loads(SavePolicy().to_json()), name: value}
    with pytest.raises(DataDamaged):
        SavePolicy.from_json(json.dumps(record))

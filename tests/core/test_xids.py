from __future__ import annotations

import pytest

from ftslurm.core.health import Consequence, Level
from ftslurm.core.xids import (
    CATALOGUE,
    KEPT,
    LEMON,
    MEMORY_S,
    NVIDIA,
    OVERRIDES,
    Response,
    Xid,
    attributable,
    bursts,
    is_repeat,
    judge,
    remember,
    response_to,
)


def xid(code, at=0.0, gpu="0000:3b:00", node="n1"):
    """Return an error."""
    return Xid(node=node, gpu=gpu, code=code, at=at)


def after(*seen):
    """Return the judgement on the last of these errors."""
    kept = ()
    for each in seen:
        kept = remember(kept, each)
    return judge(kept, seen[-1])


def test_the_catalogue_is_whole():
    """172 codes, 63 of them unused; no code has two actions."""
    used = [code for codes in NVIDIA.values() for code in codes]
    assert len(CATALOGUE) == 172
    assert set(used) <= set(CATALOGUE)
    assert len(used) == len(set(used)) == 172 - 63
    assert {name: len(codes) for name, codes in NVIDIA.items()} == {
        "RESTART_APP": 48,
        "IGNORE": 19,
        "RESET_GPU": 14,
        "RESTART_BM": 1,
        "RESTART_VM": 1,
        "CHECK_MECHANICALS": 1,
        "WORKFLOW": 10,
        "OTHER": 15,
    }


def test_every_code_has_a_response_and_every_deviation_a_reason():
    """The default is NVIDIA's action."""
    same = {
        "RESTART_APP": Response.RELAUNCH,
        "IGNORE": Response.IGNORE,
        "RESET_GPU": Response.RESET,
        "RESTART_BM": Response.REPLACE,
        "RESTART_VM": Response.REPLACE,
        "CHECK_MECHANICALS": Response.REPLACE,
    }
    for code in CATALOGUE:
        action = next((name for name, codes in NVIDIA.items() if code in codes), "")
        assert response_to(code) is same.get(action, Response.NOTE) or OVERRIDES[code][1]
    assert response_to(9999) is Response.NOTE
    assert all(response_to(code) is Response.IGNORE for code in LEMON)


@pytest.mark.parametrize("code", [46, 48, 54, 62, 64, 79, 95, 109, 119, 120, 140, 151, 158])
def test_errors_that_need_a_reset_or_a_repair_exclude(code):
    """The GPU is of no use before."""
    assert (after(xid(code)).level, after(xid(code)).action) == (Level.FAILED, Consequence.EXCLUDE)


@pytest.mark.parametrize("code", [63, 92, 43, 160])
def test_errors_to_ignore_say_nothing(code):
    """They are in the journal."""
    assert after(xid(code)).level is Level.HEALTHY


def test_third_burst_of_a_programs_error_makes_a_gpu_suspect():
    """On the same GPU, within seven days; what comes in one burst counts once."""
    day = 86400.0
    assert after(xid(31), xid(31, 100), xid(31, 200), xid(31, 379)).action is Consequence.SAY
    assert after(xid(31), xid(31, day), xid(31, 2 * day)).action is Consequence.AVOID
    assert after(xid(31), xid(31, day), xid(31, 8 * day)).action is Consequence.SAY
    assert after(xid(31), xid(31, day, gpu="0000:86:00"), xid(31, 2 * day)).action is Consequence.SAY
    assert after(xid(31), xid(31, day, node="n2"), xid(31, 2 * day)).action is Consequence.SAY


def test_link_errors_exclude_when_they_come_again():
    """The first may be chance."""
    assert after(xid(74)).action is Consequence.SAY
    assert after(xid(149), xid(149, 60)).action is Consequence.SAY
    assert after(xid(149), xid(149, 600)).action is Consequence.EXCLUDE


def test_clean_up_follows_another_error():
    """45 with another one in its burst is nothing; alone it is said."""
    assert after(xid(31), xid(45, 2)).level is Level.HEALTHY
    assert after(xid(45)).action is Consequence.SAY
    assert after(xid(31), xid(45, 400)).action is Consequence.SAY


def test_bursts_end_after_three_minutes_of_silence():
    """Gaps count, not the length."""
    seen = [xid(31, at) for at in (0, 170, 340, 521, 600)]
    assert bursts(seen, seen[0]) == ((31, 31, 31), (31, 31))


def test_memory_is_bounded():
    """Seven days, and not more than a few hundred."""
    seen = remember((), xid(31))
    assert remember(seen, xid(31, MEMORY_S)) == (xid(31), xid(31, MEMORY_S))
    assert remember(seen, xid(31, MEMORY_S + 1)) == (xid(31, MEMORY_S + 1),)
    for at in range(KEPT + 5):
        seen = remember(seen, xid(31, at))
    assert len(seen) == KEPT


@pytest.mark.parametrize(("when", "may"), [(-601, False), (-600, True), (0, True), (300, True), (301, False)])
def test_an_error_explains_an_end_only_near_it(when, may):
    """Ten minutes before, five after."""
    assert attributable(1000.0 + when, 1000.0) is may


def test_repeats_within_five_seconds_are_one():
    """The same code on the same GPU."""
    heard = {("a", 31): 100.0}
    assert is_repeat(heard, "a", 31, 105.0)
    assert not is_repeat(heard, "a", 31, 105.1)
    assert not is_repeat(heard, "a", 32, 100.0)
    assert not is_repeat(heard, "b", 31, 100.0)

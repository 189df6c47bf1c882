from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftslurm.core.recovery import Kind
from ftslurm.errors import DataDamaged
from ftslurm.journal import parse_line
from ftslurm.plan.otherpolicy import Rules
from ftslurm.plan.replay import replay
from tests.core.story import play
from tests.insight.journals import DEAD, Tale, policy_for
from tests.lab.longer import long_test
from tests.plan.tales import lost_node, rules

SCENARIOS = sorted((Path(__file__).parent.parent / "scenarios").glob("*.txt"))
OTHERS = (
    {"min_nodes": 99},
    {"continue_by": "none"},
    {"prefer": ("requeue",)},
    {"max_attempts": 1},
    {"spares": 2},
    {"muster_s": 1.0, "fence_s": 1.0, "grace_s": 1.0, "agents_s": 1.0},
    {"partner": True, "world_multiple_of": 3},
    {"in_place": True, "reshards": False, "efficiency": 0.1},
)


def replays_as_recorded(path: Path) -> None:
    """Replay the journal of a scenario with its own policy, and with others."""
    story, _ = play(path.read_text())
    entries = [parse_line(entry.line()) for entry in story.entries]
    own = Rules(policy=story.policy)
    again = replay(entries, own)
    assert (again.mismatch, again.run, again.entries) == (None, story.run, len(entries))
    same = replay(entries, own, own)
    assert (same.differences, same.first) == ([], None)
    assert all(each.same for each in same.decisions)
    other = OTHERS[len(path.stem) % len(OTHERS)]
    asked = replay(entries, own, Rules(policy=replace(story.policy, **other)))
    assert [each.own for each in asked.decisions if each.own] == [each.own for each in again.decisions]
    assert asked.run == again.run


@pytest.mark.parametrize("path", SCENARIOS[::6], ids=lambda path: path.stem)
def test_a_journal_replays_to_the_decisions_that_it_holds(path):
    """With its own policy every action is the recorded one; another policy changes nothing of what was recorded."""
    replays_as_recorded(path)


@long_test("the journals of all scenarios are replayed")
def test_every_journal_replays_to_the_decisions_that_it_holds():
    """As above, for all of them."""
    for path in SCENARIOS:
        replays_as_recorded(path)


def test_the_first_entry_that_was_decided_otherwise_is_named():
    """Of a journal from a release with other rules: where it begins, what was done and what would be done now."""
    entries = lost_node().entries
    at = next(each.number for each in entries if any("plan_" in getattr(a, "slug", "") for a in each.actions))
    for number in (at, at + 3):
        entries[number] = replace(entries[number], actions=())
    found = replay(entries, rules())
    assert found.mismatch is not None
    assert (found.mismatch.number, found.mismatches) == (at, 1 + bool(lost_node().entries[at + 3].actions))
    assert found.mismatch.recorded == ("the run is relaunching",)
    assert any("starts attempt 1 on n[1-2,4]" in text for text in found.mismatch.now)


def test_a_journal_with_a_gap_is_refused():
    """What follows from the other entries is not what was decided."""
    entries = lost_node().entries
    with pytest.raises(DataDamaged, match="no entry 7, but an entry 8"):
        replay(entries[:7] + entries[8:], rules())


@pytest.mark.parametrize(
    ("changes", "kind", "dearer"),
    [
        ({"min_nodes": 4}, Kind.REQUEUE, True),
        ({"prefer": ("requeue", "shrink")}, Kind.REQUEUE, True),
        ({"min_nodes": 4, "continue_by": "none"}, Kind.ABORT, None),
        ({"max_attempts": 1}, Kind.ABORT, None),
        ({"world_multiple_of": 4}, Kind.SHRINK, True),
        ({"prefer": ("shrink", "requeue")}, Kind.SHRINK, False),
    ],
)
def test_another_policy_is_asked_in_the_recorded_situation(changes, kind, dearer):
    """Its plan stands beside the recorded one, both with a price by the same assumptions; who gives up has none."""
    found = replay(lost_node().entries, rules(), rules(**changes))
    (decision,) = found.decisions
    assert decision.own.plan.kind is Kind.SHRINK
    assert decision.other.plan.kind is kind
    if dearer is None:
        assert decision.other.price_node_s is None
    else:
        assert (decision.other.price_node_s > decision.own.price_node_s) is dearer
    assert decision.same is (dearer is False)
    assert (found.first is None) is decision.same
    assert found.first is None or found.first.number == decision.number


def test_prices_are_by_what_the_own_policy_assumes():
    """Else a policy that believes smaller worlds to be slow would seem to lose more by the same deed."""
    found = replay(lost_node().entries, rules(), rules(efficiency=0.5))
    (decision,) = found.decisions
    assert decision.same
    assert decision.own.price_node_s == decision.other.price_node_s
    assert decision.other.plan.cost_node_s > decision.own.plan.cost_node_s


def test_a_way_to_go_on_that_is_given_wins_over_the_one_that_was_found():
    """A job that found out how it can be gone on from says so at its start; another policy may forbid it."""
    tale = Tale(policy_for(min_nodes=4)).start().lose("n3")
    start = replace(tale.entries[0], event=replace(tale.entries[0].event, continue_by="requeue"))
    entries = [start, *tale.entries[1:]]
    other = replace(rules(min_nodes=4, continue_by="none"), continue_by="none")
    found = replay(entries, rules(min_nodes=4), other)
    assert [(each.own.plan.kind, each.other.plan.kind) for each in found.decisions] == [(Kind.REQUEUE, Kind.ABORT)]


def test_what_is_done_besides_plans_is_told_once_and_counted():
    """A policy with partner copies has one made of every checkpoint."""
    tale = Tale().start()
    for step in (100, 200, 300):
        tale.save(step, after=30)
    found = replay(tale.entries, rules(), rules(partner=True))
    (difference,) = [each for each in found.differences if any("partners" in text for text in each.other)]
    assert difference.count == 3
    assert found.first == difference


def test_a_wait_that_would_have_been_over_first_is_told_with_what_follows():
    """Ranks that took 2 s to come up would not have been waited for by a policy that gives them one."""
    found = replay(Tale().start().save(100, after=60).entries, rules(), rules(muster_s=1.0, agents_s=20.0))
    (difference,) = found.differences
    assert difference.at == "the wait for muster would have been over after 1 s"
    assert difference.other == ("stops attempt 0 on n[1-4]",)
    assert found.harmless == 1  # that for agents, who came at once


def test_a_wait_that_ran_out_would_have_gone_on():
    """A longer one is told with how much longer; what would have come meanwhile nobody knows."""
    tale = Tale()
    tale.granted()
    tale.timer("agents", after=30.0)
    (difference,) = replay(tale.entries, rules(), rules(agents_s=90.0)).differences
    assert difference.at == "the wait for agents ran out after 30 s"
    assert difference.other == ("would still have waited, 60 s more",)


@pytest.mark.parametrize(
    ("limit_s", "words"),
    [(1.0, "up to 2.0 s sooner"), (4.0, "at least 1.0 s later"), (9.0, "never asked about: it would have been heard")],
)
def test_a_silence_is_asked_about_at_another_time(limit_s, words):
    """By how much sooner or later; a silence that ended by itself may have gone unnoticed."""
    tale = Tale().start()
    tale.silent("n3")
    tale.wait(2.0).agent("n3")
    found = replay(tale.entries, rules(), replace(rules(), suspect_after_s=limit_s))
    (difference,) = found.differences
    assert difference.at == "n3 was silent"
    assert words in difference.other[0]


def test_a_node_that_was_given_up_is_told_with_its_silence():
    """From its last beat to the verdict."""
    tale = Tale().start().lose("n3", DEAD)
    (difference,) = replay(tale.entries, rules(), replace(rules(), suspect_after_s=1.0)).differences
    assert "given up after 4.1 s" in difference.own[0]

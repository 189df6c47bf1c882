from __future__ import annotations

from dataclasses import replace

import pytest

from ftslurm.core.recovery import Kind
from ftslurm.core.savepolicy import SavePolicy
from ftslurm.core.working import WorkPaused
from ftslurm.insight.walltime import Category
from ftslurm.plan.assumed import assumed
from ftslurm.plan.otherpolicy import Rules
from ftslurm.plan.projection import Outcome, measured, project
from ftslurm.plan.recorded import Fault, Recorded, Stop, recorded
from ftslurm.plan.replay import replay
from tests.insight.journals import DEAD, Tale, policy_for
from tests.plan.tales import EVERY_S, lost_node, rules, trained


def measures(tale: Tale, own: Rules | None = None) -> Recorded:
    """What a projection takes from a recorded run."""
    found = recorded(tale.entries, replay(tale.entries, own or rules()))
    assert found is not None
    return found


def projected(tale: Tale, other: Rules | None = None, queue_s: float | None = None) -> Outcome:
    """The run under another policy; without one under its own."""
    found, own = measures(tale), rules()
    return project(found, own, other or own, assumed(found, other or own, own, queue_s))


def kinds(outcome: Outcome) -> list[Kind]:
    """The plans of the model."""
    return [kind for _, kind in outcome.plans]


def test_what_is_measured_in_a_recorded_run():
    """Distances of saves, launches, and the failure from its first sign to the moment when nothing was left."""
    found = measures(lost_node())
    assert found.interval_s == pytest.approx(EVERY_S, abs=2.1)  # a release comes before the first step
    assert found.restart_s == pytest.approx(2.7)
    assert found.start_s == pytest.approx(2.5)
    assert (found.queue_s, found.pause_s, found.wanted, found.finished) == (None, None, 4, False)
    (fault,) = [each for each in found.happened if isinstance(each, Fault)]
    assert fault.nodes == ("n3",)
    assert fault.detect_s == pytest.approx(4.1)
    assert fault.now is not None


def test_a_run_without_entries_has_no_measures():
    """Nothing has happened yet."""
    assert recorded([], replay([], rules())) is None


def test_the_model_of_the_own_policy_is_near_what_was_measured():
    """Where saves come at equal distances, it differs by less than a point of ETTR and 2 % of what was lost."""
    tale = lost_node()
    real, model = measured(measures(tale), policy_for()), projected(tale)
    assert model.ettr == pytest.approx(real.ettr, abs=0.01)
    assert model.lost_node_s == pytest.approx(real.lost_node_s, rel=0.02)
    assert (model.attempts, model.requeues, kinds(model)) == (real.attempts, 0, [Kind.SHRINK])


@pytest.mark.parametrize(
    "changes", [{}, {"spares": 1}, {"min_nodes": 4}, {"efficiency": 0.5}, {"world_multiple_of": 4}, {"max_attempts": 1}]
)
def test_every_second_is_spent_and_every_node_second_kept_or_lost(changes):
    """Categories sum to the time, and what is kept and lost to the time of all nodes that were wanted."""
    outcome = projected(lost_node(), rules(**changes))
    assert outcome.useful + outcome.lost_node_s == pytest.approx(4 * outcome.took_s)
    found = measures(lost_node())
    assert outcome.over or outcome.took_s == pytest.approx(found.until - found.begun)


def test_a_spare_takes_the_place_of_the_lost_node():
    """No work is missing then; what it costs is a node that stands idle until it is needed."""
    own, other = projected(lost_node()), projected(lost_node(), rules(spares=1))
    assert kinds(other) == [Kind.SPARE]
    assert own.lost["missing"] > 500
    assert other.lost["missing"] == 0.0
    assert other.idle == pytest.approx(5 * EVERY_S + 22, rel=0.1)


def test_fewer_spares_than_recorded_leave_fewer_nodes():
    """The jobs of the record had five nodes, and one would have had four."""
    nodes = ("n1", "n2", "n3", "n4", "n5")
    tale = trained(Tale(policy_for(spares=1), nodes=nodes).start(), 3).wait(20).lose("n3").launched()
    found, own = measures(tale, rules(spares=1)), rules(spares=1)
    assert kinds(project(found, own, own, assumed(found, own, own))) == [Kind.SPARE]
    assert kinds(project(found, own, rules(), assumed(found, rules(), own))) == [Kind.SHRINK]


def test_a_spare_that_is_lost_stops_nothing_and_is_missed_later():
    """In the model as in the record: the next node that is lost has none to take its place."""
    tale = trained(Tale(policy_for(spares=1), nodes=("n1", "n2", "n3", "n4", "n5")).start(), 3)
    tale.silent("n5")
    tale.probed("n5", DEAD)
    tale = trained(trained(tale, 12, first=4).wait(20).lose("n2").launched(), 2, first=16)
    own = rules(spares=1)
    found = measures(tale, own)
    outcome = project(found, own, own, assumed(found, own, own))
    assert kinds(outcome) == [Kind.SHRINK]
    assert outcome.ettr == pytest.approx(measured(found, own.policy).ettr, abs=0.02)


def test_a_requeue_costs_the_queue_and_begins_at_full_size():
    """The wait is the user's word, else the recorded one, else Slurm's own delay, and then that is said."""
    tale = lost_node()
    waited = projected(tale, rules(min_nodes=4), queue_s=200.0)
    assert kinds(waited) == [Kind.REQUEUE]
    assert (waited.requeues, waited.lost["missing"]) == (1, 0.0)
    assert waited.spent[Category.QUEUED] == 200.0
    assert projected(tale, rules(min_nodes=4)).spent[Category.QUEUED] == 129.0
    words = assumed(measures(tale), rules(), rules()).words
    assert any("was not recorded: taken as 129 s, Slurm's own delay, at the least" in text for text in words)


def test_a_recorded_wait_in_the_queue_is_what_a_requeue_takes():
    """Measured from the job's leaving to its next start."""
    tale = trained(Tale(policy_for(min_nodes=4)).start(), 3).wait(20).lose("n3").requeued()
    tale.start(nodes=("n1", "n2", "n4", "n5"), after=321.0)
    found = measures(trained(tale, 2, first=4), rules(min_nodes=4))
    assert found.queue_s == pytest.approx(321.0)
    own = rules(min_nodes=4)
    outcome = project(found, own, own, assumed(found, own, own))
    assert outcome.spent[Category.QUEUED] == pytest.approx(321.0)
    assert outcome.ettr == pytest.approx(measured(found, own.policy).ettr, abs=0.02)


def test_who_gives_up_loses_no_more_and_does_no_more():
    """The model ends there, and says why."""
    outcome = projected(lost_node(), rules(max_attempts=1))
    assert kinds(outcome) == [Kind.ABORT]
    assert outcome.over
    assert outcome.end.startswith("given up: 1 attempts were made")
    assert outcome.useful < projected(lost_node()).useful


def test_a_failure_of_a_node_that_is_not_held_is_not_met():
    """A node that came with a requeue cannot fail a run that did not ask for it."""
    tale = trained(Tale(policy_for(min_nodes=4)).start(), 3).wait(20).lose("n3").requeued()
    tale.start(nodes=("n1", "n2", "n4", "n5"), after=100.0)
    tale = trained(tale, 2, first=4).wait(20).lose("n5")
    found, own = measures(tale, rules(min_nodes=4)), rules(min_nodes=4)
    other = project(found, own, rules(), assumed(found, rules(), own))
    assert kinds(other) == [Kind.SHRINK]
    assert other.unmet == 1


def test_a_run_that_finished_finishes_in_the_model_when_its_work_is_done():
    """Also after the recorded end: a policy that loses more takes longer."""
    tale = trained(lost_node(), 1, first=16).finish()
    own, other = projected(tale), projected(tale, rules(min_nodes=4), queue_s=3600.0)
    assert (own.end, other.end) == ("finished", "finished")
    assert own.useful == pytest.approx(other.useful)
    assert other.took_s > own.took_s + 3000


def test_a_program_that_fails_goes_on_from_its_newest_save():
    """What came after that is done again, and more saves leave less of it."""
    tale = trained(Tale().start(), 3).wait(50).crash(0).launched()
    tale = trained(tale, 3, first=4)
    own = projected(tale)
    assert kinds(own) == [Kind.RELAUNCH]
    assert own.spent[Category.RECOMPUTING] == pytest.approx(50, abs=3)
    dense = replace(rules(), saving=SavePolicy(every_s=10.0))
    assert projected(tale, dense).spent[Category.RECOMPUTING] < 11


def test_saves_that_stand_still_cost_their_time():
    """As long as was measured, each of them."""
    tale = trained(Tale().start(), 4)
    tale.happen(WorkPaused(attempt=0, took_s=3.0), after=1.0)
    tale = trained(tale, 1, first=5)
    often = replace(rules(), saving=SavePolicy(every_s=10.0))
    assert measures(tale).pause_s == 3.0
    assert projected(tale, often).spent[Category.SAVING] > 3 * projected(tale).spent[Category.SAVING] > 0


def test_a_failure_that_took_the_newest_save_takes_it_again():
    """What lay between it and the one that was restored is done again, too."""
    tale = trained(Tale().start(), 3)
    tale = trained(tale.save(400, durable=False, after=EVERY_S), 0).wait(20).lose("n3").launched()
    found = measures(trained(tale, 2, first=5))
    (fault,) = [each for each in found.happened if isinstance(each, Fault)]
    assert fault.behind_s == pytest.approx(EVERY_S, abs=5)
    real, model = measured(found, policy_for()), projected(tale)
    assert model.spent[Category.RECOMPUTING] > EVERY_S
    assert model.spent[Category.RECOMPUTING] == pytest.approx(real.spent[Category.RECOMPUTING], abs=12)


def test_a_shorter_silence_is_noticed_sooner():
    """By as much as the limits differ."""
    tale = lost_node()
    own, other = projected(tale), projected(tale, replace(rules(), suspect_after_s=1.0))
    assert own.spent[Category.DETECTING] - other.spent[Category.DETECTING] == pytest.approx(2.0)


@pytest.mark.parametrize(("way", "ends"), [("", False), ("none", True)])
def test_the_time_limit_leads_to_the_next_job_or_to_the_end(way, ends):
    """As the policy says; the save that was asked for is the one that is gone on from."""
    tale = trained(Tale().start(), 3).wait(20)
    tale.stop("time_limit")
    found = measures(tale)
    assert next(each for each in found.happened if isinstance(each, Stop)).why == "time_limit"
    outcome = projected(tale, replace(rules(), continue_by=way))
    assert outcome.over is ends
    assert outcome.requeues == (not ends)


def test_a_job_that_cannot_be_gone_on_from_ends_in_the_model_too():
    """What it found out when it started holds for every policy that does not say otherwise."""
    tale = trained(Tale().start(), 3).wait(20).lose("n3").launched()
    first = tale.entries[0]
    tale.entries[0] = replace(first, event=replace(first.event, continue_by="none"))
    found = measures(tale)
    for way, kind in (("", Kind.ABORT), ("requeue", Kind.REQUEUE)):
        other = replace(rules(min_nodes=4), continue_by=way)
        assert kinds(project(found, rules(), other, assumed(found, other, rules()))) == [kind]


def test_a_resumed_run_goes_on_where_its_model_had_ended():
    """The time in between is idle, and nobody's loss."""
    tale = trained(Tale().start(), 2).wait(10)
    tale.stop("user")
    tale.start(resumed=True, job_id="102", after=1000.0)
    tale = trained(tale, 2, first=3)
    outcome = projected(tale)
    assert outcome.spent[Category.IDLE] == pytest.approx(1000.0, abs=5)
    assert outcome.attempts == 2


def test_the_same_record_gives_the_same_projection():
    """Nothing in it is left to chance."""
    assert projected(lost_node(), rules(spares=1)) == projected(lost_node(), rules(spares=1))


@pytest.mark.parametrize(
    ("saving", "seconds", "words"),
    [
        (SavePolicy(every_s=90.0), 90.0, "1 min 30 s apart, by checkpoint.every"),
        (SavePolicy(every_steps=200), 120.0, "by checkpoint.every"),
        (SavePolicy(every_s=90.0, every_steps=100), 60.0, "by checkpoint.every"),
        (SavePolicy(every_s=90.0, min_interval_s=200.0), 200.0, "by checkpoint.every"),
        (SavePolicy(every_s="auto"), 300.0, "by checkpoint.every"),
        (SavePolicy(epoch_end=True), 60.0, "how often every.epoch saves was not recorded: taken as before"),
        (SavePolicy(every_s=30.0, metric="loss"), 30.0, "how often every.metric saves besides was not recorded"),
    ],
)
def test_how_often_another_policy_saves(saving, seconds, words):
    """By its time, its steps at the recorded pace, or as before where nobody knows."""
    found = measures(trained(Tale().start(), 6))
    told = assumed(found, replace(rules(), saving=saving), rules())
    assert told.interval_s == pytest.approx(seconds, rel=0.01)
    assert words in told.words[0]


def test_without_a_recorded_save_all_work_is_lost():
    """And that is said."""
    tale = Tale().start().wait(100).crash(0).launched()
    told = assumed(measures(tale), rules(), rules())
    assert told.words[0] == "no save was recorded: a failure loses all work"
    assert projected(tale.wait(200).save(1)).spent[Category.RECOMPUTING] == pytest.approx(100, abs=3)

from __future__ import annotations

import pytest

from ftslurm.core.diagnosis import Cause
from ftslurm.core.events import AgentLost, LaunchEnded, NodeFenced, NodeHeard, PartDrained, Phase, SlurmReported
from ftslurm.errors import DataDamaged
from ftslurm.insight.records import Kind, Story
from ftslurm.insight.story import story
from ftslurm.insight.walltime import Category
from tests.insight.journals import DEAD, NODES, START, UNDECIDED, WELL, Tale, policy_for


def told(tale: Tale) -> Story:
    """The story of a tale."""
    return story(tale.entries)


def texts(found: Story, kind: Kind) -> list[str]:
    """What the moments of one kind say."""
    return [moment.text for moment in found.moments if moment.kind is kind]


def test_nothing_has_happened():
    """A run without a journal has an empty story."""
    assert story([]) == Story()


def test_a_run_without_a_fault():
    """Start, release, checkpoints and end, in this order, and no incident."""
    found = told(Tale().start().save(100, after=10).save(200, after=10).finish())
    assert [moment.kind for moment in found.moments] == [Kind.JOB, Kind.RELEASED, Kind.CHECKPOINTS, Kind.END]
    assert texts(found, Kind.CHECKPOINTS) == ["2 checkpoints saved (steps 100 to 200); step 200 is on shared storage"]
    assert (found.phase, found.code, found.over, found.incidents) == (Phase.FINISHED, 0, True, ())
    assert found.totals.checkpoints == 2


def test_a_lost_node_from_silence_to_the_next_ranks():
    """Every part of the recovery is there, with its time, its reason and its price."""
    tale = Tale().start().save(100, after=10).save(200, after=10).wait(3)
    tale.lose("n3")
    tale.launched(restore_s=0.7, muster_s=2.0)
    (incident,) = told(tale).incidents
    (verdict,) = incident.judgements
    (plan,) = incident.choices
    assert incident.by.startswith("n3 was silent for 3.1 s")
    assert (verdict.cause, verdict.where, verdict.confidence) == (Cause.NODE_UNREACHABLE, "n3", 0.95)
    assert len(verdict.findings) == len(DEAD)
    assert verdict.would_change[0] == "one of ssh, srun answering would have kept n3"
    assert plan.kind == "shrink"
    assert [kind for kind, _ in plan.rejected] == ["relaunch", "spare", "requeue"]
    assert incident.excluded == ("n3",)
    assert incident.restored_from is not None
    assert incident.restored_from.step == 200
    stages = {name: seconds for name, seconds in incident.stages if seconds is not None}
    assert stages == pytest.approx({"detect": 3.1, "decide": 1.0, "stop": 0.3, "launch": 2.7, "restore": 0.7}, abs=1e-3)
    assert incident.recovery_s == pytest.approx(7.1, abs=1e-3)
    assert incident.outcome == "attempt 1 trains: 6 ranks on n[1-2,4], from the checkpoint of step 200"


def test_what_a_failure_costs():
    """Lost is the training between the checkpoint that was gone back to and the first sign of the failure."""
    tale = Tale().start()
    tale.save(100, after=10)
    tale.wait(20)
    tale.lose("n3")
    tale.launched()
    found = told(tale)
    (incident,) = found.incidents
    assert incident.restored_from is not None
    assert incident.restored_from.seen is not None
    assert incident.lost_s == pytest.approx(incident.sign - incident.restored_from.seen, abs=1e-3)
    assert found.totals.lost_s == incident.lost_s


def test_the_same_training_is_never_lost_twice():
    """A second failure without a checkpoint in between costs only what was trained since the first."""
    tale = Tale().start().save(100, after=10)
    tale.wait(20).crash(0, signal=9)
    tale.launched()
    tale.wait(5).crash(1, signal=9)
    tale.launched()
    first, second = told(tale).incidents
    assert first.lost_s is not None
    assert first.lost_s > 20
    assert second.lost_s == pytest.approx(5.2, abs=1e-3)


def test_a_killed_rank_was_noticed_by_its_report():
    """How long a rank had been dead is not known: there is no time to detect, and the report counts as the sign."""
    tale = Tale().start().save(100, after=10)
    tale.exit(3, signal=9, after=2)
    tale.exit(1, tail="RuntimeError: Connection reset by peer", after=0.1)
    tale.stopped().launched()
    (incident,) = told(tale).incidents
    (verdict,) = incident.judgements
    assert (verdict.cause, verdict.where, verdict.confidence) == (Cause.RANK_KILLED, "3@n2", 0.75)
    assert dict(incident.stages)["detect"] is None
    assert incident.sign == incident.noticed
    assert incident.by == "rank 3 on n2 was ended by signal 9"
    assert verdict.would_change[0].startswith('without "rank 3 on n2 was ended by signal 9" it would have been unknown')
    assert [each.why for each in verdict.chain] == ["speaks for rank_killed with 0.75", "follows from rank_killed"]
    assert incident.excluded == ()


def test_a_program_that_fails_twice_alike_shows_its_traceback():
    """The last incident has the plan to give up, the traceback's end, and no release."""
    found = told(Tale().start().crash(0).launched().crash(0))
    last = found.incidents[-1]
    assert (last.choices[-1].kind, last.outcome, last.released) == ("abort", "the run is given up", None)
    assert last.judgements[-1].tail.splitlines()[-1] == "ValueError: bad batch 17"
    assert (found.phase, found.code) == (Phase.FAILED, 1)


def test_a_node_that_is_heard_again_is_no_incident():
    """A suspicion that passes is one line, and stops nothing."""
    tale = Tale().start()
    tale.silent("n2")
    tale.happen(NodeHeard(node="n2"), after=0.4)
    found = told(tale)
    assert found.incidents == ()
    (text,) = texts(found, Kind.SUSPICION)
    assert text.startswith("n2 was silent for 3.1 s")
    assert text.endswith("n2 is heard again 0.4 s later, and nothing was stopped for it")


def test_an_agent_that_died_on_a_healthy_node_is_no_incident():
    """The witnesses' word for the node is told, and that its agent came back."""
    tale = Tale().start()
    tale.happen(AgentLost(node="n2", reason="EOF"), after=5)
    tale.probed("n2", WELL, after=0.2)
    tale.agent("n2", after=1.0)
    found = told(tale)
    assert found.incidents == ()
    assert "the node is well, its agent is started again" in texts(found, Kind.NOTE)[0]
    assert "has its agent again 1.2 s later" in texts(found, Kind.SUSPICION)[0]


def test_doubts_are_counted_not_repeated():
    """A node that stays undecided for rounds is one line with a count."""
    tale = Tale().start()
    tale.silent("n2")
    for _ in range(4):
        tale.probed("n2", UNDECIDED, final=True)
        tale.timer("reprobe:n2", after=601.0)
    (note,) = [moment for moment in told(tale).moments if moment.kind is Kind.NOTE]
    assert (note.slug, note.count) == ("node_undecided", 4)
    assert note.until is not None


def test_storage_that_is_full_is_counted_by_node():
    """Retries of one node are one line, those of another node another."""
    tale = Tale().start().save(10, after=3, durable=False)
    for _ in range(5):
        for node in ("n1", "n2"):
            tale.happen(PartDrained(generation="000000010-0000", node=node, error="No space left on device"), after=1)
    notes = [moment for moment in told(tale).moments if moment.slug == "drain_failed"]
    assert [note.count for note in notes] == [5, 5]
    assert ["n1" in note.text for note in notes] == [True, False]


def test_a_second_node_in_the_same_incident():
    """Two nodes that fall one after the other are one incident with two verdicts, and both are named."""
    tale = Tale(policy_for(min_nodes=1)).start()
    tale.silent("n3")
    tale.probed("n3", DEAD)
    tale.silent("n4")
    tale.probed("n4", DEAD, final=True)
    for node in ("n1", "n2"):
        tale.happen(NodeFenced(node=node, attempt=0), after=0.1)
    tale.launched()
    (incident,) = told(tale).incidents
    assert [(each.cause, each.where) for each in incident.judgements] == [
        (Cause.NODE_UNREACHABLE, "n3"), (Cause.NODE_UNREACHABLE, "n4"),
    ]  # fmt: skip
    assert incident.judgements[1].by.startswith("n4 was silent")
    assert incident.excluded == ("n3", "n4")
    assert incident.released is not None


def test_a_spare_that_is_lost_stops_nothing():
    """It is an incident of its own, over at once, and the next one does not begin with it."""
    tale = Tale(policy_for(spares=1), nodes=(*NODES, "n5")).start().save(100, after=10)
    tale.silent("n5")
    tale.probed("n5", DEAD)
    tale.save(200, after=600).wait(5).lose("n2").launched()
    found = told(tale)
    assert [each.excluded for each in found.incidents] == [("n5",), ("n2",)]
    spare, other = found.incidents
    assert (spare.outcome, spare.choices) == ("training went on: nothing had to be stopped", ())
    assert other.sign - spare.sign > 600
    assert found.totals.spent[Category.DETECTING] < 5


def test_a_node_that_slurm_took_away():
    """Slurm's word alone is a verdict, told with the one who gave it."""
    tale = Tale().start()
    tale.happen(SlurmReported(job_state="RUNNING", gone=("n4", "n3")), after=5)
    tale.stopped().launched()
    (incident,) = told(tale).incidents
    assert {each.where for each in incident.judgements} == {"n3", "n4"}
    assert {each.cause for each in incident.judgements} == {Cause.EXCISED}
    assert incident.by == "Slurm does not count n4 among the job's nodes any more"


def test_a_launch_that_fails_is_tried_again():
    """Failed launches before the first training are one incident, and belong to the start, not to recovery."""
    tale = Tale()
    tale.granted()
    for node in NODES:
        tale.agent(node, after=0.1)
    tale.scan(after=0.1)
    for pause in (1.0, 2.0):
        number = tale.run.next_attempt - 1
        tale.happen(LaunchEnded(attempt=number, code=1, output="srun: error: no"), after=0.5)
        tale.stopped()
        tale.timer("relaunch", after=pause)
    tale.launched()
    found = told(tale)
    (incident,) = found.incidents
    assert [each.cause for each in incident.judgements] == [Cause.LAUNCH_FAILED]
    assert incident.launches == 2
    assert [(note.text, note.count) for note in incident.notes] == [("trying again in 1 s", 2)]
    assert found.totals.spent[Category.RECOVERING] == 0.0
    assert found.totals.attempts == 3


def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_taken():
    """The refusal stands in the incident, is counted, and the older checkpoint is the one restored."""
    tale = Tale().start().save(100, after=10).save(200, after=10)
    tale.crash(0, signal=9)
    tale.damaged("step_200.pt, chunk 7")
    tale.launched()
    found = told(tale)
    (incident,) = found.incidents
    assert incident.restored_from is not None
    assert incident.restored_from.step == 100
    assert "is damaged and set aside: step_200.pt, chunk 7" in incident.notes[0].text
    assert found.totals.refused == 1
    assert found.newest is not None
    assert found.newest.step == 100


def test_a_checkpoint_that_went_down_with_its_node():
    """What lay on the nodes only is lost with one of them, and the story says so."""
    tale = Tale().start().save(100, after=10, durable=False)
    tale.lose("n3").launched()
    (incident,) = told(tale).incidents
    assert "checkpoint_lost" in [note.slug for note in incident.notes]
    assert incident.restored_from is None


def test_a_requeue_is_followed_into_the_next_job():
    """Leaving, waiting and the launch in the new job belong to the incident that led there."""
    tale = Tale(policy_for(min_nodes=4)).start().save(100, after=10)
    tale.lose("n3").requeued()
    tale.start(after=12, nodes=("n1", "n2", "n4", "n5"))
    tale.finish()
    found = told(tale)
    (incident,) = found.incidents
    stages = dict(incident.stages)
    assert (stages["leave"], stages["queue"]) == (pytest.approx(2.0), pytest.approx(12.0))
    assert stages["launch"] is not None
    assert incident.released is not None
    assert (found.totals.requeues, found.excluded, found.jobs) == (1, ("n3",), ("101",))
    assert found.totals.spent[Category.QUEUED] == pytest.approx(12.0)
    assert "job 101 starts again 12.0 s later on n[1-2,4-5]" in texts(found, Kind.JOB)


def test_a_time_limit_is_no_incident():
    """Being asked to save and going back to the queue is told with its reason."""
    tale = Tale().start()
    tale.stop("time_limit", save=True)
    tale.save(50, after=2)
    tale.stopped().drained("000000050-0000").requeued()
    found = told(tale)
    assert found.incidents == ()
    assert found.phase is Phase.REQUEUED
    assert any("the time limit is near: the program is asked to save" in text for text in texts(found, Kind.NOTE))
    assert any(text.endswith(": the time limit is near") for text in texts(found, Kind.LEAVING))


def test_ranks_that_a_cancellation_ended_are_no_incident():
    """The signal of scancel reaches the ranks before the supervisor hears why: that is no failure, and none is counted."""
    tale = Tale().start().wait(5)
    tale.exit(2, signal=15)
    tale.happen(SlurmReported(job_state="CANCELLED"), after=0.1)
    tale.stopped()
    found = told(tale)
    assert found.phase is Phase.CANCELLED
    assert found.incidents == ()
    assert texts(found, Kind.NOTE) == ["rank 2 on n2 was ended by signal 15: the run was being ended"]


def test_checkpoints_are_named_by_their_own_steps():
    """A program that begins anew saves lower steps again, and the story says so."""
    tale = Tale().start().save(300, after=10)
    tale.crash(0, signal=9)
    tale.launched().save(100, after=10).save(200, after=10)
    assert (
        texts(told(tale), Kind.CHECKPOINTS)[-1]
        == "2 checkpoints saved (steps 100 to 200); step 300 is on shared storage"
    )


def test_a_resumed_run_is_one_story():
    """The time between the end and the resumption is idle, and both jobs are named."""
    tale = Tale().start().crash(0).launched().crash(0)
    before = told(tale).totals.total_s
    tale.start(resumed=True, job_id="202", after=5000)
    tale.finish()
    found = told(tale)
    assert found.jobs == ("101", "202")
    assert found.totals.spent[Category.IDLE] == pytest.approx(5000.0)
    assert found.totals.total_s < before + 5100
    assert sum(found.totals.spent.values()) == pytest.approx(found.totals.total_s)
    assert any(
        "job 202 starts" in text and "later on n[1-4], and continues the run" in text for text in texts(found, Kind.JOB)
    )
    assert (found.phase, found.code) == (Phase.FINISHED, 0)


def test_a_supervisor_that_was_started_again_stops_nothing():
    """A new epoch in the same job is a note, and training goes on."""
    tale = Tale().start().wait(10)
    tale.granted(after=3)
    for node in NODES:
        tale.agent(node, after=0.1)
    tale.finish()
    found = told(tale)
    assert found.incidents == ()
    assert texts(found, Kind.NOTE) == ["the supervisor was started again (epoch 2)"]
    assert texts(found, Kind.JOB) == ["job 101 starts on n[1-4]"]


def test_a_live_run_goes_on_until_now():
    """With `now` the open category counts up to it; a run that has ended does not grow."""
    tale = Tale().start()
    assert story(tale.entries, now=START + 500).totals.total_s == pytest.approx(500)
    assert story(tale.entries).totals.total_s == pytest.approx(tale.now - START)
    ended = Tale().start().finish()
    assert story(ended.entries, now=START + 500).totals.total_s == pytest.approx(ended.now - START)


def test_a_phase_of_the_future_is_refused():
    """A journal that names an unknown phase is not told wrongly, it is refused."""
    tale = Tale().start()
    entry = tale.entries[-1]
    strange = type(entry)(entry.number, entry.epoch, entry.t, "levitating", entry.event, entry.actions)
    with pytest.raises(DataDamaged, match="levitating"):
        story([*tale.entries[:-1], strange])

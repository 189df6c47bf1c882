from __future__ import annotations

from dataclasses import replace

import pytest

from ftslurm.core.actions import Say, SetTimer
from ftslurm.core.events import ENDED, AgentUp, AllocationGranted, Event, Phase, StorageStalled, TimerFired
from ftslurm.core.phases import LAUNCHING, LEGAL, LIVE, enter
from ftslurm.core.records import _KINDS
from ftslurm.core.recovery import Policy
from ftslurm.core.run import ACTIVE, TABLE, TIMERS, advance, nothing
from ftslurm.core.state import Run
from ftslurm.errors import IllegalTransition, InternalError
from tests.core.story import play
from tests.core.test_scenarios import SCENARIOS

EVENTS = tuple(kind for kind in _KINDS.values() if issubclass(kind, Event) and kind is not Event)


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_every_event_has_a_rule_in_every_phase(kind):
    """The table is total: nothing that the world does is forgotten."""
    assert set(TABLE[kind]) == set(Phase)
    assert all(callable(rule) for rule in TABLE[kind].values())


def test_table_knows_no_other_events():
    """An event that is gone leaves no rule behind."""
    assert set(TABLE) == set(EVENTS)


def test_every_phase_has_its_ways():
    """The table of phases is total, and its ways lead to phases that exist."""
    assert set(LEGAL) == set(Phase)
    assert {after for ways in LEGAL.values() for after in ways} <= set(Phase)
    assert set(Phase) == ACTIVE | ENDED | {Phase.SUBMITTED, Phase.REQUEUED}
    assert LAUNCHING | LIVE <= ACTIVE


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("phase", sorted(ENDED))
def test_ended_run_listens_only_to_a_supervisor(kind, phase):
    """After the end only a new supervisor, started by the user's resume, changes anything."""
    assert kind is AllocationGranted or TABLE[kind][phase] is nothing
    granted = AllocationGranted(job_id="1", restart=0, nodes=("n1",), batch_host="n1", epoch=1, no_kill=True)
    for same in (False, True):
        run = Run(phase=phase, job_id="1")
        assert advance(run, replace(granted, same_incarnation=same), Policy()) == (run, ())
        resumed, _ = advance(run, replace(granted, same_incarnation=same, resumed=True), Policy())
        assert resumed.phase is Phase.STARTING


def test_a_move_that_is_not_in_the_table_raises_and_changes_nothing():
    """An illegal move is loud; to stay is always allowed."""
    run = Run(phase=Phase.FINISHED)
    with pytest.raises(IllegalTransition, match="a run that is finished cannot become training"):
        enter(run, Phase.TRAINING)
    assert run == Run(phase=Phase.FINISHED)
    assert enter(run, Phase.FINISHED) is run


def test_to_ask_for_an_attempt_that_is_not_there_is_our_bug():
    """`Run.current` never invents an attempt."""
    with pytest.raises(InternalError, match="a run that is submitted has no attempt"):
        Run().current  # noqa: B018


@pytest.mark.parametrize("phase", sorted(Phase))
def test_storage_that_hangs_decides_nothing(phase):
    """Shared storage may hang for minutes: no decision follows from it, in no phase."""
    run = Run(phase=phase)
    after, actions = advance(run, StorageStalled(for_s=120.0), Policy())
    assert after == run
    assert all(isinstance(action, Say) for action in actions)


@pytest.mark.parametrize("phase", sorted(ACTIVE))
def test_timer_that_nobody_set_means_nothing(phase):
    """A name or a token from elsewhere is ignored."""
    run = Run(phase=phase, timers={"fence": 7})
    for event in (TimerFired(name="fence", token=6), TimerFired(name="no such timer", token=7)):
        assert advance(run, event, Policy()) == (run, ())


@pytest.mark.parametrize("phase", sorted(ACTIVE))
def test_strange_nodes_are_no_part_of_the_run(phase):
    """An agent on a node that Slurm has not given us counts for nothing."""
    run = Run(phase=phase, nodes=("n1",))
    assert advance(run, AgentUp(node="x9", address="x9", port=1), Policy()) == (run, ())


def test_every_timer_of_every_scenario_has_a_rule():
    """What the core sets, the core understands when it runs out; each rule is met by a scenario."""
    met = set()
    for path in SCENARIOS:
        story, _ = play(path.read_text())
        met |= {action.name for entry in story.entries for action in entry.actions if isinstance(action, SetTimer)}
    assert {name.partition(":")[0] for name in met} == set(TIMERS)

"""Every event in every phase has an outcome: generated over all pairs, from the states that the stories pass through.

The table of the core says which rule stands for which pair; here each rule is run, with events that fit the state and
events that do not.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from typing import Any

import pytest

from ftslurm.core.actions import Action
from ftslurm.core.events import ENDED, Event, Phase, TimerFired
from ftslurm.core.recovery import Policy
from ftslurm.core.run import TABLE, advance
from ftslurm.core.state import Run
from ftslurm.journal import Entry, parse_line
from tests.core.story import play
from tests.core.test_scenarios import SCENARIOS

PER_PHASE = 12


@cache
def states() -> Mapping[Phase, list[tuple[Run, Policy]]]:
    """Different states that the stories pass through, by phase."""
    found: dict[Phase, list[tuple[Run, Policy]]] = {phase: [] for phase in Phase}
    for path in SCENARIOS:
        story, _ = play(path.read_text())
        run = Run()
        found[run.phase] = [(run, story.policy)]
        for entry in story.entries:
            run, _ = advance(run, entry.event, story.policy)
            kept = found[run.phase]
            if len(kept) < PER_PHASE and all(_shape(run) != _shape(other) for other, _ in kept):
                kept.append((run, story.policy))
    return found


def _shape(run: Run) -> tuple[Any, ...]:
    """What makes two states different enough to look at both."""
    attempt = run.attempt
    known = (attempt.mustered, attempt.released, attempt.fencing) if attempt else None
    return known, bool(run.suspects), bool(run.condemned), len(run.agents), tuple(sorted(run.timers)), len(run.saved)


def events_for(kind: type[Event], run: Run) -> Iterator[Event]:
    """Events of one kind: about what the state knows, about what is over, and about strangers."""
    attempt = run.attempt.number if run.attempt else 0
    node = run.nodes[-1] if run.nodes else "n1"
    suspect = next(iter(run.suspects), node)
    generation = run.saved[-1].generation if run.saved else "000000020-0000"
    if kind is TimerFired:
        yield from (TimerFired(name=name, token=token, mono=2000.0) for name, token in run.timers.items())
    for names in (
        {"attempt": attempt, "node": node, "generation": generation, "base": "", "parent": ""},
        {"attempt": attempt, "node": suspect, "generation": generation, "base": "", "parent": ""},
        {"attempt": max(attempt - 1, 0), "node": "x9", "generation": "000000999-0000", "base": "", "parent": ""},
    ):
        for bare in (True, False):
            scanned = {"generations": ((names["generation"], 20, 4),), "refused": ((names["generation"], "why"),)}
            yield _filled(kind, {**names, **scanned, "mono": 2000.0, "epoch": run.epoch + 1}, bare=bare)


def _filled(kind: type[Any], known: Mapping[str, Any], *, bare: bool) -> Any:
    """An instance: fields that are known by name, the others by type; `bare`: those with a default keep it."""
    hints = typing.get_type_hints(kind)
    values = {}
    for spec in dataclasses.fields(kind):
        optional = spec.default is not dataclasses.MISSING or spec.default_factory is not dataclasses.MISSING
        if spec.name in known:
            values[spec.name] = known[spec.name]
        elif not (bare and optional):
            values[spec.name] = _value(hints[spec.name], known, bare=bare)
    return kind(**values)


def _value(hint: Any, known: Mapping[str, Any], *, bare: bool) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and inner[-1] is Ellipsis:
        return () if bare else (_value(inner[0], known, bare=bare),)
    if origin is tuple:
        return tuple(_value(each, known, bare=bare) for each in inner)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return {}
    if inner:
        return _value(inner[0], known, bare=bare)
    if dataclasses.is_dataclass(hint):
        return _filled(typing.cast("type[Any]", hint), known, bare=bare)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return next(iter(hint))
    return {str: known["node"], int: 1, float: 1.0, bool: not bare}[hint]


@pytest.mark.parametrize("kind", sorted(TABLE, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("phase", sorted(Phase))
def test_every_event_in_every_phase_has_an_outcome(kind: type[Event], phase: Phase) -> None:
    """It advances the run by legal moves, with actions that the journal can hold; it never raises."""
    assert states()[phase], f"no story passes through {phase}"
    for run, policy in states()[phase]:
        for event in events_for(kind, run):
            after, actions = advance(run, event, policy)
            assert isinstance(after, Run)
            assert all(isinstance(action, Action) for action in actions)
            entry = Entry(0, after.epoch, event.at, after.phase, event, actions)
            assert parse_line(entry.line()) == entry
            assert advance(run, event, policy) == (after, actions), "the same event leads to the same decision"
            if phase in ENDED and kind.__name__ != "AllocationGranted":
                assert (after, actions) == (run, ()), "an ended run listens to nobody but a new supervisor"

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftslurm.checkpoint import refs, versions
from ftslurm.checkpoint.commit import prepare_store
from ftslurm.checkpoint.drain import Target, drain_part
from ftslurm.checkpoint.store import scan
from ftslurm.config import parse
from ftslurm.core.actions import CommitDurable
from ftslurm.core.events import Event, GenerationDurable, StoreScanned
from ftslurm.core.recovery import Policy
from ftslurm.core.retention import Rules
from ftslurm.core.saving import on_scanned
from ftslurm.core.state import Run, Saved, SavedState
from ftslurm.paths import RunPaths
from ftslurm.runtime.settings import checkpoint_of
from ftslurm.runtime.stores import Stores
from tests.checkpoint.world import AT, RUN, World

CONFIG = "name: toy\ncommand: [python]\nresources: {nodes: 2}\ncheckpoint: {files: '*.pt'}\n"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Scratch folders and a store."""
    world = World(tmp_path)
    prepare_store(world.store, RUN, AT)
    return world


@pytest.fixture
def told() -> list[Event]:
    """What the supervisor hears of."""
    return []


def stores(world: World, told: list[Event], keep: Rules) -> Stores:
    """The supervisor's side of the world's store."""
    spec = checkpoint_of(parse(CONFIG, "x"), RunPaths(world.root / RUN))
    return Stores(RUN, replace(spec, shared=str(world.store), keep=keep), 1, told.append, lambda: True)


def drained(world: World, step: int, attempt: int = 0) -> CommitDurable:
    """A part on shared storage, and the order to commit it."""
    part = world.capture("n1", step, {f"step_{step}.pt": b"x"}, attempt)
    assert drain_part(part.folder, "n1", Target(destination=str(world.store))).ok
    commit = world.commit(step, {"n1": part}, attempt)
    return CommitDurable(generation=commit.generation, step=step, world_size=2, parts=commit.parts)


def test_a_commit_moves_the_references_and_lets_old_ones_go(world: World, told: list[Event]) -> None:
    """`latest` names the newest; what no rule keeps is dropped, what is tagged stays."""
    side = stores(world, told, Rules(last=1))
    side.commit(drained(world, 1))
    versions.tag(world.store, "good", "1", AT)
    for step in (2, 3):
        side.commit(drained(world, step))
    assert [each.dropped for each in told if isinstance(each, GenerationDurable)] == [(), (), ("000000002-0000",)]
    assert [each.commit.step for each in scan(world.store).generations] == [1, 3]
    assert refs.read(world.store, "latest").generation == "000000003-0000"


def test_a_damaged_tag_costs_no_commit(world: World, told: list[Event]) -> None:
    """The generation is durable nevertheless; only nothing is deleted."""
    side = stores(world, told, Rules(last=1))
    side.commit(drained(world, 1))
    (world.paths.references / "good").write_bytes(b"{}")
    side.commit(drained(world, 2))
    assert isinstance(told[-1], GenerationDurable)
    assert (told[-1].error, told[-1].dropped) == ("", ())
    assert [each.commit.step for each in scan(world.store).generations] == [1, 2]


def test_after_a_rollback_nothing_of_the_branch_is_started_from(world: World, told: list[Event]) -> None:
    """Neither what is durable nor what only the nodes hold: the run forgets both."""
    side = stores(world, told, Rules(last=5))
    for step in (1, 2):
        side.commit(drained(world, step))
    versions.roll_back(world.store, versions.find(world.store, "1"), attempt=0, now=AT)
    names = ("000000001-0000", "000000002-0000", "000000003-0000")
    side.scan(names)
    event = told[-1]
    assert isinstance(event, StoreScanned)
    assert [name for name, _, _ in event.generations] == [names[0]]
    assert event.abandoned == names[1:]
    states = (SavedState.DURABLE, SavedState.DURABLE, SavedState.LOCAL)
    known = tuple(
        Saved(generation=name, step=step, attempt=0, world_size=2, state=state)
        for step, (name, state) in enumerate(zip(names, states, strict=True), start=1)
    )
    run, _ = on_scanned(Run(saved=known), event, Policy())
    assert [each.generation for each in run.saved] == [names[0]]

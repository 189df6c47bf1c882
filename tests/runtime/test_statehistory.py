from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftslurm.core.about import About
from ftslurm.core.events import SaveRequested
from ftslurm.core.manifest import Commit
from ftslurm.paths import RunPaths
from ftslurm.runtime.history import History
from ftslurm.runtime.requests import RequestWatch, request_save
from ftslurm.runtime.spec import SyncSpec
from ftslurm.runtime.statesync import StateSync
from tests.checkpoint.world import RUN, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Scratch folders and a store."""
    return World(tmp_path)


def run_of(tmp_path: Path) -> RunPaths:
    """A run's folder with a configuration."""
    paths = RunPaths(tmp_path / "runs" / RUN)
    paths.root.mkdir(parents=True)
    paths.config.write_text("name: toy\n")
    paths.resolved.write_text("{}")
    return paths


def a_commit() -> Commit:
    """What the nodes hold of step 5."""
    about = About(epoch=1.5, samples=640, metrics={"loss": 0.25}, odd={"grad": "nan"}, reason="time")
    return Commit(run_id=RUN, generation="000000005-0001", world_size=2, epoch=3, parts=(), about=about)


def test_every_standing_of_a_checkpoint_is_one_line(tmp_path: Path) -> None:
    """Position, metrics, reason and size; what was no number is told in words."""
    history = History(tmp_path / "history", 3)
    history.whole(a_commit(), "local")
    history.whole(a_commit(), "durable")
    history.changed("000000005-0001", "suspect", "it kills the run")
    lines = [json.loads(line) for line in (tmp_path / "history" / "3.jsonl").read_text().splitlines()]
    assert [(each["state"], each["step"], each["attempt"]) for each in lines] == [
        ("local", 5, 1), ("durable", 5, 1), ("suspect", 5, 1),
    ]  # fmt: skip
    assert lines[0]["metrics"] == {"loss": 0.25, "grad": "nan"}
    assert (lines[0]["epoch"], lines[0]["samples"], lines[0]["reason"]) == (1.5, 640, "time")
    assert lines[2]["why"] == "it kills the run"


def test_second_place_gets_history_configuration_references_and_commits(tmp_path: Path, world: World) -> None:
    """Whole files, by their names; what was there before is replaced only where it differs; no tensors."""
    paths = run_of(tmp_path)
    name = world.save(5, {"n1": {"step_5.pt": b"x" * 5000}})
    History(paths.history, 1).whole(a_commit(), "durable")
    said: list[str] = []
    sync = StateSync(SyncSpec(to=str(tmp_path / "second")), paths, world.store, said.append)
    sync.once()
    there = tmp_path / "second" / RUN
    assert (there / "history" / "1.jsonl").read_bytes() == (paths.history / "1.jsonl").read_bytes()
    assert (there / "config.yaml").read_text() == "name: toy\n"
    copied = there / "checkpoints" / "gen" / name / "COMMIT.json"
    assert copied.read_bytes() == (world.paths.generation(name).commit).read_bytes()
    assert not list((tmp_path / "second").rglob("*.pt"))
    before = copied.stat().st_mtime_ns
    History(paths.history, 1).changed(name, "damaged", "bits")
    sync.once()
    assert copied.stat().st_mtime_ns == before
    assert (there / "history" / "1.jsonl").read_bytes() == (paths.history / "1.jsonl").read_bytes()
    assert said == []


def test_second_place_that_fails_is_told_of_once(tmp_path: Path, world: World) -> None:
    """It fails again and again; that is said once, and so is that it works again."""
    paths = run_of(tmp_path)
    place = tmp_path / "second"
    place.write_text("no folder")
    said: list[str] = []
    sync = StateSync(SyncSpec(to=str(place)), paths, world.store, said.append)
    sync.once()
    sync.once()
    assert len(said) == 1
    place.unlink()
    sync.once()
    assert len(said) == 2
    assert "again" in said[1]


def test_a_request_is_taken_once(tmp_path: Path) -> None:
    """Several at once are one; other files stay; no folder is no request."""
    said: list[object] = []
    watch = RequestWatch(RunPaths(tmp_path), said.append)
    watch.look()
    first, second = request_save(tmp_path / "requests"), request_save(tmp_path / "requests")
    (tmp_path / "requests" / "other").touch()
    watch.look()
    watch.look()
    assert said == [SaveRequested()]
    assert not first.exists()
    assert not second.exists()
    assert (tmp_path / "requests" / "other").exists()

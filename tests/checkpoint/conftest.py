from pathlib import Path

import pytest

from ftslurm.checkpoint.patterns import Patterns
from ftslurm.checkpoint.watch import Rules, Watcher
from tests.checkpoint.watched import SETTLE_S, Watched
from tests.checkpoint.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Scratch folders and a store."""
    return World(tmp_path)


@pytest.fixture
def watch(tmp_path: Path):
    """Makes watchers of one folder, and closes them."""
    made: list[Watcher] = []
    folder = tmp_path / "write"
    folder.mkdir()

    def make(files: str | list[str] = "step_*.pt", **rules: object) -> Watched:
        settings = Rules(patterns=Patterns.parse(files), **({"settle_s": SETTLE_S} | rules))
        watcher = Watcher(folder, settings, tmp_path / "attempts" / "0.json")
        made.append(watcher)
        watched = Watched(watcher, folder)
        watched.scan()
        return watched

    yield make
    for watcher in made:
        watcher.close()

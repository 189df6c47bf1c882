from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ftslurm.checkpoint.commit import quarantine, write_local_record
from ftslurm.checkpoint.drain import Target, drain_part
from ftslurm.cli.checkpoint import checkpoint
from ftslurm.cli.storearg import short_age
from ftslurm.errors import UsageError
from ftslurm.quantities import short_size
from tests.checkpoint.world import AT, World


def call(*argv: str) -> Result:
    """Run the command as the root does, but let errors out."""
    return CliRunner().invoke(checkpoint, list(argv), standalone_mode=False)


@pytest.fixture
def store(world: World) -> World:
    """A store with a generation in each state: 1 durable, 2 damaged, 3 set aside, 4 unfinished, 5 local."""
    for step in (1, 2, 3):
        world.save(step, {"n1": {f"step_{step}/a.pt": b"x" * 2000}, "n2": {f"step_{step}/b.pt": b"y"}})
    (world.paths.generation("000000002-0000").data / "step_2/b.pt").unlink()
    quarantine(world.store, "000000003-0000", "chunk 0 of step_3/a.pt", AT)
    part = world.capture("n1", 4, {"step_4/a.pt": b"x"})
    assert drain_part(part.folder, "n1", Target(destination=str(world.store))).ok
    write_local_record(world.store, world.commit(5, {"n1": world.capture("n1", 5, {"step_5/a.pt": b"x" * 500})}))
    return world


def test_ls_shows_every_state(store: World) -> None:
    """One line a generation, oldest first, with the reason where there is one."""
    lines = call("ls", str(store.store)).output.splitlines()
    assert lines[0].split() == ["GENERATION", "STEP", "STATE", "SIZE", "FILES", "AGE", "NODES", "REASON"]
    assert [line.split()[2] for line in lines[1:]] == ["DURABLE", "DAMAGED", "QUARANTINED", "UNFINISHED", "LOCAL"]
    assert "n[1-2]" in lines[1]
    assert "step_2/b.pt is missing" in lines[2] or "b.pt is missing" in lines[2]
    assert "chunk 0 of step_3/a.pt" in lines[3]


def test_ls_as_json(store: World) -> None:
    """Stable keys, whole numbers, and nothing else on stdout."""
    told = json.loads(call("ls", str(store.store), "--json").output)
    assert told["meta"] == {"schema": 1}
    first = told["checkpoints"][0]
    assert (first["generation"], first["state"], first["size_bytes"], first["nodes"]) == (
        "000000001-0000", "DURABLE", 2001, ["n1", "n2"],
    )  # fmt: skip
    assert [each["step"] for each in told["checkpoints"]] == [1, 2, 3, 4, 5]


def test_verify_says_what_is_damaged_and_ends_with_65(store: World) -> None:
    """File, chunk and both digests are named; the exit code is that of damaged data."""
    path = store.paths.generation("000000001-0000").data / "step_1/a.pt"
    path.write_bytes(b"x" * 1999 + b"z")
    result = call("verify", str(store.store))
    assert result.return_value == 65
    assert "000000001-0000  DAMAGED" in result.output
    assert "step_1/a.pt: chunk 0: wrong bytes" in result.output
    told = json.loads(call("verify", str(store.store), "--json", "--step", "1").output)
    assert told["ok"] is False
    assert told["checkpoints"][0]["problems"][0]["file"] == "step_1/a.pt"


def test_verify_of_sound_checkpoints_is_0(world: World) -> None:
    """All bytes right: OK and exit code 0."""
    world.save(1, {"n1": {"step_1.pt": b"x"}})
    result = call("verify", str(world.store))
    assert (result.return_value, result.output) == (0, "000000001-0000  OK  1B\n")


def test_a_commit_of_other_damage_is_named(world: World) -> None:
    """A changed manifest is damage of the whole generation."""
    world.save(1, {"n1": {"step_1.pt": b"x"}})
    (world.paths.generation("000000001-0000").manifests / "n1.json").write_bytes(b"{}")
    result = call("verify", str(world.store))
    assert result.return_value == 65
    assert "the manifest of n1 was changed" in result.output


def test_a_run_is_found_by_its_folder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's folder leads to its store, also where the configuration puts the store elsewhere."""
    world.save(1, {"n1": {"step_1.pt": b"x"}})
    run = world.root / "runs" / "toy-20260101-abcdef"
    run.mkdir(parents=True)
    (run / "key").touch()
    (run / "checkpoints").symlink_to(world.store)
    assert "DURABLE" in call("ls", str(run)).output
    (run / "checkpoints").unlink()
    resolved = {"name": "toy", "checkpoint": {"shared": f"{world.root}/shared/{{name}}points"}}
    (run / "config.resolved.json").write_text(json.dumps(resolved))
    (world.root / "shared" / "toypoints").symlink_to(world.store)
    assert "DURABLE" in call("ls", str(run)).output


def test_what_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """An unknown run, an empty store and a step without checkpoint are told apart."""
    monkeypatch.setenv("FTSLURM_HOME", str(tmp_path / "home"))
    assert isinstance(call("ls", "4711").exception, UsageError)
    world.save(1, {"n1": {"step_1.pt": b"x"}})
    assert isinstance(call("verify", str(world.store), "--step", "9").exception, UsageError)
    world.paths.generation("000000001-0000").root.rename(world.root / "gone")
    assert "no checkpoints" in call("ls", str(world.store)).output
    assert call("verify", str(world.store)).return_value == 0


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (999, "999B"), (1000, "1.0K"), (1536, "1.5K"), (150 << 20, "150M"), (5 << 40, "5.0T")]
)
def test_sizes_for_people(size: int, text: str) -> None:
    """Three digits are enough."""
    assert short_size(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(-5, "0s"), (90, "90s"), (300, "5m"), (7300, "2h"), (200_000, "2d")])
def test_ages_for_people(seconds: float, text: str) -> None:
    """The largest unit that still tells something."""
    assert short_age(seconds) == text

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from ftslurm import cli
from ftslurm.checkpoint.store import scan
from ftslurm.paths import RunPaths
from ftslurm.slurm.client import SlurmClient
from tests.checkpoint.library import Library
from tests.checkpoint.test_export import states
from tests.checkpoint.test_versions import save
from tests.checkpoint.world import World
from tests.insight.journals import Tale, config_policy, make_run


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Give a checkpoint store with steps 100, 200 and 300, of which 200 has the least loss."""
    world = World(tmp_path / "world")
    for step, loss in ((100, 3.0), (200, 1.0), (300, 2.0)):
        save(world, step, loss=loss)
    return world


@pytest.fixture
def failed(root: Path, world: World) -> RunPaths:
    """Give a run in job 77 that failed in its attempt 1."""
    tale = Tale(config_policy(), job_id="77").start()
    tale.save(100, after=10).save(200, after=10).save(300, after=10).crash(0)
    tale.launched().crash(0)
    return make_run(root, tale, checkpoint={"files": "step_*.pt", "shared": str(world.store), "keep_last": 2})


def generations(world: World) -> list[str]:
    """What a restart may take."""
    return [each.generation for each in scan(world.store).generations]


def call(capfd: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> tuple[str, str]:
    """Run the command; returns what it printed."""
    assert cli.exit_code(["checkpoint", *argv]) == code
    return capfd.readouterr()


# ----------------------------------------------------------------------------------------------------------------- log


def test_log_is_newest_first_with_all_that_is_known(slurm, failed, world, capfd):
    """Position, metrics, tags and reason, one line a checkpoint."""
    call(capfd, "tag", "77", "good", "--of", "200")
    lines = call(capfd, "log", "77")[0].splitlines()
    assert lines[0].split() == ["GENERATION", "STEP", "EPOCH", "KIND", "SIZE", "METRICS", "TAGS", "PARENT", "REASON"]
    assert [line.split()[0] for line in lines[1:]] == ["000000300-0000", "000000200-0000", "000000100-0000"]
    assert lines[2].split() == ["000000200-0000", "200", "-", "full", "3B", "loss=1", "good", "-", "because"]
    assert len(call(capfd, "log", "77", "-n", "1")[0].splitlines()) == 2


def test_log_as_json(slurm, failed, world, capfd):
    """Stable keys; the metrics as numbers."""
    told = json.loads(call(capfd, "log", "77", "--json")[0])["checkpoints"]
    assert [each["metrics"] for each in told] == [{"loss": 2.0}, {"loss": 1.0}, {"loss": 3.0}]
    assert (told[0]["live"], told[0]["tags"], told[0]["kind"]) == (True, ["latest"], "full")


# ---------------------------------------------------------------------------------------------------------------- tags


def test_tags(slurm, failed, world, capfd):
    """Set, refused a second time, moved, taken away."""
    assert call(capfd, "tag", "77", "good", "--step", "200")[0] == "good -> 000000200-0000\n"
    assert "good names 000000200-0000 already" in call(capfd, "tag", "77", "good", code=2)[1]
    assert json.loads(call(capfd, "tag", "77", "good", "--move", "--json")[0])["generation"] == "000000300-0000"
    call(capfd, "untag", "77", "good")
    assert "there is no tag good" in call(capfd, "untag", "77", "good", code=2)[1]
    assert "latest is not a tag of yours" in call(capfd, "tag", "77", "latest", code=2)[1]


# ------------------------------------------------------------------------------------------------------------ rollback


def test_rollback_and_the_resume_after_it(slurm, failed, world, capfd):
    """Nothing is deleted; the resume starts from there; ls and log show the branch."""
    out = call(capfd, "rollback", "77", "200", "--dry-run")[0]
    assert out.splitlines()[1:] == ["  abandoned: 000000300-0000"]
    assert len(generations(world)) == 3
    told = json.loads(call(capfd, "rollback", "77", "200", "-m", "loss went up", "--json")[0])
    assert told["abandoned"] == ["000000300-0000"]
    assert generations(world) == ["000000100-0000", "000000200-0000"]
    assert "~000000300-0000" in call(capfd, "log", "77")[0]
    assert "ABANDONED" in call(capfd, "ls", "77")[0]
    assert "000000300-0000  OK" in call(capfd, "verify", "77")[0]
    assert cli.exit_code(["resume", "77"]) == 0
    assert "starts from the checkpoint of step 200" in capfd.readouterr().err


def test_attempts_of_the_journal_count(slurm, failed, world, capfd):
    """What an attempt without checkpoints in the store may still bring is of the abandoned branch."""
    call(capfd, "rollback", "77", "100")
    assert scan(world.store, ["000000250-0001", "000000250-0002"]).abandoned == (
        "000000200-0000", "000000250-0001", "000000300-0000",
    )  # fmt: skip


def test_a_run_that_is_alive_is_not_rolled_back(slurm, root, world, capfd):
    """75, with who holds it; nothing has changed. It may be tagged."""
    job = SlurmClient().submit("#!/bin/bash\ntrue\n", ["--nodes=4"])
    slurm.change("jobs", job, "state", value="RUNNING")
    tale = Tale(config_policy(), job_id=job).start()
    make_run(root, tale, checkpoint={"files": "step_*.pt", "shared": str(world.store)})
    for verb in (("rollback", job, "100", "--force"), ("prune", job, "--force")):
        assert f"is held by job {job}: it is RUNNING" in call(capfd, *verb, code=75)[1]
    assert len(generations(world)) == 3
    call(capfd, "tag", job, "good", "--of", "100")


def test_resume_from(slurm, failed, world, capfd):
    """A step or a tag: a dry run says so and changes nothing; the resume rolls back and starts from there."""
    call(capfd, "tag", "77", "good", "--of", "100")
    assert cli.exit_code(["resume", "77", "--from", "good", "--dry-run"]) == 0
    err = capfd.readouterr().err
    assert "starts from the checkpoint of step 100 (000000100-0000)" in err
    assert "left as an abandoned branch, not deleted: 000000200-0000, 000000300-0000" in err
    assert len(generations(world)) == 3
    assert cli.exit_code(["resume", "77", "--from", "200"]) == 0
    assert generations(world) == ["000000100-0000", "000000200-0000"]
    assert cli.exit_code(["resume", "77", "--from", "nothing"]) in (2, 75)


# --------------------------------------------------------------------------------------------------------------- prune


def test_prune_by_the_rules_of_the_run(slurm, failed, world, capfd):
    """keep_last of the configuration; a dry run says what and why, and deletes nothing."""
    out, err = call(capfd, "prune", "77", "--dry-run")
    assert out == "would delete 000000100-0000\n"
    assert "keeps 000000300-0000: the newest" in err
    assert len(generations(world)) == 3
    assert call(capfd, "prune", "77")[0] == "deleted 000000100-0000\n"
    assert generations(world) == ["000000200-0000", "000000300-0000"]


def test_prune_by_rules_of_the_call(slurm, failed, world, capfd):
    """The best by a metric, and nothing else but the newest."""
    options = ["--keep-best", "1", "--metric", "loss", "--mode", "max"]
    told = json.loads(call(capfd, "prune", "77", *options, "--json")[0])
    assert told["deleted"] == ["000000200-0000"]
    assert told["kept"] == {"000000100-0000": "one of the best 1 by loss", "000000300-0000": "the newest"}
    assert told["freed_bytes"] == 3


def test_prune_abandoned(slurm, failed, world, capfd):
    """What a rollback has left behind goes only when that is asked for."""
    call(capfd, "rollback", "77", "100")
    assert call(capfd, "prune", "77")[0] == ""
    assert call(capfd, "prune", "77", "--abandoned")[0].split() == [
        "deleted", "000000200-0000", "deleted", "000000300-0000",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--keep-best", "2"], "--keep-best and --metric need each other"),
        (["--max-age", "7"], "expected a duration"),
        (["--keep-last", "0"], "is not in the range"),
    ],
)
def test_prune_with_half_a_rule(slurm, failed, world, capfd, options, words):
    """2, and nothing is deleted."""
    assert words in call(capfd, "prune", "77", *options, code=2)[1]
    assert len(generations(world)) == 3


def test_a_store_without_a_run_needs_rules(slurm, world, capfd):
    """Its folder names it; nobody knows whether a program writes to it, and that is said."""
    assert "belongs to no run with rules" in call(capfd, "prune", str(world.store), code=2)[1]
    out, err = call(capfd, "prune", str(world.store), "--keep-last", "1")
    assert out.count("deleted") == 2
    assert "make sure that no program writes to it" in err


# ---------------------------------------------------------------------------------------------------- diff and export


def test_diff(slurm, failed, world, capfd):
    """Metrics, and what was added, removed or changed."""
    lines = call(capfd, "diff", "77", "100", "latest")[0].splitlines()
    assert lines[0] == "000000100-0000 -> 000000300-0000: 2 differ, 0 are the same; 3B -> 3B"
    assert lines[1:] == ["  loss: 3 -> 2", "  - step_100.pt  3 bytes", "  + step_300.pt  3 bytes"]
    told = json.loads(call(capfd, "diff", "77", "100", "100", "--json")[0])
    assert (told["same"], told["changes"]) == (1, [])


def test_export(slurm, failed, world, tmp_path, capfd):
    """The library layout becomes a file; the files layout is files already; an existing file stays."""
    target = tmp_path / "model.safetensors"
    assert "is of the files layout" in call(capfd, "export", "77", "--safetensors", str(target), code=2)[1]
    library = Library(tmp_path / "library")
    library.save(1, states(2))
    out = call(capfd, "export", str(library.root), "--safetensors", str(target))[0]
    assert out.startswith(f"{target}: 5 tensors of 000000001-0000, ")
    assert "weight" in load_file(target)
    assert "exists" in call(capfd, "export", str(library.root), "--safetensors", str(target), code=2)[1]
    told = json.loads(
        call(capfd, "export", str(library.root), "1", "--safetensors", str(target), "--force", "--json")[0]
    )
    assert told["tensors"] == 5


# ----------------------------------------------------------------------------------------------------------- init-from

CONFIG = "name: child\ncommand: [python, train.py]\nresources: {{nodes: 2}}\ncheckpoint: {checkpoint}\n"


def config(tmp_path: Path, checkpoint: str) -> str:
    """A configuration file."""
    path = tmp_path / "child.yaml"
    path.write_text(CONFIG.format(checkpoint=checkpoint))
    return str(path)


@pytest.mark.parametrize("origin", ["77@good", "77", "folder", "folder@good"])
def test_a_run_begins_from_another(slurm, failed, world, tmp_path, capfd, origin):
    """By run and tag or by a store's folder; the new run's store begins with it, and the parent is recorded."""
    call(capfd, "tag", "77", "good")
    origin = origin.replace("folder", str(world.store))
    file = config(tmp_path, "{files: 'step_*.pt'}")
    assert cli.exit_code(["submit", file, "--init-from", origin, "--json"]) == 0
    out, err = capfd.readouterr()
    store = Path(json.loads(out)["run_dir"]) / "checkpoints"
    found = scan(store).generations
    assert [each.generation for each in found] == ["000000300-0000"]
    assert found[0].commit.about.parent == "000000300-0000"
    assert "begins from 000000300-0000 of run" in err


@pytest.mark.parametrize(
    ("origin", "checkpoint", "code", "words"),
    [
        ("77@nothing", "{files: 'step_*.pt'}", 2, "there is no checkpoint 'nothing'"),
        ("4711", "{files: 'step_*.pt'}", 2, "no run is known as '4711'"),
        ("77", "{layout: library}", 2, "is of the files layout, the new run is of the library layout"),
        ("77", "{keep_last: 3}", 2, "the new run takes no checkpoints"),
    ],
)
def test_no_beginning(slurm, failed, world, tmp_path, capfd, origin, checkpoint, code, words):
    """One line; nothing is submitted and no folder left."""
    before = set(failed.root.parent.iterdir())
    assert cli.exit_code(["submit", config(tmp_path, checkpoint), "--init-from", origin]) == code
    assert words in capfd.readouterr().err
    assert slurm.state["jobs"] == {}
    assert set(failed.root.parent.iterdir()) == before


def test_a_damaged_beginning_is_65(slurm, failed, world, tmp_path, capfd):
    """What does not verify is not begun from; the new run's folder is gone again."""
    path = world.paths.generation("000000300-0000").data / "step_300.pt"
    path.write_bytes(b"999")
    before = {each.name for each in failed.root.parent.iterdir()}
    assert cli.exit_code(["submit", config(tmp_path, "{files: 'step_*.pt'}"), "--init-from", "77"]) == 65
    assert slurm.state["jobs"] == {}
    assert {each.name for each in failed.root.parent.iterdir()} == before

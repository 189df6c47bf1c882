from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from ftslurm import cli, runs
from ftslurm.checkpoint.layout import StorePaths
from ftslurm.paths import RunPaths
from ftslurm.slurm.client import SlurmClient
from tests.checkpoint.world import World
from tests.insight.journals import Tale, config_policy, make_run

SCRIPT = "#!/bin/bash\ntrue\n"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Give a checkpoint store with the checkpoints of steps 100 and 200 in it."""
    world = World(tmp_path / "world")
    for step in (100, 200):
        world.save(step, {"n1": {f"step_{step}.pt": b"weights %d" % step}})
    return world


@pytest.fixture
def failed(root: Path, world: World) -> RunPaths:
    """Give a run in job 77 that failed, with its checkpoints."""
    return ended(root, world)


def ended(root: Path, world: World, **changes: object) -> RunPaths:
    """A run whose program failed twice alike."""
    tale = Tale(config_policy(), job_id="77").start()
    tale.save(100, after=10).save(200, after=10).crash(0)
    tale.launched().crash(0)
    settings = {"checkpoint": {"files": "step_*.pt", "shared": str(world.store)}, **changes}
    return make_run(root, tale, **settings)


def damage(world: World, step: int) -> None:
    """Take a file of a checkpoint away."""
    for path in (StorePaths(world.store).generation(f"{step:09d}-0000").data).iterdir():
        path.unlink()


def submitted(slurm, job_id: str) -> dict:
    """The job as the fake keeps it."""
    return slurm.state["jobs"][job_id]


def test_a_failed_run_goes_on_in_a_new_job(slurm, failed, capfd):
    """The new job has the run's folder, the flag that it is resumed, and its id leads to the run."""
    assert cli.exit_code(["resume", "77"]) == 0
    out, err = capfd.readouterr()
    assert out == "Submitted batch job 101\n"
    assert "starts from the checkpoint of step 200 (000000200-0000)" in err
    assert "1 older to fall back to" in err
    script = submitted(slurm, "101")["script"]
    assert f"--run-dir {failed.root} --resumed" in script
    assert failed.script.read_text() == script
    assert runs.find_run("101").root == failed.root
    assert submitted(slurm, "101")["num_nodes"] == 4


def test_nodes_time_and_options_of_the_call_win(slurm, failed, capfd):
    """Fewer nodes, another limit and options for sbatch reach the job."""
    assert cli.exit_code(["resume", "77", "--nodes", "3", "--time", "2:00:00", "--", "--qos=high"]) == 0
    script = submitted(slurm, "101")["script"]
    for line in ("#SBATCH --nodes=3", "#SBATCH --ntasks=6", "#SBATCH --time=0-02:00:00", "#SBATCH --qos=high"):
        assert line in script.splitlines()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nodes", "1"], "the run is for 2 to 4 nodes"),
        (["--nodes", "5"], "the run is for 2 to 4 nodes"),
        (["--time", "soon"], "--time: expected a time"),
        (["--", "qos"], "is not an option for sbatch"),
    ],
)
def test_wishes_that_do_not_fit_are_refused(slurm, failed, capfd, arguments, words):
    """A wrong wish is code 2, and nothing is submitted or written."""
    assert cli.exit_code(["resume", "77", *arguments]) == 2
    assert words in capfd.readouterr().err
    assert slurm.state["jobs"] == {}
    assert not failed.script.exists()


def test_nodes_that_were_given_up_stay_out(slurm, root, world, capfd):
    """The new job excludes them; a name that Slurm does not know any more is left out, since it would refuse the list."""
    tale = Tale(config_policy(), nodes=("n1", "n2", "n3", "ghost"), job_id="77").start()
    for node in ("n3", "ghost"):
        tale.wait(600.0).lose(node).launched()
    tale.crash(0).launched().crash(0)
    make_run(root, tale, checkpoint={"files": "step_*.pt", "shared": str(world.store)})
    assert cli.exit_code(["resume", "77", "--nodes", "3"]) == 0
    assert submitted(slurm, "101")["exclude"] == ["n3"]
    assert "given up in this run, and excluded: n3" in capfd.readouterr().err


def test_a_refusal_for_want_of_nodes_says_what_helps(slurm, root, world, capfd):
    """Slurm's no comes with the nodes that are excluded, and leaves no script behind."""
    tale = Tale(config_policy(), job_id="77").start()
    tale.lose("n3").launched()
    tale.crash(0).launched().crash(0)
    paths = make_run(root, tale, checkpoint={"files": "step_*.pt", "shared": str(world.store)})
    assert cli.exit_code(["resume", "77"]) == 77
    assert "4 nodes without n3 were asked for; --nodes asks for fewer" in capfd.readouterr().err
    assert not paths.script.exists()


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "COMPLETING"])
def test_a_run_that_is_alive_is_refused(slurm, root, world, capfd, state):
    """75, with the job, its state, and who holds the lease since when."""
    job_id = SlurmClient().submit(SCRIPT, ["--nodes=4"])
    paths = make_run(root, Tale(config_policy(), job_id=job_id).start())
    slurm.change("jobs", job_id, "state", value=state)
    record = {"epoch": 3, "job_id": job_id, "restart": 0, "host": "n1", "pid": 1, "t": time.time() - 4}
    (paths.lease / "7").write_text(json.dumps(record))
    assert cli.exit_code(["resume", job_id, "--force"]) == 75
    err = capfd.readouterr().err
    assert f"is held by job {job_id}: it is {state}" in err
    assert "supervisor of epoch 3 on n1, lease last renewed" in err
    assert f"ftslurm cancel {job_id}" in err
    assert len(slurm.state["jobs"]) == 1


def test_a_lost_job_that_accounting_knows_is_free(slurm, root, world, capfd):
    """A job that slurmctld has forgotten and accounting calls ended holds nothing."""
    job_id = SlurmClient().submit(SCRIPT, ["--nodes=4"])
    tale = Tale(config_policy(), job_id=job_id).start()
    make_run(root, tale, checkpoint={"files": "step_*.pt", "shared": str(world.store)})
    SlurmClient().cancel(job_id)
    slurm.change("jobs", job_id, "forgotten", value=True)
    assert cli.exit_code(["resume", job_id, "--parsable"]) == 0
    assert capfd.readouterr().out == "102\n"


def test_a_job_that_nobody_knows_needs_force(slurm, root, world, capfd):
    """Not knowing is no permission: 75 with what is known, until the user says that nothing is left."""
    tale = Tale(config_policy(), job_id="77").start()
    make_run(root, tale, checkpoint={"files": "step_*.pt", "shared": str(world.store)})
    assert cli.exit_code(["resume", "77"]) == 75
    err = capfd.readouterr().err
    assert "neither slurmctld nor accounting knows it any more" in err
    assert "--force" in err
    assert cli.exit_code(["resume", "77", "--force"]) == 0
    assert slurm.state["jobs"].keys() == {"101"}


def test_force_does_not_beat_a_living_supervisor(slurm, root, world, capfd):
    """A lease that was renewed a moment ago is alive, whatever Slurm knows."""
    paths = make_run(root, Tale(config_policy(), job_id="77").start())
    record = {"epoch": 3, "job_id": "77", "restart": 0, "host": "n1", "pid": 1, "t": time.time() - 4}
    (paths.lease / "7").write_text(json.dumps(record))
    assert cli.exit_code(["resume", "77", "--force"]) == 75
    assert "its supervisor is alive" in capfd.readouterr().err


def test_slurm_away_is_69(slurm, failed, capfd):
    """Nobody can be asked, so nothing is started."""
    slurm.fail("squeue", "down", times=9)
    assert cli.exit_code(["resume", "77"]) == 69
    assert capfd.readouterr().out == ""


def test_a_second_resume_is_refused(slurm, failed, capfd):
    """While the new job waits or runs, the run is held by it."""
    assert cli.exit_code(["resume", "77"]) == 0
    assert cli.exit_code(["resume", "77"]) == 75
    assert "is held by job 101" in capfd.readouterr().err
    assert slurm.state["jobs"].keys() == {"101"}


def test_a_job_that_was_never_linked_is_found_by_its_comment(slurm, failed, capfd):
    """A submission whose answer was lost holds the run too."""
    comment = json.dumps({"ftslurm": failed.run_id}, separators=(",", ":"))
    other = SlurmClient().submit(SCRIPT, ["--nodes=1", f"--comment={comment}"])
    assert cli.exit_code(["resume", "77"]) == 75
    assert f"is held by job {other}" in capfd.readouterr().err


def test_a_finished_run_only_again(slurm, root, world, capfd):
    """Success is not repeated by accident."""
    tale = Tale(config_policy(), job_id="77").start().finish()
    make_run(root, tale, checkpoint={"files": "step_*.pt", "shared": str(world.store)})
    assert cli.exit_code(["resume", "77"]) == 2
    assert "has finished: every rank reported success (exit code 0)" in capfd.readouterr().err
    assert cli.exit_code(["resume", "77", "--again"]) == 0


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(slurm, failed, world, capfd):
    """What will be refused is said beforehand, and from where the run starts then."""
    damage(world, 200)
    assert cli.exit_code(["resume", "77"]) == 0
    err = capfd.readouterr().err
    assert "checkpoint 000000200-0000 is refused" in err
    assert "starts from the checkpoint of step 100 (000000100-0000)" in err
    assert "there is none to fall back to" in err


def test_no_intact_checkpoint_is_65(slurm, failed, world, capfd):
    """With every checkpoint damaged the run is not begun anew silently."""
    damage(world, 100)
    damage(world, 200)
    assert cli.exit_code(["resume", "77"]) == 65
    assert "is intact" in capfd.readouterr().err
    assert slurm.state["jobs"] == {}


def test_beginning_anew_must_be_asked_for(slurm, root, capfd):
    """Without a checkpoint, and without any that are watched, the answer is 2 until --from-start is given."""
    tale = Tale(config_policy(), job_id="77").start().crash(0).launched().crash(0)
    make_run(root, tale, name="none")
    other = Tale(config_policy(), job_id="78").start().crash(0).launched().crash(0)
    make_run(root, other, name="unwatched", checkpoint={})
    for job_id, words in (("77", "there is no checkpoint in"), ("78", "no checkpoints are watched")):
        assert cli.exit_code(["resume", job_id]) == 2
        err = capfd.readouterr().err
        assert words in err
        assert "--from-start" in err
        assert cli.exit_code(["resume", job_id, "--from-start", "--nodes", "2"]) == 0
        capfd.readouterr()


def test_a_dry_run_submits_nothing(slurm, failed, capfd):
    """The script is printed, the start is named, and neither Slurm nor the folder has changed."""
    assert cli.exit_code(["resume", "77", "--dry-run"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("#!/bin/bash")
    assert "--resumed" in out
    assert "starts from the checkpoint of step 200" in err
    assert slurm.state["jobs"] == {}
    assert not failed.script.exists()


def test_json_tells_job_checkpoint_and_exclusions(slurm, failed, capfd):
    """One object for programs."""
    assert cli.exit_code(["resume", "77", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["job_id"], told["run_id"], told["excluded"]) == ("101", failed.run_id, [])
    assert told["checkpoint"] == {"generation": "000000200-0000", "step": 200}


def before(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, deed: str) -> None:
    """Let a line of shell run, once, before the next call of one of Slurm's commands."""
    real = shutil.which(command)
    folder.mkdir()
    wrapper = folder / command
    wrapper.write_text(f'#!/bin/sh\nmkdir {folder}/once 2>/dev/null && {{ {deed}; }} >/dev/null\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_waiting_ends_with_the_new_end(slurm, failed, tmp_path, monkeypatch):
    """`--wait` does not take the old end of the run for the new one, and returns the code of that."""
    tale = Tale(config_policy(), job_id="77").start()
    tale.save(100, after=10).save(200, after=10).crash(0)
    tale.launched().crash(0)
    old = len(tale.entries)
    tale.start(resumed=True, job_id="101", after=60).finish()
    later = failed.root / "later"
    later.write_text("".join(entry.line() + "\n" for entry in tale.entries[old:]))
    before("scontrol", tmp_path / "bin", monkeypatch, f"mv {later} {failed.journal(2)}")
    assert cli.exit_code(["resume", "77", "--wait"]) == 0
    assert not later.exists()


def test_a_later_one_of_two_at_once_gives_way(slurm, failed, tmp_path, capfd, monkeypatch):
    """When somebody else has submitted in the same moment, the later job is cancelled and 75 says by whom."""
    comment = json.dumps({"ftslurm": failed.run_id}, separators=(",", ":"))
    rival = f"{shutil.which('sbatch')} --nodes=1 --comment='{comment}' --wrap=true"
    before("sbatch", tmp_path / "bin", monkeypatch, rival)
    assert cli.exit_code(["resume", "77", "--nodes", "2"]) == 75
    assert "has just been resumed as job 101; job 102 is cancelled" in capfd.readouterr().err
    assert submitted(slurm, "102")["state"] == "CANCELLED"

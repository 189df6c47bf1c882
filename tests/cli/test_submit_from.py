"""`ftslurm submit --from`: the user's own script reaches sbatch untouched, and its runs can be resumed."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ftslurm import cli, ownjob, runs
from ftslurm.adoption import adopt
from ftslurm.errors import FtslurmError
from ftslurm.paths import RunPaths
from ftslurm.slurm.env import job_from_env
from tests.slurm.fake import FakeSlurm

TEXT = """#!/bin/bash
#SBATCH --job-name=mine -N2
#SBATCH --comment=theirs
ftslurm run python train.py
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script in a working folder, which is also where commands are given."""
    folder = tmp_path / "work $(id)"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = folder / "train it.sbatch"
    path.write_text(TEXT)
    return path


def submitted(slurm: FakeSlurm) -> list[str]:
    """The newest call of sbatch."""
    return next(call for call in reversed(slurm.calls) if call[0] == "sbatch")


def test_the_very_path_reaches_sbatch(slurm, script, capfd, monkeypatch):
    """The file is not touched; options and arguments stand around its path; the user's SBATCH_* and variables go along."""
    monkeypatch.setenv("SBATCH_ACCOUNT", "proj1")
    monkeypatch.setenv("SBATCH_WAIT", "1")
    before = (script.read_bytes(), script.stat().st_mtime_ns)
    assert cli.exit_code(["submit", "--from", str(script), "--", "-pmain", "--", "--epochs", "3"]) == 0
    captured = capfd.readouterr()
    job_id = captured.out.removeprefix("Submitted batch job ").strip()
    assert (script.read_bytes(), script.stat().st_mtime_ns) == before
    call = submitted(slurm)
    assert call[-3:] == [str(script), "--epochs", "3"]
    assert {"-pmain", "--no-kill", "--requeue", "--open-mode=append"} <= set(call)
    environ = slurm.state["jobs"][job_id]["environ"]
    assert environ["SBATCH_ACCOUNT"] == "proj1"
    assert "SBATCH_WAIT" not in environ
    assert environ["FTSLURM_NO_KILL"] == "1"
    assert environ["FTSLURM_HOME"] == os.environ["FTSLURM_HOME"]
    for option in ("--no-kill", "--requeue", "--open-mode=append", "FTSLURM_NO_KILL"):
        assert option in captured.err
    assert cli.exit_code(["status", job_id]) == 2
    assert "has not called `ftslurm run` yet" in capfd.readouterr().err


def test_parsable_json_and_dry_run(slurm, script, tmp_path, capfd):
    """One word, one object, or the command line to look at; a dry run leaves nothing."""
    assert cli.exit_code(["submit", "--from", str(script), "--dry-run"]) == 0
    shown = capfd.readouterr().out
    assert "sbatch --no-kill --requeue --open-mode=append" in shown
    assert subprocess.run(["bash", "-n"], input=shown, text=True, timeout=20, check=False).returncode == 0
    assert slurm.calls == []
    assert not (tmp_path / "home").exists()
    assert cli.exit_code(["submit", "--from", str(script), "--parsable"]) == 0
    captured = capfd.readouterr()
    assert captured.out.strip().isdigit()
    assert captured.err == ""
    assert cli.exit_code(["submit", "--from", str(script), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["meta"] == {"schema": 1}
    assert told["script"] == str(script)
    assert [each["option"] for each in told["added"]] == ["--no-kill", "--requeue", "--open-mode=append"]


def test_test_only_asks_and_submits_nothing(slurm, script, capfd):
    """Slurm's forecast for just this script."""
    assert cli.exit_code(["submit", "--from", str(script), "--test-only"]) == 0
    assert "to start at" in capfd.readouterr().out
    assert slurm.state["jobs"] == {}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--from", "absent.sbatch"], 2, "absent.sbatch"),
        (["--from", "SCRIPT", "--init-from", "x"], 2, "--init-from"),
        (["--from", "SCRIPT", "--wait", "--", "--array=1-2"], 2, "array"),
        (["--from", "SCRIPT", "--", "--no-requeue"], 2, "--no-requeue"),
        (["--from", "SCRIPT", "--", "--partition=none"], 77, "partition"),
        (["--from", "SCRIPT", "other.sbatch"], 2, "'other.sbatch' is no option for sbatch"),
        (["--from", "SCRIPT", "--", "--qos=high", "3"], 2, "'3' is no option for sbatch"),
        ([], 2, "--from"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(slurm, script, tmp_path, capfd, words, code, said):
    """What cannot be submitted is said with its reason, and no trace of it stays."""
    assert cli.exit_code(["submit", *(str(script) if word == "SCRIPT" else word for word in words)]) == code
    captured = capfd.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert list((tmp_path / "home").glob("runs/submissions/*")) == []


def test_nodes_are_left_out_besides_the_scripts_own(slurm, script, capfd):
    """--exclude of the command and of the script are one list."""
    script.write_text(TEXT.replace("-N2", "-N2 --exclude=n1"))
    assert cli.exit_code(["submit", "--from", str(script), "--exclude", "n[1,3]"]) == 0
    assert "--exclude=n[1,3]" in submitted(slurm)
    assert cli.exit_code(["submit", "--from", str(script)]) == 0
    assert not [word for word in submitted(slurm) if word.startswith("--exclude")]


def test_waiting_ends_with_the_code_of_the_script(slurm, script, capfd):
    """The job's own exit code is the script's, which may do more than one run."""
    real = script.parent / "bin"
    real.mkdir()
    (real / "scontrol").write_text(
        '#!/bin/sh\necho "JobId=101 JobName=mine JobState=FAILED Reason=NonZeroExitCode ExitCode=7:0 Restarts=0"\n'
    )
    (real / "scontrol").chmod(0o755)
    argv = [sys.executable, "-m", "ftslurm", "submit", "--from", str(script), "--wait", "--no-ledger"]
    environ = {**os.environ, "PATH": f"{real}:{os.environ['PATH']}"}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 7, done.stderr


# -------------------------------------------------------------------------------------------------------- in the job


def adopted(slurm: FakeSlurm, job_id: str, *command: str, **more: str) -> RunPaths:
    """Make a `ftslurm run` call in a job, with the environment that the job was submitted with."""
    environ = {**slurm.state["jobs"][job_id]["environ"], "SLURM_JOB_ID": job_id, "SLURM_JOB_NODELIST": "n[1-2]", **more}
    ownjob.forget_if_inherited(environ)
    paths = adopt(command, job_from_env(environ))
    runs.link_job(paths, job_id)
    return paths


def job_of(capfd: pytest.CaptureFixture[str]) -> str:
    """The id that was printed."""
    return capfd.readouterr().out.split()[-1]


def test_the_run_lies_in_the_root_that_was_chosen(slurm, script, tmp_path, capfd):
    """--run-root reaches the job, and the job id finds the run from everywhere."""
    assert cli.exit_code(["submit", "--from", str(script), "--run-root", str(tmp_path / "elsewhere")]) == 0
    job_id = job_of(capfd)
    paths = adopted(slurm, job_id, "python", "train.py")
    assert paths.root.parent == tmp_path / "elsewhere"
    assert runs.find_run(job_id).root == paths.root
    kept = ownjob.of_run(paths)
    assert kept is not None
    assert (kept.script, kept.cwd, kept.calls_of) == (str(script), str(script.parent), job_id)
    assert ownjob.text_of(paths) == TEXT.encode()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (paths.own_script, paths.own_job)} == {0o600}


def test_resume_submits_the_script_again_as_it_was(slurm, script, capfd):
    """Also when the file has changed meanwhile; the calls in the script are those of the earlier job."""
    assert cli.exit_code(["submit", "--from", str(script), "--", "--time=9", "--", "x y"]) == 0
    first = job_of(capfd)
    one, two = (adopted(slurm, first, "python", name, "--endpoint", f"n1:{first}") for name in ("a.py", "b.py"))
    slurm.change("jobs", first, "state", value="FAILED")
    script.write_text("#!/bin/sh\nfalse\n")
    argv = ["resume", str(two.root), "--from-start", "--nodes", "1", "--time", "30:00", "--", "--qos=high"]
    assert cli.exit_code([argv[0], "--dry-run", *argv[1:]]) == 0
    captured = capfd.readouterr()
    assert "submitted again, as it was" in captured.err
    assert "sbatch --time=9 --qos=high --no-kill" in captured.out
    assert cli.exit_code(argv) == 0
    second = job_of(capfd)
    call = submitted(slurm)
    assert call[-2:] == [str(two.own_script), "x y"]
    assert {"--nodes=1", "--time=30:00", "--qos=high"} <= set(call)
    assert not [word for word in call if word.startswith(("--comment", "--job-name", "--array"))]
    job = slurm.state["jobs"][second]
    assert (job["script"], job["work_dir"]) == (TEXT, str(script.parent))
    again = [adopted(slurm, second, "python", name, "--endpoint", f"n2:{second}") for name in ("a.py", "b.py")]
    assert again == [one, two]
    environ = {**job["environ"], "SLURM_JOB_ID": second}
    assert [job_from_env({**environ, "SLURM_JOB_NODELIST": "n1"}).resumes(each.run_id) for each in again] == [None, 0]
    kept = ownjob.of_run(adopted(slurm, second, "python", "c.py"))
    assert kept is not None
    assert kept.calls_of == first


def test_a_task_of_an_array_is_resumed_alone(slurm, script, capfd):
    """Its script says --array=0-9; the one task that ended goes on."""
    script.write_text(TEXT.replace("-N2", "-N2 --array=0-9"))
    assert cli.exit_code(["submit", "--from", str(script)]) == 0
    job_id = job_of(capfd)
    task = {"SLURM_ARRAY_JOB_ID": job_id, "SLURM_ARRAY_TASK_ID": "3"}
    paths = adopted(slurm, job_id, "python", "train.py", **task)
    slurm.change("jobs", job_id, "state", value="FAILED")
    assert cli.exit_code(["resume", paths.run_id, "--from-start"]) == 0
    assert "--array=3" in submitted(slurm)


def test_marks_of_another_job_are_dropped(slurm, script, capfd):
    """A script that submits a further job hands its environment on: that job is no part of this submission."""
    assert cli.exit_code(["submit", "--from", str(script)]) == 0
    first = job_of(capfd)
    mine = adopted(slurm, first, "python", "train.py")
    environ = {**slurm.state["jobs"][first]["environ"], "SLURM_JOB_ID": "999"}
    ownjob.forget_if_inherited(environ)
    assert not {"FTSLURM_SUBMISSION", "FTSLURM_CONTINUES", "FTSLURM_NO_KILL"} & set(environ)
    assert ownjob.of_run(mine) is not None


def test_a_submission_that_was_tidied_away_stops_nobody(slurm, script, capfd):
    """The run lies in the usual place then."""
    assert cli.exit_code(["submit", "--from", str(script)]) == 0
    job_id = job_of(capfd)
    shutil.rmtree(slurm.state["jobs"][job_id]["environ"]["FTSLURM_SUBMISSION"])
    assert ownjob.of_run(adopted(slurm, job_id, "python", "train.py")) is None


@pytest.mark.parametrize("harm", ["{}", "[", '{"meta": {"schema": 9}}'])
def test_a_damaged_submission_is_said_so(slurm, script, capfd, harm):
    """Neither resumed wrongly, nor a traceback."""
    assert cli.exit_code(["submit", "--from", str(script)]) == 0
    paths = adopted(slurm, job_of(capfd), "python", "train.py")
    paths.own_job.write_text(harm)
    with pytest.raises(FtslurmError, match=r"own\.json"):
        ownjob.of_run(paths)


def test_bash_finds_ftslurm_where_path_does_not(slurm, script, capfd):
    """Also behind a login shell or a module that has set another PATH; in the background $! is the process itself."""
    assert cli.exit_code(["submit", "--from", str(script)]) == 0
    environ = slurm.state["jobs"][job_of(capfd)]["environ"]
    program = "PATH=/usr/bin:/bin; ftslurm --version & wait $! && nothing-of-the-kind; echo $?"
    done = subprocess.run(["bash", "-c", program], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("ftslurm")
    assert done.stdout.endswith("\n127\n")
    assert "nothing-of-the-kind: command not found" in done.stderr

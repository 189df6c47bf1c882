from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from ftslurm import cli
from ftslurm.slurm.client import SlurmClient
from ftslurm.slurm.records import JobState
from tests.insight.journals import Tale, config_policy, make_run

SCRIPT = "#!/bin/bash\ntrue\n"


def job(nodes: int = 4) -> str:
    """Submit a job to the fake, as the run's job."""
    return SlurmClient().submit(SCRIPT, [f"--nodes={nodes}"])


def tale(job_id: str) -> Tale:
    """The story of a run that is in this job."""
    return Tale(config_policy(), job_id=job_id)


def squeues(slurm) -> list[list[str]]:
    """The questions that were asked of squeue."""
    return [call for call in slurm.calls if call[0] == "squeue"]


def rows(capfd, *arguments: str) -> list[dict]:
    """The rows of `status --json`."""
    assert cli.exit_code(["status", "--json", *arguments]) in (0, 65)
    document = json.loads(capfd.readouterr().out)
    assert document["meta"]["schema"] == 1
    return document["runs"]


def test_runs_in_one_table(slurm, root, capfd):
    """Each run has one line with what its journal and Slurm know, newest first, from one question to Slurm."""
    first = job(3)
    make_run(root, tale(first).start().save(100, after=10))
    make_run(root, tale("77").start().save(100, after=10).finish(), name="mnist")
    waiting = job(4)
    make_run(root, None, name="waits", job_id=waiting)
    assert cli.exit_code(["status"]) == 0
    out, err = capfd.readouterr()
    header, *lines = out.splitlines()
    assert header.split() == [
        "JOBID", "NAME", "ST", "PHASE", "ATTEMPT", "NODES", "STEP", "CKPT_AGE", "TIME", "TIME_LEFT", "NODELIST(REASON)",
    ]  # fmt: skip
    assert [line.split()[1] for line in lines] == ["waits", "mnist", "gpt-small"]
    assert lines[0].split()[:7] == [waiting, "waits", "PD", "submitted", "-", "4", "-"]
    assert lines[1].split()[:7] == ["77", "mnist", "-", "finished", "0", "4", "100"]
    assert lines[2].split()[:7] == [first, "gpt-small", "R", "training", "0", "4", "100"]
    assert lines[0].endswith("(Resources)")
    assert err == ""
    assert len(squeues(slurm)) == 1


def test_one_question_for_any_number_of_runs(slurm, root, capfd):
    """Fifty live runs cost one squeue."""
    for number in range(50):
        make_run(root, None, name=f"r{number}", job_id=str(5000 + number))
    assert len(rows(capfd)) == 50
    assert len(squeues(slurm)) == 1


def test_without_live_runs_slurm_is_not_asked(slurm, root, capfd):
    """Runs that have ended by their own word need nobody else's."""
    make_run(root, tale("77").start().finish())
    assert [row["phase"] for row in rows(capfd)] == ["finished"]
    assert slurm.calls == []


def test_slurm_away_leaves_the_journals(slurm, root, capfd):
    """The table comes from the journals, one line on stderr says so, and nothing is called lost."""
    make_run(root, tale(job()).start().save(100, after=10))
    slurm.fail("squeue", "down")
    assert cli.exit_code(["status"]) == 0
    out, err = capfd.readouterr()
    assert "training" in out
    assert "lost" not in out
    assert err.count("\n") == 1
    assert "Slurm cannot be asked, so this is what the journals say" in err


@pytest.mark.parametrize(
    ("end", "phase"), [("forgotten", "lost"), ("CANCELLED", "ended?"), ("TIMEOUT", "ended?")]
)  # fmt: skip
def test_a_run_whose_job_is_gone(slurm, root, capfd, end, phase):
    """A journal that says training with a job that Slurm does not have is lost, and how to go on is said."""
    job_id = job()
    make_run(root, tale(job_id).start())
    if end == "forgotten":
        slurm.change("jobs", job_id, "forgotten", value=True)
    else:
        slurm.change("jobs", job_id, "state", value=end)
    (row,) = rows(capfd)
    assert (row["standing"], row["phase"], row["attempt"]) == ("lost", phase, 0)
    assert f"ftslurm resume {job_id}" in row["reason"]


def test_a_job_that_slurm_requeued_by_itself(slurm, root, capfd):
    """A run whose job is pending again waits in the queue, whatever its journal did not hear of it."""
    job_id = job()
    make_run(root, tale(job_id).start())
    SlurmClient().requeue(job_id)
    (row,) = rows(capfd)
    assert (row["standing"], row["phase"], row["reason"], row["nodelist"]) == ("waiting", "requeued", "BeginTime", [])


def test_a_damaged_journal_does_not_hide_the_other_runs(slurm, root, capfd):
    """The damaged run has a row, its error names file and line, all others are shown, and the code is 65."""
    make_run(root, tale("77").start().finish(), name="good")
    hurt = make_run(root, tale("78").start(), name="hurt")
    text = hurt.journal(1).read_text()
    hurt.journal(1).write_text(text.replace('"n":3', '"n":\x1b[2J'))
    assert cli.exit_code(["status"]) == 65
    out, err = capfd.readouterr()
    assert "finished" in out
    assert "damaged" in out
    assert "journal.1.jsonl, line 4" in err
    assert "\x1b" not in out + err


def test_a_torn_last_line_is_no_damage(slurm, root, capfd):
    """What a supervisor was writing when it died is left out."""
    paths = make_run(root, tale("77").start())
    with paths.journal(1).open("a") as journal:
        journal.write('{"n":99,"epoch":1,"t":')
    slurm.fail("squeue", "down")
    assert [row["phase"] for row in rows(capfd)] == ["training"]


def test_named_runs_only(slurm, root, capfd, tmp_path):
    """A run is named by job id, run id or folder; the same run twice is one row; an unknown name is code 2."""
    paths = make_run(root, tale("77").start().finish())
    make_run(root, tale("78").start().finish(), name="other")
    for name in ("77", paths.run_id, str(paths.root)):
        assert [row["run_id"] for row in rows(capfd, name, paths.run_id)] == [paths.run_id]
    assert cli.exit_code(["status", "79"]) == 2
    assert "no run is known as '79'" in capfd.readouterr().err


def test_old_runs_are_shown_only_when_asked_for(slurm, root, capfd):
    """A run that has been quiet for more than a week appears with --all, or by its name."""
    paths = make_run(root, tale("77").start().finish())
    old = time.time() - 8 * 86_400
    for path in (paths.root, paths.lease, paths.journal(1)):
        os.utime(path, (old, old))
    assert rows(capfd) == []
    assert len(rows(capfd, "--all")) == len(rows(capfd, "77")) == 1
    assert cli.exit_code(["status"]) == 0
    assert "--all shows older ones" in capfd.readouterr().err


def test_columns_and_headers(slurm, root, capfd):
    """`-o`, `--parsable` and `-h` give a script exactly what it asks for; an unknown column is code 2."""
    make_run(root, tale("77").start().save(100, after=10).finish())
    assert cli.exit_code(["status", "77", "--parsable", "-h", "-o", "phase,step,code"]) == 0
    assert capfd.readouterr().out == "finished|100|0\n"
    assert cli.exit_code(["status", "77", "-o", "+DURABLE"]) == 0
    assert capfd.readouterr().out.splitlines()[0].split()[-2:] == ["DURABLE", "NODELIST(REASON)"]
    assert cli.exit_code(["status", "-o", "NIX"]) == 2
    assert "there is no column NIX" in capfd.readouterr().err


def test_the_keys_of_the_json_are_stable(slurm, root, capfd):
    """Programs read these keys: a change is a new schema."""
    make_run(root, tale("77").start().save(100, after=10).finish())
    (row,) = rows(capfd)
    assert set(row) == {
        "run_id", "run_dir", "name", "standing", "phase", "job_id", "job_state", "epoch", "restart", "requeues",
        "attempt", "ranks", "nodes", "nodes_wanted", "nodelist", "excluded", "health", "supervisor", "taken_over",
        "step", "checkpoint", "checkpoint_age_s",
        "durable_step", "started", "started_epoch", "ended", "ended_epoch", "time_s", "time_left_s", "exit_code",
        "reason", "error",
    }  # fmt: skip
    assert (row["exit_code"], row["reason"], row["error"], row["job_state"]) == (0, None, None, None)


def test_the_tab_key_asks_nobody(slurm, root):
    """Run ids and job ids complete from the local index, without any command of Slurm's."""
    paths = make_run(root, None, job_id="777")
    env = {**os.environ, "_FTSLURM_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    for words, expected in (("ftslurm explain 7", "777"), ("ftslurm status gpt", paths.run_id)):
        done = subprocess.run(
            [sys.executable, "-m", "ftslurm"], env={**env, "COMP_WORDS": words}, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.stdout.split() == [f"plain,{expected}"]
    assert slurm.calls == []


def test_jobs_are_asked_about_in_one_call(slurm):
    """Jobs that are known come with state, nodes and times; others are left out, and one alone is no error."""
    client = SlurmClient()
    running, waiting = job(3), job(2)
    found = client.jobs([running, waiting, "999"])
    assert {job_id: info.state for job_id, info in found.items()} == {
        running: JobState.RUNNING, waiting: JobState.PENDING,
    }  # fmt: skip
    assert found[running].nodes == ("n1", "n2", "n3")
    assert found[running].start_time is not None
    assert (found[waiting].num_nodes, found[waiting].reason, found[waiting].nodes) == (2, "Resources", ())
    client.cancel(running)
    assert client.jobs([running])[running].state is JobState.CANCELLED
    assert client.jobs(["999"]) == {}
    assert client.jobs([]) == {}

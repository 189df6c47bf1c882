from __future__ import annotations

import json

from ftslurm import cli, runs
from ftslurm.slurm.client import SlurmClient
from tests.insight.journals import Tale, config_policy, make_run

SCRIPT = "#!/bin/bash\ntrue\n"


def job(nodes: int = 4) -> str:
    """Submit a job to the fake, as the run's job."""
    return SlurmClient().submit(SCRIPT, [f"--nodes={nodes}"])


def tale(job_id: str) -> Tale:
    """A run that trains in this job."""
    return Tale(config_policy(), job_id=job_id).start()


def test_running_and_pending_jobs_are_cancelled(slurm, root, capfd):
    """Each run's job ends in Slurm, and each is said."""
    first, second = job(), job()
    make_run(root, tale(first))
    paths = make_run(root, None, name="waits", job_id=second)
    assert cli.exit_code(["cancel", first, paths.run_id]) == 0
    out, err = capfd.readouterr()
    assert f"cancelled job {first} (RUNNING)" in out
    assert f"cancelled job {second} (PENDING)" in out
    assert err == ""
    assert {slurm.state["jobs"][each]["state"] for each in (first, second)} == {"CANCELLED"}


def test_a_chain_is_cancelled_from_its_end(slurm, root, capfd):
    """All live jobs of a run are cancelled, the last first, so that none starts when another ends."""
    jobs = [job(), job(), job()]
    paths = make_run(root, tale(jobs[0]))
    for each in jobs[1:]:
        runs.link_job(paths, each)
    assert cli.exit_code(["cancel", jobs[0]]) == 0
    assert [call[-1] for call in slurm.calls if call[0] == "scancel"] == jobs[::-1]


def test_what_is_not_alive_is_said(slurm, root, capfd):
    """Ended, unknown and never submitted runs are named on stderr with what is known; the code is 0."""
    over = job()
    SlurmClient().cancel(over)
    make_run(root, tale(over), name="over")
    make_run(root, Tale(config_policy(), job_id="77").start().finish(), name="done")
    never = make_run(root, None, name="never")
    assert cli.exit_code(["cancel", over, "77", never.run_id]) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert f"nothing to cancel: job {over} is CANCELLED; the run's phase is training" in err
    assert "job 77 is not known to slurmctld; the run's phase is finished" in err
    assert "no job of it is known; its phase is submitted" in err


def test_an_unknown_run_cancels_nothing(slurm, root, capfd):
    """One wrong name among several is code 2, before anything is done."""
    first = job()
    make_run(root, tale(first))
    assert cli.exit_code(["cancel", first, "999"]) == 2
    assert slurm.state["jobs"][first]["state"] == "RUNNING"


def test_a_refusal_does_not_stop_the_others(slurm, root, capfd):
    """Somebody else's job stays, with Slurm's words and code 77; the other run is cancelled."""
    first, second = job(2), job(2)
    make_run(root, tale(first), name="theirs")
    make_run(root, tale(second), name="mine")
    slurm.change("jobs", first, "user", value="bob")
    assert cli.exit_code(["cancel", first, second]) == 77
    out, err = capfd.readouterr()
    assert f"cancelled job {second}" in out
    assert "denied" in err


def test_slurm_away_is_69(slurm, root, capfd):
    """Without an answer nothing is said to be cancelled."""
    make_run(root, tale(job()))
    slurm.fail("squeue", "down")
    assert cli.exit_code(["cancel", "101"]) == 69
    assert capfd.readouterr().out == ""


def test_json_tells_the_outcome_of_each(slurm, root, capfd):
    """One object with an outcome a run."""
    first = job()
    make_run(root, tale(first), name="alive")
    make_run(root, Tale(config_policy(), job_id="77").start().finish(), name="done")
    assert cli.exit_code(["cancel", "--json", first, "77", first]) == 0
    told = json.loads(capfd.readouterr().out)
    assert [(each["outcome"], each["job_ids"]) for each in told["runs"]] == [("cancelled", [first]), ("not_alive", [])]

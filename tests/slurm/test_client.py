from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from ftslurm.errors import Refused, ServiceUnavailable, TryAgain, UsageError
from ftslurm.slurm.client import JobField, SlurmClient
from ftslurm.slurm.records import JobState, Source
from tests.slurm.fake import FakeSlurm

SCRIPT = "#!/bin/bash\ntrue\n"


def wait_until(condition, timeout_s: float = 20.0) -> None:
    """Poll until `condition()` holds; fail the test if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.02)


def test_submitted_job_is_found_with_its_nodes_and_comment(client, fake):
    """What was asked of sbatch is what scontrol shows of the job."""
    job_id = client.submit(SCRIPT, ["--nodes=3", "--comment=run x", "--exclude=n2", "--job-name=a b"])
    job = client.job(job_id)
    assert (job.state, job.nodes, job.exc_nodes) == (JobState.RUNNING, ("n1", "n3", "n4"), ("n2",))
    assert (job.name, job.comment, job.num_nodes, job.restart_count) == ("a b", "run x", 3, 0)
    assert (job.batch_host, job.source, job.requeue) == ("n1", Source.CONTROLLER, True)


def test_script_file_and_its_arguments_reach_sbatch(client, fake, tmp_path):
    """A path is submitted as a path, with arguments behind it, also with a space in its name."""
    path = tmp_path / "my job.sh"
    path.write_text(SCRIPT)
    job_id = client.submit(path, ["--nodes=1"], arguments=["a b", "$(c)"])
    assert fake.state["jobs"][job_id]["words"] == [str(path), "a b", "$(c)"]


def test_submission_is_sent_once_even_if_its_answer_is_lost(client, fake):
    """A write without an answer is not repeated, and the job can be found by its tag."""
    fake.fail("sbatch", "lost-answer")
    with pytest.raises(ServiceUnavailable, match="Socket timed out"):
        client.submit(SCRIPT, ["--comment=run-77"])
    assert [call[0] for call in fake.calls] == ["sbatch"]
    assert len(fake.state["jobs"]) == 1
    assert client.find_submitted("run-77") == ("101",)
    assert client.find_submitted("run-78") == ()


@pytest.mark.parametrize("text", ["", "Submitted batch job 1", "12; rm", "abc", "-1", "1 2"])
def test_anything_but_a_job_id_is_no_submission(client, fake, text, tmp_path):
    """`sbatch --parsable` that prints no job id is an error, not a job."""
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.write_text(f"#!/bin/sh\ncat > /dev/null\nprintf '%s' '{text}'\n")
    wrapper.chmod(0o755)
    odd = SlurmClient(environ={"PATH": f"{wrapper.parent}:/usr/bin:/bin"})
    with pytest.raises(ServiceUnavailable, match="did not print a job id"):
        odd.submit(SCRIPT)


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--partition=nix"], "Invalid partition name"), (["--exclude=n9"], "Invalid node name"),
     (["--nodes=9"], "node configuration is not available")],
)  # fmt: skip
def test_refusal_carries_slurms_own_words(client, options, words):
    """Slurm's no is Refused, with the sentence that Slurm gave."""
    with pytest.raises(Refused, match=words):
        client.submit(SCRIPT, options)


def test_forecast_submits_nothing(client, fake):
    """`test_only` says when the job would start, and there is no job afterwards."""
    forecast = client.test_only(SCRIPT)
    assert "to start at" in forecast.text
    assert forecast.start is not None
    assert fake.state["jobs"] == {}


@pytest.mark.parametrize("kind", ["hang", "hang-with-child"])
def test_hanging_command_ends_at_its_deadline(fake, kind):
    """A command that hangs, also behind a wrapper whose child holds the pipe, ends as no answer."""
    fake.fail("scontrol", kind)
    started = time.monotonic()
    with pytest.raises(ServiceUnavailable, match=r"did not answer within 0\.7 s"):
        SlurmClient(environ=fake.environ, timeout_s=0.7).job("101")
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.job("101"), lambda c: c.nodes(["n1"]), lambda c: c.steps("101"), lambda c: c.requeue("101"),
        lambda c: c.update_job("101", JobField.NUM_NODES, 2), lambda c: c.cancel("101"), lambda c: c.submit(SCRIPT),
        lambda c: c.test_only(SCRIPT), lambda c: c.find_submitted("x"), lambda c: c.config(), lambda c: c.version(),
        lambda c: c.unknown_nodes(["n1"]),
    ],
)  # fmt: skip
def test_controller_that_is_away_is_never_an_answer(client, fake, call):
    """With slurmctld away every method raises ServiceUnavailable; none of them guesses."""
    for command in ("sbatch", "squeue", "scontrol", "scancel", "sacct"):
        fake.fail(command, "down", times=5)
    with pytest.raises(ServiceUnavailable):
        call(client)


def test_command_outlives_a_sigterm_to_everybody(tmp_path):
    """A command that gets SIGTERM, as all of a requeued job do, finishes; the caller's own signals are as before."""
    wrapper = tmp_path / "scontrol"
    wrapper.write_text("#!/bin/sh\nkill -TERM $$\necho slurm 22.05.8\n")
    wrapper.chmod(0o755)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert SlurmClient(environ={"PATH": f"{tmp_path}:/usr/bin:/bin"}).version() == (22, 5, 8)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_missing_command_is_named(tmp_path):
    """Without Slurm on PATH the message says which command is missing."""
    with pytest.raises(ServiceUnavailable, match="scontrol cannot be run"):
        SlurmClient(environ={"PATH": str(tmp_path)}).version()


def test_database_index_error_asks_to_try_again(client, fake):
    """An update while 'the DB index is being set' is TryAgain, and succeeds when repeated."""
    job_id = client.submit(SCRIPT)
    fake.fail("scontrol update", "db-index")
    with pytest.raises(TryAgain, match="DB index"):
        client.update_job(job_id, JobField.NUM_TASKS, 2)
    client.update_job(job_id, JobField.NUM_TASKS, 2)
    assert client.job(job_id).num_tasks == 2


def test_shrinking_requeue_is_read_back(client, fake):
    """Requeue, NumTasks, NumNodes, ExcNodeList, StartTime: the job stands as asked and starts without the bad node."""
    job_id = client.submit(SCRIPT, ["--nodes=4", "--ntasks=8"])
    fake.change("nodes", "n3", "state", value="DOWN+NOT_RESPONDING")
    client.requeue(job_id)
    waiting = client.job(job_id)
    assert (waiting.state, waiting.reason, waiting.restart_count) == (JobState.PENDING, "BeginTime", 1)
    client.update_job(job_id, JobField.NUM_TASKS, 6)
    client.update_job(job_id, JobField.NUM_NODES, 3)
    client.update_job(job_id, JobField.EXC_NODE_LIST, "n3")
    client.update_job(job_id, JobField.START_TIME, "now")
    job = client.job(job_id)
    assert (job.state, job.nodes, job.exc_nodes) == (JobState.RUNNING, ("n1", "n2", "n4"), ("n3",))


def test_running_job_keeps_its_exclusions(client):
    """ExcNodeList of a running job cannot be changed; Slurm's refusal comes through."""
    job_id = client.submit(SCRIPT)
    with pytest.raises(Refused, match="no longer pending"):
        client.update_job(job_id, JobField.EXC_NODE_LIST, "n1")


def test_unknown_nodes_are_found_before_slurm_refuses_the_list(client):
    """One call tells which names would make Slurm refuse a whole list."""
    assert client.unknown_nodes(["n1", "ghost", "n4", "n99"]) == ("ghost", "n99")
    assert client.nodes([]) == {}


def test_forgotten_job_is_asked_of_accounting(client, fake):
    """A job that slurmctld has forgotten is found in accounting, with the first word of its state."""
    job_id = client.submit(SCRIPT)
    client.cancel(job_id)
    fake.change("jobs", job_id, "forgotten", value=True)
    job = client.job(job_id)
    assert (job.state, job.source, job.restart_count) == (JobState.CANCELLED, Source.ACCOUNTING, None)
    assert job.state_words == ("CANCELLED", "by", "1001")


@pytest.mark.parametrize("accounting", [True, False])
def test_job_that_nobody_knows_is_unknown(client, fake, accounting):
    """Absent from the queue is not ended: without a record the state is UNKNOWN, with or without accounting."""
    fake.change("accounting", value=accounting)
    job = client.job("999999")
    assert (job.state, job.source, job.nodes) == (JobState.UNKNOWN, Source.NOBODY, ())


def test_silent_accounting_does_not_hide_that_the_controller_answered(client, fake):
    """With slurmdbd away a forgotten job is UNKNOWN: the controller did answer."""
    fake.fail("sacct", "down")
    assert client.job("999999").source is Source.NOBODY


def test_garbage_is_not_a_job(client, fake):
    """An answer that is no job record is an error, never a job and never the word of nobody."""
    job_id = client.submit(SCRIPT)
    fake.fail("scontrol show", "garbage")
    with pytest.raises(ServiceUnavailable, match="shows no job"):
        client.job(job_id)


def test_steps_and_their_end(client, fake):
    """Steps are listed with their nodes, and a cancelled one disappears."""
    job_id = client.submit(SCRIPT, ["--nodes=2"])
    fake.change("jobs", job_id, "steps", "0", value={"name": "odd|name x", "nodes": ["n1", "n2"]})
    batch, step = client.steps(job_id)
    assert (batch.step_id, batch.number) == (f"{job_id}.batch", None)
    assert (step.step_id, step.number, step.name, step.nodes) == (f"{job_id}.0", 0, "odd|name x", ("n1", "n2"))
    client.cancel(f"{job_id}.0", "KILL")
    assert [left.step_id for left in client.steps(job_id)] == [f"{job_id}.batch"]
    assert ["scancel", "--signal=KILL", f"{job_id}.0"] in fake.calls


def test_cancelling_what_is_over_is_no_error(client):
    """A job or step that Slurm does not know any more is as good as cancelled."""
    client.cancel("999999")
    client.cancel("999999.3", "TERM")


def test_cancelling_somebody_elses_job_is_refused(client, fake):
    """Another user's job stays, and the refusal is told."""
    job_id = client.submit(SCRIPT)
    fake.change("jobs", job_id, "user", value="bob")
    with pytest.raises(Refused, match="denied"):
        client.cancel(job_id)


def test_background_cancel_returns_before_scancel(client, fake):
    """`wait=False` returns while scancel still hangs, and the cancellation is done nevertheless."""
    job_id = client.submit(SCRIPT)
    fake.fail("scancel", "late-answer")
    client.cancel(job_id, wait=False)
    wait_until(lambda: fake.state["jobs"][job_id]["state"] == "CANCELLED")


def test_background_cancel_logs_its_failure(client, fake, caplog):
    """What a background scancel was told is in the log, since nobody waits for it."""
    fake.fail("scancel", "refuse")
    client.cancel("101", wait=False)
    wait_until(lambda: "denied" in caplog.text)


def test_nodes_keep_the_order_and_tell_down_from_silent(client, fake):
    """`down`, `not_responding` and `draining` are told apart; the order is that of the question."""
    fake.change("nodes", "n2", "state", value="IDLE+NOT_RESPONDING")
    fake.change("nodes", "n3", value={"state": "DOWN+NOT_RESPONDING", "reason": "Not responding"})
    fake.change("nodes", "n4", value={"state": "IDLE+DRAIN", "reason": "bad disk"})
    nodes = client.nodes(["n4", "n3", "n2", "n1"])
    assert list(nodes) == ["n4", "n3", "n2", "n1"]
    assert [(n.down, n.not_responding, n.draining) for n in nodes.values()] == [
        (False, False, True), (True, True, False), (False, True, False), (False, False, False),
    ]  # fmt: skip


def test_configuration_and_version(client):
    """Site settings come as numbers, the release as a tuple that compares."""
    config = client.config()
    assert (config.slurmd_timeout_s, config.min_job_age_s, config.kill_wait_s) == (300, 300, 30)
    assert config.requeue_allowed is True
    assert client.version() == (22, 5, 8)


@pytest.mark.parametrize("text", ["", "x", "1;rm", "-1", "1 2", "1.0", "1_", "\u0661\u0662", "1\n", "--help", "1" * 11])
def test_only_job_ids_reach_a_command(client, fake, text):
    """Nothing that is no job id becomes an argument of a Slurm command."""
    for call in (client.job, client.requeue, client.steps):
        with pytest.raises(UsageError):
            call(text)
    assert fake.calls == []


def test_inherited_variables_do_not_reach_the_commands(fake, tmp_path):
    """SBATCH_* and SLURM_* of an enclosing job are gone, SLURM_CONF stays, and sbatch's job gets no LC_ALL of ours."""
    dirty = {
        **fake.environ, "SBATCH_PARTITION": "nix", "SLURM_JOB_ID": "7", "SQUEUE_FORMAT": "%i", "SLURM_CONF": "/x",
        "LANG": "C.UTF-8",
    }  # fmt: skip
    dirty.pop("LC_ALL", None)
    job_id = SlurmClient(environ=dirty).submit(SCRIPT)
    seen = fake.state["jobs"][job_id]["environ"]
    assert seen["SLURM_CONF"] == "/x"
    assert not {"SBATCH_PARTITION", "SLURM_JOB_ID", "SQUEUE_FORMAT", "SLURM_TIME_FORMAT", "LC_ALL"} & set(seen)


def test_argument_with_nul_is_a_usage_error(client):
    """A NUL cannot be passed to any program, and is told so."""
    with pytest.raises(UsageError, match="cannot be passed on"):
        client.run(["scontrol", "a\0b"])


def test_arguments_only_for_files(client):
    """A script on standard input cannot take arguments."""
    with pytest.raises(UsageError, match="file"):
        client.submit(SCRIPT, arguments=["x"])


def test_paths_are_submitted_absolute(client, fake, tmp_path, monkeypatch):
    """A relative path that begins with a dash does not become an option."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-x").write_text(SCRIPT)
    job_id = client.submit(Path("-x"))
    assert fake.state["jobs"][job_id]["words"] == [str(tmp_path / "-x")]


def test_fake_srun_runs_one_rank_per_task_with_its_identity(client, fake, tmp_path):
    """The fake's srun starts the asked number of ranks, each told who it is, and returns the worst exit code."""
    job_id = client.submit(SCRIPT, ["--nodes=2"])
    program = f'echo "$SLURM_PROCID $SLURMD_NODENAME $SLURM_NTASKS" >> {tmp_path}/out; exit "$SLURM_PROCID"'
    environ = {**fake.environ, "SLURM_JOB_ID": job_id, "SLURM_CONF": "/x"}
    assert FakeSlurm.srun(environ, ["-N2", "-n2", "-w", "n1,n2", "bash", "-c", program]) == 1
    assert sorted((tmp_path / "out").read_text().splitlines()) == ["0 n1 2", "1 n2 2"]
    assert client.steps(job_id)[1].nodes == ("n1", "n2")

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ftslurm.errors import Refused, ServiceUnavailable
from ftslurm.lab.cluster import Cluster
from ftslurm.lab.machine import Who
from ftslurm.slurm.client import JobField, SlurmClient
from ftslurm.slurm.records import SOON, JobInfo, JobState, Source
from ftslurm.slurm.script import JobRequest, render, sbatch_argv
from tests.slurm.hostile import CANARY, TEXTS

pytestmark = pytest.mark.lab

PYTHON = "/usr/bin/python3"
DUMP = """#!/usr/bin/python3
import json, os, sys
json.dump({"argv": sys.argv[2:], "environ": dict(os.environ), "cwd": os.getcwd()}, open(sys.argv[1], "w"))
"""
NESTED = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from ftslurm.slurm import env
words = ["srun", "--mpi=none", "--overlap", "-N2", "-n4", "--ntasks-per-node=2", "-w", "n2,n3", "printenv", "SLURMD_NODENAME"]
if sys.argv[2] == "batch":
    words = ["srun", "--mpi=none", "--overlap", "-N1", "-n1", "-w", "n2", sys.executable, __file__, sys.argv[1], "task"]
sys.exit(subprocess.run(words, env=env.step_env(os.environ), timeout=60).returncode)
"""


INSIDE = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ftslurm.slurm.client import JobField, SlurmClient
heard = []
signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
client, job = SlurmClient(), os.environ["SLURM_JOB_ID"]
if os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
    client.requeue(job)
    until = time.monotonic() + 20
    while not heard and time.monotonic() < until:
        client.config()
    client.update_job(job, JobField.NUM_TASKS, 2)
    client.update_job(job, JobField.NUM_NODES, 2)
    client.update_job(job, JobField.EXC_NODE_LIST, "n2")
    Path(sys.argv[2] + ".new").write_text(f"heard {len(heard)}")
    Path(sys.argv[2] + ".new").rename(sys.argv[2])
else:
    time.sleep(300)
"""
LISTEN = """
import signal, sys, time
from pathlib import Path
log = Path(sys.argv[1])
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: log.write_text(signal.Signals(number).name))
log.write_text("ready")
time.sleep(60)
"""


def wait_until(condition: Callable[[], object], timeout_s: float = 90.0) -> None:
    """Poll until `condition()` holds; fail the test if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.1)


@pytest.fixture
def client(lab: Cluster, tmp_path: Path) -> SlurmClient:
    """Give the client under test, outside of any job; slurmdbd is asked from the login host, which can reach it."""
    wrapper = tmp_path / "sacct"
    wrapper.write_text(
        f'#!/bin/sh\nexec {shlex.join(lab.command("login", ["sacct"], Who(env={"SLURM_TIME_FORMAT": "%s"})))} "$@"\n'
    )
    wrapper.chmod(0o755)
    return SlurmClient(
        environ={**os.environ, "SLURM_CONF": str(lab.slurm_conf), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    )


def wait_state(client: SlurmClient, job_id: str, *states: JobState) -> JobInfo:
    """Wait until the job is in one of `states`."""
    wait_until(lambda: client.job(job_id).state in states)
    return client.job(job_id)


def started_soon(client: SlurmClient, job_id: str) -> bool:
    """Ask for an early start, and tell whether the job runs.

    Asked again and again, as `submit --wait` does: while the old run of the job is COMPLETING, Slurm takes the new
    start time and sets it two minutes off again at the end of that.
    """
    job = client.job(job_id)
    if job.begins_late(time.time()):
        client.update_job(job_id, JobField.START_TIME, SOON)
    return job.state is JobState.RUNNING


def request_of(folder: Path, **change: object) -> JobRequest:
    """A job of one node whose program writes what it was given to `seen.json` in the run's folder."""
    folder.mkdir()
    program = folder / "program.py"
    program.write_text(DUMP)
    plain = JobRequest(
        name="x", run_dir=str(folder), argv=(PYTHON, "-I", str(program), str(folder / "seen.json")), min_nodes=1,
        max_nodes=1, time_s=300.0,
    )  # fmt: skip
    return replace(plain, **change)  # type: ignore[arg-type]


def submit(client: SlurmClient, folder: Path, request: JobRequest) -> str:
    """Submit as `ftslurm submit` does: the script as a file, the rest on the command line."""
    path = folder / "job.sbatch"
    path.write_text(render(request), encoding="utf-8", errors="surrogateescape")
    return client.submit(path, [*sbatch_argv(request), f"--chdir={folder}"])


# sbatch itself refuses bytes that are no UTF-8 in no field; names it must print stay as they are.
HARD = [text for text in TEXTS if text.strip() and "\udc80" not in text and len(text) < 400][::9]


def test_hostile_values_reach_the_job_through_real_sbatch(lab, client):
    """Name, comment, arguments and variables of some 25 hostile jobs arrive byte for byte, and nothing is executed."""
    jobs = {}
    for number, text in enumerate(HARD):
        folder = lab.shared / f"hostile-{number}"
        request = request_of(folder, name=f"x{text}", comment=f"{text}y", exports={"FTSLURM_X": text})
        request = replace(request, argv=(*request.argv, text, f"-{text}"))
        jobs[submit(client, folder, request)] = (folder, text)
    for job_id, (folder, text) in jobs.items():
        wait_until((folder / "seen.json").exists)
        job = wait_state(client, job_id, JobState.COMPLETED)
        seen = json.loads((folder / "seen.json").read_text())
        assert seen["argv"] == [text, f"-{text}"]
        assert (seen["environ"]["FTSLURM_X"], seen["environ"]["FTSLURM_NO_KILL"]) == (text, "1")
        assert seen["environ"]["SLURM_JOB_NAME"] == f"x{text}"
        assert (job.name.strip(), job.comment) == (f"x{text}".strip(), f"{text}y".strip())
        assert (folder / f"slurm-{job_id}.out").exists()
    assert len(jobs) >= 20
    assert not list(lab.shared.rglob(CANARY))


@pytest.mark.parametrize("name", ["a b", "%j", "50%", "%%", "it's", 'q"q', "$(id)", "中文", "a;b", "#x", "~", "{x}"])
def test_output_lands_in_a_folder_of_any_name(lab, client, name):
    """The job's output file is in the run's folder, whatever that is called; Slurm takes no `%` in it for a pattern."""
    folder = lab.shared / name
    job_id = submit(client, folder, request_of(folder))
    wait_state(client, job_id, JobState.COMPLETED)
    assert (folder / f"slurm-{job_id}.out").exists()
    assert json.loads((folder / "seen.json").read_text())["cwd"] == str(folder)


def test_job_environment_has_nothing_of_the_clients(lab, client):
    """What the client sets for its own commands does not leak into the job."""
    folder = lab.shared / "clean"
    environ = {name: value for name, value in client.environ.items() if name != "LC_ALL"}
    wait_state(client, submit(replace(client, environ=environ), folder, request_of(folder)), JobState.COMPLETED)
    assert not {"SLURM_TIME_FORMAT", "LC_ALL"} & set(json.loads((folder / "seen.json").read_text())["environ"])


def test_life_of_a_job_as_the_client_sees_it(lab, client):
    """Running with its steps, requeued smaller and without a node in the documented order, started again, cancelled."""
    job_id = client.submit(
        "#!/bin/bash\nsrun --overlap -n3 sleep 300\n",
        ["-N3", "-n3", "--no-kill", "--requeue", "--time=10", "--comment=edge life", f"--chdir={lab.shared}"],
    )
    job = wait_state(client, job_id, JobState.RUNNING)
    assert (job.nodes, job.num_tasks, job.restart_count, job.batch_host) == (("n1", "n2", "n3"), 3, 0, "n1")
    assert job.end_time is not None
    assert job_id in client.find_submitted("edge life")
    wait_until(lambda: any(step.number == 0 for step in client.steps(job_id)))
    with pytest.raises(Refused, match="no longer pending"):
        client.update_job(job_id, JobField.EXC_NODE_LIST, "n3")
    client.requeue(job_id)
    wait_until(lambda: client.job(job_id).reason == "BeginTime")
    client.update_job(job_id, JobField.NUM_TASKS, 2)
    client.update_job(job_id, JobField.NUM_NODES, 2)
    client.update_job(job_id, JobField.EXC_NODE_LIST, "n2")
    wait_until(lambda: started_soon(client, job_id))
    job = client.job(job_id)
    assert (len(job.nodes), job.num_tasks, job.restart_count, job.exc_nodes) == (2, 2, 1, ("n2",))
    assert "n2" not in job.nodes
    client.cancel(job_id)
    assert wait_state(client, job_id, JobState.CANCELLED).state_words == ("CANCELLED",)
    client.cancel(job_id)


def test_requeue_from_inside_leaves_time_for_the_updates(lab, client):
    """A run that requeues its job hears SIGTERM through the script, and shapes the next start within KillWait."""
    folder = lab.shared / "inside"
    request = request_of(folder, min_nodes=3, max_nodes=3, ntasks=3)
    (folder / "inside.py").write_text(INSIDE)
    root = str(Path(__file__).parent.parent.parent)
    argv = (sys.executable, str(folder / "inside.py"), root, str(folder / "log"))
    job_id = submit(client, folder, replace(request, argv=argv))
    wait_until((folder / "log").exists)
    assert (folder / "log").read_text() == "heard 1"
    wait_until(lambda: client.job(job_id).reason == "BeginTime")
    wait_until(lambda: started_soon(client, job_id))
    job = client.job(job_id)
    assert (len(job.nodes), job.num_tasks, job.exc_nodes) == (2, 2, ("n2",))
    assert "n2" not in job.nodes


@pytest.mark.parametrize(("target", "heard"), [("job", "SIGTERM"), ("batch", "SIGUSR2")])
def test_signals_to_the_job_reach_the_run(lab, client, target, heard):
    """Slurm signals the batch shell alone: what scancel or the time limit says arrives because the script hands it on."""
    folder = lab.shared / f"signal-{target}"
    request = request_of(folder)
    (folder / "listen.py").write_text(LISTEN)
    job_id = submit(client, folder, replace(request, argv=(PYTHON, str(folder / "listen.py"), str(folder / "log"))))
    wait_until((folder / "log").exists)
    if target == "job":
        client.cancel(job_id)
    else:
        client.run(["scancel", "--batch", "--signal=USR2", job_id]).check()
    wait_until(lambda: (folder / "log").read_text() == heard)


def test_accounting_knows_what_the_controller_knows(lab, client):
    """The same job from slurmdbd: state, nodes, name; an id that never was is known to nobody."""
    job_id = client.submit("#!/bin/bash\ntrue\n", ["-N2", "-J", "a|b c", f"--chdir={lab.shared}"])
    wait_state(client, job_id, JobState.COMPLETED)
    wait_until(lambda: client._job_of_accounting(job_id).nodes == client.job(job_id).nodes)
    told, known = client.job(job_id), client._job_of_accounting(job_id)
    assert (known.source, known.state, known.name, known.user) == (Source.ACCOUNTING, told.state, "a|b c", told.user)
    assert (known.start_time, known.end_time, known.work_dir) == (told.start_time, told.end_time, told.work_dir)
    assert client.job("999999").source is Source.NOBODY


def test_array_tasks_are_told_apart(lab, client):
    """A task of an array is found, requeued and cancelled by `<array>_<task>` alone."""
    array = client.submit("#!/bin/bash\nsleep 300\n", ["--array=1-3%2", "-N1", f"--chdir={lab.shared}"])
    wait_until(lambda: client.job(f"{array}_2").state is JobState.RUNNING)
    client.requeue(f"{array}_1")
    wait_until(lambda: client.job(f"{array}_1").restart_count == 1)
    assert (client.job(f"{array}_2").restart_count, client.job(f"{array}_2").state) == (0, JobState.RUNNING)
    client.cancel(f"{array}_2")
    assert wait_state(client, f"{array}_2", JobState.CANCELLED).array_task_id == "2"
    client.cancel(array)


def test_nodes_site_and_forecast(lab, client):
    """Nodes, settings, version and a start time of a real cluster; unknown names are found out."""
    nodes = client.nodes(["n3", "n1"])
    assert [(node.name, node.down, node.cpus) for node in nodes.values()] == [("n3", False, 8), ("n1", False, 8)]
    assert client.unknown_nodes(["n1", "ghost"]) == ("ghost",)
    assert client.config().slurmd_timeout_s == 30
    assert client.version() >= (21, 8)
    forecast = client.test_only("#!/bin/bash\ntrue\n", ["-N2"])
    assert forecast.start is not None
    assert abs(forecast.start - time.time()) < 3600
    with pytest.raises(Refused, match="node configuration is not available"):
        client.test_only("#!/bin/bash\ntrue\n", ["-N99"])


def test_steps_start_from_a_cleaned_environment_anywhere(lab, client):
    """From the batch script and from a task of another step, srun gives the asked layout whatever was inherited."""
    program = lab.shared / "nested.py"
    program.write_text(NESTED)
    root = Path(__file__).parent.parent.parent
    job_id = client.submit(
        f"#!/bin/bash\n{sys.executable} {program} {root} batch\n",
        [
            "-N3",
            "-n3",
            "--ntasks-per-node=1",
            "-c2",
            "--export=NONE",
            f"--output={lab.shared}/nested.out",
            f"--chdir={lab.shared}",
        ],
    )
    wait_state(client, job_id, JobState.COMPLETED, JobState.FAILED)
    assert sorted((lab.shared / "nested.out").read_text().split()) == ["n2", "n2", "n3", "n3"]


def test_controller_that_is_frozen_is_no_answer(lab, client):
    """With slurmctld stopped a read ends at its deadline as ServiceUnavailable, and works again afterwards."""
    pid = lab.login(["pidof", "slurmctld"]).stdout.strip()
    hasty = replace(client, timeout_s=2.0)
    lab.login(["kill", "-STOP", pid])
    try:
        for call in (lambda: hasty.job("1"), lambda: hasty.nodes(["n1"]), hasty.config, lambda: hasty.steps("1")):
            with pytest.raises(ServiceUnavailable):
                call()
    finally:
        lab.login(["kill", "-CONT", pid])
    wait_until(lambda: client.nodes(["n1"]))


def test_cancelling_a_step_of_a_cut_node_does_not_wait(lab, client):
    """With an unreachable node scancel blocks for long; in the background it costs the caller nothing."""
    job_id = client.submit(
        "#!/bin/bash\nsrun --no-kill -n3 sleep 300\n", ["-N3", "-n3", "--no-kill", f"--chdir={lab.shared}"]
    )
    wait_until(lambda: any(step.number == 0 for step in client.steps(job_id)))
    lab.cut("n3")
    done = subprocess.run([sys.executable, "-c", CANCEL, job_id], env=client.environ, timeout=8, check=False)
    assert done.returncode == 0


CANCEL = """
import os, sys
from ftslurm.slurm.client import SlurmClient
SlurmClient().cancel(sys.argv[1] + ".0", "KILL", wait=False)
sys.stdout.flush()
"""

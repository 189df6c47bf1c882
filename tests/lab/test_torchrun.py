"""Ranks that torchrun starts, one task a node: their ends are known one by one, and every attempt has its own world."""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.library import right_digest
from tests.lab.longer import long_test
from tests.lab.processes import Proc
from tests.lab.test_environment import environ_of
from tests.lab.test_recovery import assert_identical, loss_of, state_of
from tests.lab.training import LabRun, await_that, program, script, submit, workplace
from tests.local_ranks import PROGRAMS, run_ranks

pytestmark = pytest.mark.lab

STEPS = 200
BIN = Path(sys.executable).parent
TORCHRUN = [str(BIN / "torchrun"), "--nnodes", "1:4", "--nproc_per_node=7", "--max-restarts", "3", "--rdzv-id", "old"]


def workers(run: LabRun) -> dict[int, Proc]:
    """The processes that torchrun has started for the ranks of the newest attempt, as the real machine sees them."""
    found = {}
    for proc in run.processes("rank", attempt=len(run.launches()) - 1):
        with suppress(OSError):  # it has ended meanwhile
            environ = environ_of(proc.pid)
            if "ROLE_RANK" in environ:
                found[int(environ["RANK"])] = proc
    return found


def worker(run: LabRun, rank: int) -> Proc:
    """One of them."""
    return workers(run)[rank]


def train(lab: Cluster, starter: Sequence[str], *, name: str, nodes: int, steps: int = STEPS, **more: Any) -> LabRun:
    """Submit the neutral DDP loop below a launcher of torch's, with two ranks a node."""
    work = workplace(lab, name, more.get("user"))
    command = [*starter, PROGRAMS / "ddp_counter.py", "--steps", steps, "--progress", work / "progress"]
    given = {"resources": {"ranks_per_node": 2}, "launch": {"launcher": "torchrun"}, **more}
    return submit(lab, list(map(str, command)), name=name, nodes=nodes, work=work, **given)


def worlds(run: LabRun) -> dict[int, set[int]]:
    """The world sizes that the ranks of each attempt have seen."""
    found: dict[int, set[int]] = {}
    for lines in run.progress().values():
        found.setdefault(int(lines[0][3]), set()).add(int(lines[0][2]))
    return found


def undisturbed(folder: Path, size: int) -> Path:
    """The checkpoints of a run of so many ranks that nothing has happened to, without ftslurm and torchrun."""
    argv = [PROGRAMS / "ddp_counter.py", "--steps", STEPS, "--every", 20, "--pace", 0, "--checkpoints", folder]
    assert set(run_ranks([str(word) for word in argv], size, folder / "logs").codes) == {0}
    return folder


def fall(run: LabRun, rank: int) -> None:
    """Kill a rank as soon as there is something to go on from."""
    run.wait("a committed checkpoint", lambda: run.durable() and run.step_of(0) > 25)
    worker(run, rank).send(signal.SIGKILL)


def check_end(run: LabRun, ranks: int) -> None:
    """The run has ended well in a second attempt of so many ranks, which went on from a checkpoint."""
    assert run.wait_end() == ("finished", 0)
    assert run.wait_job() == ("COMPLETED", "0:0")
    assert run.restored_steps()[1] >= 20
    assert len(run.done()) == ranks
    assert len(set(run.done())) == 1
    await_that("nothing is left", lambda: not run.processes(), 30)


def test_a_killed_worker_is_named_and_replaced(lab: Cluster) -> None:
    """A rank below torchrun is killed: the verdict names it, and the next attempt resumes with as many ranks."""
    work = workplace(lab, "torchrun", None)
    command = [*TORCHRUN, str(PROGRAMS / "until_told.py"), "--until", str(work / "enough")]
    run = submit(lab, command, name="torchrun", nodes=2, work=work, launch={"launcher": "torchrun"},
                 resources={"ranks_per_node": 2})  # fmt: skip
    run.wait("a committed checkpoint", run.durable)
    run.wait("every rank", lambda: sorted(workers(run)) == [0, 1, 2, 3])
    worker(run, 3).send(signal.SIGKILL)
    run.wait("the next attempt", lambda: len(run.restored_steps()) == 2)
    assert "rank 3 on n2 was ended by signal 9" in run.said()
    run.wait("as many ranks", lambda: sorted(workers(run)) == [0, 1, 2, 3])
    assert {environ_of(proc.pid)["WORLD_SIZE"] for proc in workers(run).values()} == {"4"}
    run.enough()
    assert run.wait_end() == ("finished", 0)
    assert run.restored_steps()[1] >= 20
    lines = (run.rank_log(1, 0) + run.rank_log(1, 2)).splitlines()
    assert all(any(line.startswith(f"rank {rank} ends at step") for line in lines) for rank in range(4))
    await_that("nothing is left", lambda: not run.processes(), 30)


@long_test("a killed worker is in the default suite")
def test_a_resumed_run_has_the_same_weights(lab: Cluster, tmp_path: Path) -> None:
    """An ordinary user's run of six ranks that lost one ends bit for bit where an undisturbed one ends."""
    run = train(lab, TORCHRUN, name="torchrun-same", nodes=3, user=lab.user)
    fall(run, 2)
    check_end(run, 6)
    assert worlds(run) == {0: {6}, 1: {6}}
    assert_identical(run, undisturbed(tmp_path, 6))


ACCELERATE = [str(BIN / "accelerate"), "launch", "--multi_gpu", "--num_machines", "7", "--num_processes=70",
              "--main_process_ip", "nowhere", "--machine_rank", "6", "--mixed_precision", "no"]  # fmt: skip


def needs_accelerate() -> None:
    """Skip where it is not installed."""
    if importlib.util.find_spec("accelerate") is None:
        pytest.skip("accelerate is not installed: scripts/setup --frameworks")


@long_test("a killed worker is in the default suite")
@pytest.mark.parametrize("starter", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_a_cut_node_leaves_a_smaller_world(lab: Cluster, tmp_path: Path, starter: list[str]) -> None:
    """Without a node the launcher is told of two nodes and four ranks, and training goes on as it would have."""
    if starter is ACCELERATE:
        needs_accelerate()
    run = train(lab, starter, name="launcher-cut", nodes=3)
    run.wait("a committed checkpoint", lambda: run.durable() and run.step_of(0) > 25)
    lab.cut("n2")
    run.wait_step(1, run.step_of(0))
    assert run.launches()[1] == ("n1", "n3")
    await_that("end of the old ranks", lambda: not run.processes("rank", "n2"), story=run.story)
    lab.heal("n2")
    check_end(run, 4)
    assert worlds(run) == {0: {6}, 1: {4}}
    ours = loss_of(state_of(run.root / "checkpoints", STEPS), STEPS)
    theirs = loss_of(state_of(undisturbed(tmp_path, 6), STEPS), STEPS)
    assert ours == pytest.approx(theirs, rel=1e-5)


@long_test("a killed worker of torchrun's is in the default suite")
def test_accelerate_is_told_its_world(lab: Cluster) -> None:
    """`accelerate launch` is rewritten as torchrun is; a killed rank and a smaller world are nothing special."""
    needs_accelerate()
    run = train(lab, ACCELERATE, name="accelerate", nodes=2)
    fall(run, 1)
    check_end(run, 4)
    assert worlds(run) == {0: {4}, 1: {4}}
    assert "rank 1 on n1 was ended by signal 9" in run.said()


@long_test("the same without torchrun is in tests/lab/test_library.py")
def test_a_new_agent_knows_the_workers(lab: Cluster) -> None:
    """An agent dies under four saving ranks: nothing stops; its successor still sees which of them is killed."""
    work = workplace(lab, "torchrun-library", None)
    words = ["--steps", STEPS, "--pace", 0.1, "--progress", work / "progress", "--columns", 4096]
    run = submit(lab, [*TORCHRUN, *map(str, [PROGRAMS / "library_loop.py", *words])], name="torchrun-library", nodes=2,
                 work=work, launch={"launcher": "torchrun"}, resources={"ranks_per_node": 2},
                 checkpoint={"layout": "library", "every": {"steps": 20}, "min_interval": "1s"})  # fmt: skip
    run.wait("a committed checkpoint", run.durable)
    agent = run.only("agent", "n2")
    agent.send(signal.SIGKILL)
    run.wait("another agent", lambda: run.processes("agent", "n2") and run.processes("agent", "n2") != [agent])
    known = set(run.durable())
    run.wait("a new checkpoint", lambda: set(run.durable()) - known)
    assert len(run.launches()) == 1
    run.wait("every rank", lambda: sorted(workers(run)) == [0, 1, 2, 3])
    worker(run, 2).send(signal.SIGKILL)
    assert run.wait_end() == ("finished", 0)
    assert "rank 2 on n2 was ended by signal 9" in run.said()
    assert len(run.launches()) == 2
    assert set(run.done()) == {right_digest(STEPS, 4096)}


STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.environ["FTSLURM_ATTEMPT"] == "0":
    if os.environ["RANK"] == "1":
        raise ValueError("no such sample: 7")
    time.sleep(600)
print("rank", os.environ["RANK"], "of", os.environ["WORLD_SIZE"], "local", os.environ["LOCAL_RANK"])
"""


@long_test("the table of torchrun's summaries is in the default suite")
def test_an_exception_is_told_though_others_hang(lab: Cluster) -> None:
    """A rank raises while another ignores SIGTERM: nobody waits for torchrun, and the exception is the verdict."""
    work = workplace(lab, "stubborn", None)
    (work / "stubborn.py").write_text(STUBBORN)
    launch = {"launcher": "torchrun"}
    run = submit(lab, [*TORCHRUN, str(work / "stubborn.py")], name="stubborn", nodes=1, work=work, launch=launch,
                 resources={"ranks_per_node": 2}, checkpoint={"files": []})  # fmt: skip
    assert run.wait_end() == ("finished", 0)
    assert "rank 1 on n1 exited with code 1 (ValueError: no such sample: 7)" in run.said()
    assert {f"rank {rank} of 2 local {rank}" for rank in (0, 1)} <= set(run.rank_log(1, 0).splitlines())


@long_test("hangs without torchrun are in the default suite")
def test_a_stopped_worker_is_the_odd_one_out(lab: Cluster) -> None:
    """Beats, stacks and the verdict are of single ranks, also where two of them are one task."""
    work = workplace(lab, "torchrun-hang", None)
    command = [*TORCHRUN, str(PROGRAMS / "beating.py"), "--until", str(work / "enough")]
    run = submit(lab, command, name="torchrun-hang", nodes=2, work=work, launch={"launcher": "torchrun"},
                 resources={"ranks_per_node": 2}, progress={"hang_after": "4s"})  # fmt: skip
    run.wait("a committed checkpoint", run.durable)
    worker(run, 3).send(signal.SIGSTOP)
    run.wait("the next attempt", lambda: len(run.restored_steps()) == 2)
    assert "the odd one out is rank 3 on n2: its process is stopped" in run.said()
    paths = run.root.glob("logs/0/autopsy/*.json")
    found = {rank["rank"]: rank for path in paths for rank in json.loads(path.read_text())["ranks"]}
    assert set(found) == {0, 1, 2, 3}
    assert all("all_reduce" in " ".join(found[rank]["frames"]) for rank in (0, 1, 2))
    run.enough()
    assert run.wait_end() == ("finished", 0)


SCRIPT = """
#SBATCH --nodes=2 --ntasks-per-node=1
export FTSLURM_NO_KILL=1 OMP_NUM_THREADS=1
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
ftslurm run --cpus-per-task=1 torchrun --nnodes "$SLURM_NNODES" --nproc_per_node 2 --rdzv_id "$SLURM_JOB_ID" \\
    --rdzv_backend c10d --rdzv_endpoint "$head:29500" {program} --steps {steps} --every 20 \\
    --checkpoints {work}/saved --progress {work}/progress
"""


@long_test("the same is read and rewritten in tests/test_torchrunline.py")
def test_a_script_changes_one_word(lab: Cluster) -> None:
    """`srun torchrun` becomes `ftslurm run torchrun`: world, verdict and resuming are those of four ranks."""
    work = "$PWD"
    text = SCRIPT.format(program=PROGRAMS / "ddp_counter.py", steps=STEPS, work=work)
    job = script(lab, text, "--no-kill", "--requeue", name="one-word", user=lab.user)
    job.wait("a run", job.runs)
    (run,) = job.runs()
    run.wait("a checkpoint of the program's own", (job.work / "saved/step_00000040.pt").exists)
    worker(run, 1).send(signal.SIGKILL)
    assert run.wait_end() == ("finished", 0)
    assert "replaced in the command, for every attempt anew: --nnodes 2 --nproc_per_node 2 --rdzv_id" in job.output()
    assert "rank 1 on n1 was ended by signal 9" in run.said()
    assert worlds(run) == {0: {4}, 1: {4}}
    assert len(run.done()) == 4
    assert {lines[1][1] for lines in run.progress().values() if lines[0][-1] == "1"} != {"0"}


@long_test("what is filled in is tested in tests/test_placeholders.py")
def test_placeholders_are_those_of_the_attempt(lab: Cluster) -> None:
    """A shell's command line gets its numbers from the plan, rank by rank; the shell's own braces stay."""
    work = workplace(lab, "placeholders", None)
    text = (
        "rank=own; echo {nnodes} {world} {node_rank} {rank} {master_addr} {master_port} ${rank}"
        f" > {work}/$SLURM_PROCID"
    )
    run = submit(lab, ["bash", "-c", text], name="placeholders", nodes=2, work=work, checkpoint={"files": []},
                 resources={"ranks_per_node": 2})  # fmt: skip
    assert run.wait_end() == ("finished", 0)
    lines = [(work / str(rank)).read_text().split() for rank in range(4)]
    (port,) = {line[5] for line in lines}
    address = lab.spec.address("n1")
    assert lines == [["2", "4", str(rank // 2), str(rank), address, port, "own"] for rank in range(4)]
    assert port == str(run.actions("ReleaseRanks")[0]["master_port"])


def seen(work: Path, rank: int) -> dict[str, str]:
    """The environment of a rank that has dumped it."""
    found: dict[str, str] = json.loads((work / f"dumps/attempt-0-rank-{rank}.json").read_text())["environ"]
    return found


@long_test("the steps' options are tested in tests/runtime/test_launcher.py")
@pytest.mark.parametrize("starter", [[], [str(BIN / "torchrun")]], ids=["srun", "torchrun"])
def test_all_gpus_are_seen_and_binding_passes_verbatim(lab: Cluster, starter: list[str]) -> None:
    """Each rank sees the eight GPUs of its node, beside agents and ring; what binds it is what the user asks for."""
    work = workplace(lab, "gpus", None)
    dump = program("env_dump", work / "dumps", "--linger", 600)
    launch = {"launcher": "torchrun" if starter else "srun", "srun": ["--cpu-bind=mask_cpu:0x3,0x3", "-mblock:cyclic"]}
    run = submit(lab, [*starter, *dump[1:]] if starter else dump, name="gpus", nodes=2, work=work, launch=launch,
                 resources={"ranks_per_node": 2, "gpus_per_node": 8}, checkpoint={"files": []})  # fmt: skip
    run.wait("four ranks", lambda: len(list((work / "dumps").glob("*.json"))) == 4)
    eight = ",".join(map(str, range(8)))
    for rank in range(4):
        environ = seen(work, rank)
        assert environ["CUDA_VISIBLE_DEVICES"] == eight
        assert environ["LOCAL_RANK"] == str(rank % 2)
        assert environ["SLURM_CPU_BIND_LIST"] == "3,3"
        assert environ["SLURM_DISTRIBUTION"] == "block:cyclic"
    assert {environ_of(proc.pid).get("CUDA_VISIBLE_DEVICES") for proc in run.processes("agent")} == {eight}
    run.wait("the ring, too", lambda: len(run.processes("ring")) == 2)

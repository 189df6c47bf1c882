"""Which run a call of `ftslurm run` belongs to, and what it takes from the allocation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ftslurm.adoption import adopt
from ftslurm.config import load
from ftslurm.errors import UsageError
from ftslurm.paths import RunPaths
from ftslurm.slurm.env import job_from_env

ALLOCATION = {
    "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-4]", "SLURM_JOB_NUM_NODES": "4", "SLURM_NTASKS": "8",
    "SLURM_TASKS_PER_NODE": "2(x4)", "SLURM_JOB_NAME": "my job",
}  # fmt: skip
Call = Callable[..., RunPaths]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Make one `ftslurm run` call; `job` changes what Slurm says of the allocation."""
    monkeypatch.setenv("FTSLURM_HOME", str(tmp_path / "home"))

    def adopted(*words: str, run_name: str | None = None, **job: str) -> RunPaths:
        return adopt(
            words, job_from_env({**ALLOCATION, **job}), file=None, run_name=run_name, run_root=tmp_path / "runs"
        )

    return adopted


def test_calls_of_a_script_are_runs_that_a_requeued_job_finds_again(call):
    """Two calls are two runs, also of one command; after a requeue each finds its own; another job finds none."""
    runs = [call("a").root, call("a").root, call("b").root]
    assert len(set(runs)) == 3
    assert [call(name, SLURM_RESTART_COUNT="1").root for name in ("a", "a", "b")] == runs
    assert call("a", SLURM_JOB_ID="8").root not in runs


def test_tasks_of_an_array_are_runs_of_their_own(call):
    """Each task of an array has its own run, although the command is the same."""
    tasks = [call("a", SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID=task).root for task in "12"]
    assert tasks[0] != tasks[1]


def test_a_named_run_is_found_by_its_name(call):
    """A command that is never twice the same (a date in it, say) finds its run again by --run-name."""
    first = call("train", "--at", "10:00", run_name="gpt")
    assert call("train", "--at", "11:00", run_name="gpt", SLURM_RESTART_COUNT="1").root == first.root
    assert call("train", "--at", "11:00", SLURM_RESTART_COUNT="1").root != first.root
    assert load(first.config).name == "gpt"


@pytest.mark.parametrize(
    ("line", "nodes", "ranks"),
    [
        ((), 4, 2),
        (("-N2", "-n2"), 2, 1),
        (("--ntasks-per-node=3",), 4, 3),
        (("-N", "2"), 2, 1),
        (("-N", "9", "-n", "8"), 4, 2),
    ],
)
def test_the_world_is_that_of_srun(call, line, nodes, ranks):
    """Nodes and ranks come from the options, then from the allocation; never more nodes than there are."""
    config = load(call(*line, "--cpu-bind=none", "a b").config)
    assert (config.resources.nodes, config.resources.ranks_per_node) == ((nodes, nodes), ranks)
    assert config.command == ("a b",)
    assert config.launch.srun == ("--cpu-bind=none",)
    assert config.name == "my-job"


def test_what_cannot_be_a_run_is_refused(call):
    """No command, and ranks that cannot be spread evenly."""
    with pytest.raises(UsageError, match="no command"):
        call("-N2")
    with pytest.raises(UsageError, match="spread evenly"):
        call("-n7", "a")


@pytest.mark.parametrize(("words", "gpus"), [(("-G", "8"), 2), (("--gpus-per-node", "3", "-G8"), 3), ((), 0)])
def test_gpus_in_all_are_so_many_on_every_node(call, words, gpus):
    """Srun's total would be wrong for a smaller world."""
    assert load(call(*words, "train").config).resources.gpus_per_node == gpus


def test_gpus_that_do_not_divide_are_refused(call):
    """Rounding would leave a GPU without a rank, or a rank without a GPU."""
    with pytest.raises(UsageError, match="6 GPUs cannot be spread evenly over 4 nodes"):
        call("-G6", "train")


def test_tasks_of_an_array_are_one_run_in_a_chain(call):
    """With --chain the tasks join one run; two commands are two runs all the same; another array finds none."""
    array = {"SLURM_ARRAY_JOB_ID": "7", "FTSLURM_CHAIN": "1"}
    tasks = [call("a", SLURM_ARRAY_TASK_ID=task, SLURM_JOB_ID=f"1{task}", **array).root for task in "12"]
    assert tasks[0] == tasks[1]
    assert call("b", SLURM_ARRAY_TASK_ID="1", SLURM_JOB_ID="11", **array).root != tasks[0]
    assert (
        call("a", SLURM_ARRAY_TASK_ID="1", SLURM_JOB_ID="21", SLURM_ARRAY_JOB_ID="20", FTSLURM_CHAIN="1").root
        not in tasks
    )


def test_jobs_with_the_same_mark_are_one_run(call):
    """Jobs that were submitted as a chain from a script share its mark; it stands in no path as it is."""
    jobs = [call("a", SLURM_JOB_ID=job, FTSLURM_CHAIN="gpt.1").root for job in ("8", "9")]
    assert jobs[0] == jobs[1]
    with pytest.raises(UsageError, match="cannot be the name of a chain"):
        call("a", FTSLURM_CHAIN="../x")


@pytest.mark.parametrize(
    ("line", "ranks"),
    [
        (("--ntasks-per-node=1", "-c", "10", "torchrun", "--nproc-per-node=4", "t.py"), 4),
        (("-N2", "--gpus-per-node=8", "-c10", "--", "python", "-m", "torch.distributed.run", "--nproc_per_node=gpu", "t"), 8),
        (("-c10", "accelerate", "launch", "--num_processes", "12", "--num_machines", "4", "t.py"), 3),
    ],
)  # fmt: skip
def test_torchrun_says_how_many_ranks_a_node_has(call, line, ranks):
    """What `srun torchrun` gave a task stays the task's: the ranks are torchrun's, and the cores are given as they were."""
    config = load(call(*line).config)
    assert config.launch.launcher == "torchrun"
    assert config.resources.ranks_per_node == ranks
    assert config.tasks_per_node == 1
    assert config.resources.cpus_per_rank is None
    assert config.launch.srun[-1] == "--cpus-per-task=10"

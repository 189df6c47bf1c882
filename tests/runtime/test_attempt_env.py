from __future__ import annotations

import pytest

from ftslurm.runtime.attempt_env import (
    CHECKPOINT,
    CHECKPOINT_TAG,
    World,
    command,
    of_all,
    of_rank,
    placed,
    resume_args,
    stale,
    tracker_of,
)

STALE = {
    "SLURM_NODELIST": "n[1-4]", "SLURM_JOB_NODELIST": "n[1-4]", "SLURM_JOB_NUM_NODES": "4", "MASTER_ADDR": "n2",
    "MASTER_PORT": "1", "WORLD_SIZE": "8", "RANK": "7", "TORCHELASTIC_RESTART_COUNT": "0",
}  # fmt: skip


def world(attempt: int = 1, *, restored: bool = True) -> World:
    """Two nodes with two ranks each, after n2 was lost; Slurm's order of ranks is not that of nodes."""
    return World(
        run_id="gpt-1", run_dir="/shared/gpt-1", attempt=attempt, placement=("n3", "n1", "n1", "n3"),
        master_addr="10.0.0.3", master_port=25017, step=40, restored=restored,
    )  # fmt: skip


def test_nothing_of_an_earlier_world_is_left():
    """Each name that tells of the world is written anew; the first node of the list is that of rank 0."""
    told = {**STALE, **of_all(world(), STALE), **of_rank(world(), 2)}
    assert {name: told[name] for name in STALE} == {
        "SLURM_NODELIST": "n[3,1]", "SLURM_JOB_NODELIST": "n[3,1]", "SLURM_JOB_NUM_NODES": "2", "MASTER_ADDR": "10.0.0.3",
        "MASTER_PORT": "25017", "WORLD_SIZE": "4", "RANK": "2", "TORCHELASTIC_RESTART_COUNT": "1",
    }  # fmt: skip


def test_places_follow_the_ranks_that_came_up():
    """Local ranks and node ranks are counted in the order of ranks on their nodes, not in that of the node list."""
    names = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK")
    rows = [tuple(int(of_rank(world(), rank)[name]) for name in names) for rank in range(4)]
    assert rows == [(0, 0, 2, 0, 0), (1, 0, 2, 1, 1), (2, 1, 2, 1, 1), (3, 1, 2, 0, 0)]


@pytest.mark.parametrize("name", ["WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_RESUME", "TENSORBOARD_LOGGING_DIR"])
def test_trackers_keep_their_run_over_attempts(name):
    """W&B's run id and TensorBoard's folder are the same for every attempt, and the user's own where there is one."""
    first, second = (of_all(world(attempt), {}) for attempt in (0, 1))
    assert first[name] == second[name]
    assert name not in of_all(world(), {name: "the user's own"})


def test_ranks_never_share_a_run_of_a_tracker():
    """Rank 0 writes into the run's own; each other rank, if it writes at all, into one of its own, in every attempt."""
    ids = [[of_all(world(n), {})["WANDB_RUN_ID"], *(tracker_of(world(n), r, {}).get("WANDB_RUN_ID") for r in range(3))]
           for n in (0, 1)]  # fmt: skip
    assert ids[0] == ids[1] == ["gpt-1", None, "gpt-1-rank1", "gpt-1-rank2"]
    assert tracker_of(world(), 1, {"WANDB_RUN_ID": "the user's own"}) == {}


def test_a_checkpoint_is_handed_over_only_where_there_is_one():
    """Without one the names of an outer run are taken away, and the arguments for resuming are left out."""
    assert of_all(world(), {})["FTSLURM_RESTORE_STEP"] == "40"
    assert "FTSLURM_RESTORE_STEP" not in of_all(world(restored=False), {})
    assert set(stale(world(restored=False))) == {CHECKPOINT, CHECKPOINT_TAG, "FTSLURM_RESTORE_STEP"}
    assert stale(world()) == ()
    handed = {CHECKPOINT: "/c 1", CHECKPOINT_TAG: "t7"}
    asked = ["--resume", "{checkpoint}", "{tag}"]
    assert command(["t", "{checkpoint}"], asked, handed) == ["t", "/c 1", "--resume", "/c 1", "t7"]
    assert command(["t"], asked, {}) == ["t"]


def test_the_step_is_that_of_the_checkpoint():
    """`{step}` is a number in the arguments for resuming; in the command it is the program's own template."""
    asked = resume_args(["--ckpt-step", "{step}", "--load={step}/{checkpoint}"], world())
    assert asked == ["--ckpt-step", "40", "--load=40/{checkpoint}"]
    assert command(["t", "model_{step}.pt"], asked, {CHECKPOINT: "/c"}) == [
        "t", "model_{step}.pt", "--ckpt-step", "40", "--load=40//c",
    ]  # fmt: skip


def test_torchrun_is_told_its_place():
    """The world is that of the attempt, the node's rank that of its first rank; nothing of torch's is inherited."""
    told = {**of_all(world(), {}), **of_rank(world(), 1)}
    line = ["torchrun", "--nnodes=1:4", "train.py", "{world}", "{rank}"]
    assert placed(line, told, starts_ranks=True) == [
        "torchrun", "--nnodes=2", "--nproc_per_node=2", "--node_rank=1", "--rdzv_backend=static",
        "--rdzv_endpoint=10.0.0.3:25017", "--rdzv_id=gpt-1-1", "--max_restarts=0", "train.py", "4", "1",
    ]  # fmt: skip
    assert placed(line, told, starts_ranks=False) == ["torchrun", "--nnodes=1:4", "train.py", "4", "1"]
    assert {"PET_STANDALONE", "PET_NNODES", "PET_RDZV_ENDPOINT"} <= set(stale(world(), starts_ranks=True))

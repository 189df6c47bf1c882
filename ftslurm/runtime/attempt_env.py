"""The environment of an attempt: written from the plan, never inherited.

Slurm leaves names of lost nodes in every later step (measured on 22.05 and 24.11: SLURM_NODELIST, SLURM_JOB_NODELIST
and SLURM_JOB_NUM_NODES keep the lost node), and a MASTER_ADDR that the user's script has set points to wherever it
pointed when the job began. Half of all training scripts read these, so the rank wrapper sets them all anew. Trackers'
run ids are only set where the user has not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ftslurm import placeholders, torchrunline
from ftslurm.checkpoint.handover import (
    ATTEMPT,
    CHECKPOINT,
    CHECKPOINT_DIR,
    CHECKPOINT_TAG,
    END_TIME,
    MTBF_S,
    RUN_DIR,
    RUN_ID,
    SAVE_POLICY,
    STORE_SOCKET,
)
from ftslurm.core.placement import local_ranks, node_ranks
from ftslurm.slurm import env, nodeset

# What the library reads has its names from there; the others are those of the rank's wrapper and of the agent.
__all__ = [
    "ATTEMPT",
    "CHECKPOINT",
    "CHECKPOINT_DIR",
    "CHECKPOINT_TAG",
    "END_TIME",
    "MTBF_S",
    "RUN_DIR",
    "RUN_ID",
    "SAVE_POLICY",
    "STORE_SOCKET",
    "World",
    "command",
    "of_all",
    "of_rank",
    "resume_args",
    "stale",
    "tracker_of",
]

LOCAL_DIR = "FTSLURM_LOCAL_DIR"
LAUNCHER = "FTSLURM_LAUNCHER"
ROLE = "FTSLURM_ROLE"
ORPHAN_AFTER = "FTSLURM_ORPHAN_AFTER"
RESTORE_STEP = "FTSLURM_RESTORE_STEP"
RANKS_PER_TASK = "FTSLURM_RANKS_PER_TASK"
WANDB_RUN_ID = "WANDB_RUN_ID"
_PLACEHOLDERS = {
    "nnodes": env.JOB_NUM_NODES,
    "world": env.WORLD_SIZE,
    "master_addr": env.MASTER_ADDR,
    "master_port": env.MASTER_PORT,
    "node_rank": env.NODE_RANK,
    "rank": env.RANK,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The world of an attempt, as it has mustered."""

    run_id: str
    run_dir: str
    attempt: int
    placement: tuple[str, ...]
    master_addr: str
    master_port: int
    step: int
    restored: bool


def of_rank(world: World, rank: int) -> dict[str, str]:
    """Return the variables of one rank that differ between ranks."""
    node = world.placement[rank]
    index = str(node_ranks(world.placement)[node])
    return {
        env.RANK: str(rank),
        env.LOCAL_RANK: str(local_ranks(world.placement)[rank]),
        env.LOCAL_WORLD_SIZE: str(world.placement.count(node)),
        env.GROUP_RANK: index,
        env.NODE_RANK: index,
    }


def of_all(world: World, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are the same for every rank; `inherited` is what the ranks have without us."""
    nodes = tuple(dict.fromkeys(world.placement))
    folded = nodeset.fold(nodes)
    common = {
        env.WORLD_SIZE: str(len(world.placement)),
        env.MASTER_ADDR: world.master_addr,
        env.MASTER_PORT: str(world.master_port),
        env.TORCHELASTIC_RUN_ID: f"{world.run_id}-{world.attempt}",
        env.TORCHELASTIC_RESTART_COUNT: str(world.attempt),
        env.NODELIST_OLD: folded,
        env.JOB_NODELIST: folded,
        env.JOB_NUM_NODES: str(len(nodes)),
        RUN_ID: world.run_id,
        RUN_DIR: world.run_dir,
        ATTEMPT: str(world.attempt),
    }
    if world.restored:
        common[RESTORE_STEP] = str(world.step)
    return common | {name: value for name, value in _trackers(world).items() if name not in inherited}


def of_library(policy: str, mtbf_s: float, end_time: float | None) -> dict[str, str]:
    """Return what decides when `ftslurm.training` saves; nothing without a policy, in the files layout."""
    if not policy:
        return {}
    known = {} if end_time is None else {END_TIME: f"{end_time:.0f}"}
    return {SAVE_POLICY: policy, MTBF_S: f"{mtbf_s:.0f}", **known}


def stale(world: World, *, starts_ranks: bool = False) -> tuple[str, ...]:
    """Return the names that must not reach the ranks of this attempt; `starts_ranks`: nor torchrun."""
    others = torchrunline.ENVIRONMENT if starts_ranks else ()
    return others if world.restored else (*others, CHECKPOINT, CHECKPOINT_TAG, RESTORE_STEP)


def tracker_of(world: World, rank: int, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return what a rank's tracker needs of its own: two processes must not write into one run of W&B.

    Where only rank 0 opens one, as usual, that is the run's; where all do, each goes on with its own, in one group.
    """
    if rank == 0 or WANDB_RUN_ID in inherited:
        return {}
    return {WANDB_RUN_ID: f"{world.run_id}-rank{rank}"}


def _trackers(world: World) -> dict[str, str]:
    """W&B joins the same run by id (docs: WANDB_RESUME=allow); transformers' TensorBoard callback reads its folder."""
    return {
        WANDB_RUN_ID: world.run_id,
        "WANDB_RUN_GROUP": world.run_id,
        "WANDB_RESUME": "allow",
        "TENSORBOARD_LOGGING_DIR": f"{world.run_dir}/tensorboard",
        "PYTHONUNBUFFERED": "1",
    }


def resume_args(arguments: Sequence[str], world: World) -> list[str]:
    """Return the arguments for resuming with the step of the checkpoint in them.

    `{step}` is filled in here only: in a command it often is a template of the program's own, as in
    `--save-to model_{step}.pt`.
    """
    return [argument.replace("{step}", str(world.step)) for argument in arguments]


def command(argv: Sequence[str], resume_args: Sequence[str], handed: Mapping[str, str]) -> list[str]:
    """Return the program's command for an attempt: with the arguments for resuming where there is a checkpoint."""
    whole = [*argv, *resume_args] if handed else list(argv)
    checkpoint, tag = handed.get(CHECKPOINT, ""), handed.get(CHECKPOINT_TAG, "")
    return [argument.replace("{checkpoint}", checkpoint).replace("{tag}", tag) for argument in whole]


def placed(argv: Sequence[str], environ: Mapping[str, str], *, starts_ranks: bool) -> list[str]:
    """Return the command with what only this attempt knows: placeholders, and the world of a command like torchrun.

    `environ` are the rank's own variables, or those of the first rank of a node whose command `starts_ranks`.
    """
    line = torchrunline.read(argv, anywhere=True) if starts_ranks else None
    if line is not None:
        place = torchrunline.Place(
            nnodes=int(environ[env.JOB_NUM_NODES]),
            processes=int(environ[env.LOCAL_WORLD_SIZE]),
            node_rank=environ[env.NODE_RANK],
            master_addr=environ[env.MASTER_ADDR],
            master_port=environ[env.MASTER_PORT],
            run_id=environ[env.TORCHELASTIC_RUN_ID],
        )
        argv = line.rewritten(place)
    return placeholders.filled(argv, {name: environ[variable] for name, variable in _PLACEHOLDERS.items()})

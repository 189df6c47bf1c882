"""What a training script imports: checkpoints that survive, and word of how far the training is.

    from ftslurm.training import attach

    run = attach(model=model, optimizer=optimizer, scheduler=scheduler, sampler=sampler, every="10m")
    step = run.restore() or 0                  # the step of the newest checkpoint; None where there is none
    while step < steps and not run.should_stop():
        loss = train_step(batch(step))
        step += 1
        run.step(step, loss=loss)              # says how far it is, decides, saves: milliseconds of waiting
    run.close()                                # waits for the last save

The same script runs as plain `python train.py`, under torchrun, mpirun and srun, and under ftslurm, which then keeps
the checkpoints, copies them and restores them, and says where they go and when. What is kept: model and optimizer (also
DDP and FSDP2), scheduler, scaler, sampler, random numbers, and what is in `extra`: numbers, texts, lists, dicts, NumPy
arrays, tensors, objects with state_dict and load_state_dict, a `Shard` of a global array, a `PerRank` value. Programs
with mpi4py and NumPy give `extra=` and `comm=`, and need no torch. All ranks call the same methods in the same order.

For programs that save by themselves, progress is enough; a save, load or evaluation has a patience of its own:

    from ftslurm.training import beat, phase

    beat(step, loss=loss)                      # microseconds; the loss is a number, not a tensor on a GPU
    with phase("save"):
        save()

Outside of ftslurm these two do nothing. They never raise and never block. Importing this needs neither NumPy nor torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftslurm.beats import beat, phase

if TYPE_CHECKING:
    from ftslurm.checkpoint.arrays import Shard
    from ftslurm.core.savepolicy import SavePolicy
    from ftslurm.library.run import Run
    from ftslurm.library.state import PerRank

__all__ = ["PerRank", "Run", "Shard", "attach", "beat", "phase"]


def attach(  # noqa: PLR0913 - one keyword for each kind of state
    *,
    model: Any = None,  # noqa: ANN401
    optimizer: Any = None,  # noqa: ANN401
    scheduler: Any = None,  # noqa: ANN401
    scaler: Any = None,  # noqa: ANN401
    sampler: Any = None,  # noqa: ANN401
    extra: Mapping[str, Any] | None = None,
    folder: str | os.PathLike[str] = "checkpoints",
    every: int | str | Mapping[str, Any] | SavePolicy | None = None,
    keep_last: int = 3,
    seed: int = 0,
    comm: Any = None,  # noqa: ANN401
) -> Run:
    """Say what has to survive; all ranks call it, once everything that is given here exists.

    Args:
        model: a module (plain, DistributedDataParallel, fully_shard), or several by name.
        optimizer: one, or several by name or in a list.
        scheduler: anything with state_dict and load_state_dict; so are scaler and sampler.
        scaler: of mixed precision.
        sampler: `ftslurm.sampling.GlobalSampler`, or another one; the same position on all ranks.
        extra: further values by name; see above. After a restore `run.extra` holds them.
        folder: where checkpoints go without ftslurm; under ftslurm it says so.
        every: when to save without ftslurm: a number of steps, a time ("10m"), "auto", or several: {"steps": 1000,
            "time": "30m", "epoch": True, "metric": {"name": "loss", "mode": "min"}}. Left out: "auto".
        keep_last: how many checkpoints stay without ftslurm.
        seed: random numbers begin anew from it where the number of ranks changes.
        comm: the communicator of a program with mpi4py.

    Raises:
        UsageError: something that cannot be kept; ranks that differ; ranks without a way to talk.
        StorageError: the folder cannot be used.
    """
    from ftslurm.library.run import Run, Setup
    from ftslurm.library.state import Parts

    parts = Parts(model, optimizer, scheduler, scaler, sampler, dict(extra or {}))
    setup = Setup(folder=Path(folder), every=every, keep_last=keep_last, seed=seed, comm=comm)
    return Run(parts, setup, os.environ)


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """`Shard` needs NumPy, so it is imported when it is asked for."""
    if name == "Shard":
        from ftslurm.checkpoint.arrays import Shard

        return Shard
    if name in {"PerRank", "Run"}:
        from ftslurm.library import run, state

        return state.PerRank if name == "PerRank" else run.Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The training's job step as a configuration asks for it; and in words, before anything is submitted."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from ftslurm import torchrunline
from ftslurm.paths import LocalPaths
from ftslurm.runtime import container, launcher

if TYPE_CHECKING:
    from ftslurm.config import Config


def training(config: Config, run_id: str, attempt: int, nodes: tuple[str, ...]) -> launcher.Ranks:
    """Return what the launcher is asked for in an attempt on these nodes."""
    return launcher.Ranks(
        run_id=run_id,
        attempt=attempt,
        nodes=nodes,
        ranks_per_node=config.resources.ranks_per_node,
        local_dir=str(LocalPaths.of(run_id).root),
        command=tuple(config.command),
        mpi=config.launch.mpi,
        cpus_per_rank=config.resources.cpus_per_rank,
        gpus_per_node=config.resources.gpus_per_node,
        options=tuple(config.launch.srun),
        orphan_after_s=2 * config.heartbeat.deadman_after,
        starts_ranks=config.launch.launcher == "torchrun",
    )


def preview(config: Config, run_id: str, nodes: tuple[str, ...] = ()) -> list[str]:
    """Return the command lines of attempt 0 on these nodes; left out: on as many as there may be, node1 and so on."""
    nodes = nodes or tuple(f"node{number}" for number in range(1, config.resources.nodes[1] + 1))
    step = launcher.step(config.launch.launcher, training(config, run_id, 0, nodes), os.environ)
    said = [f"training step: {shlex.join(step.argv)}", *container.shown(config.launch)]
    line = torchrunline.read(config.command, anywhere=True) if config.launch.launcher == "torchrun" else None
    if line is None:
        return said
    place = torchrunline.Place(
        nnodes=len(nodes),
        processes=config.resources.ranks_per_node,
        node_rank=0,
        master_addr=nodes[0],
        master_port="PORT",
        run_id=f"{run_id}-0",
    )
    said.append(f"on {nodes[0]}, attempt 0: {shlex.join(line.rewritten(place))}")
    return [*said, *replaced(line)]


def replaced(line: torchrunline.TorchrunLine) -> list[str]:
    """Say which of the user's own words are not used; nothing where there are none."""
    words = line.replaced()
    return [f"replaced in the command, for every attempt anew: {shlex.join(words)}"] if words else []

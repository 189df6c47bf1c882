"""More that may go wrong in `tests.core.world`: what agents and the program say of an illness, and clocks that jump."""

from __future__ import annotations

from collections.abc import Callable

from ftslurm.core.conditions import MemoryKilled, NodeHealth, XidSeen
from ftslurm.core.events import NodeHeard, NodeSuspected
from ftslurm.core.fabric import FabricSilent
from ftslurm.core.health import Consequence, Level
from ftslurm.core.symptoms import LossAlarm, StragglerSeen
from tests.core.stage import UP, Node
from tests.core.world import World

Strike = Callable[[World, Node, float], None]
GPU_MEMORY = '  File "train.py", line 7\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.'


def attempt_on(world: World, node: Node) -> int | None:
    """The attempt whose ranks train on a node just now."""
    attempt = world.run.attempt
    if attempt is None or not attempt.released or node.state != UP or attempt.number not in node.ranks:
        return None
    return attempt.number


def _out_of_memory(world: World, node: Node, for_s: float) -> None:
    """The kernel kills a rank for memory, and the agent has seen it."""
    del for_s
    number = attempt_on(world, node)
    if number is not None:
        world.from_node(node.name, 0.1, MemoryKilled(node=node.name, kills=1, attempt=number))
        world.lose_ranks(node, 137, "")


def _gpu_memory(world: World, node: Node, for_s: float) -> None:
    del for_s
    world.lose_ranks(node, 1, GPU_MEMORY)


def _sick(metric: str, level: Level, action: Consequence) -> Strike:
    """A probe finds something bad, and after `for_s` seconds it is over, unless the node was given up for it."""

    def strike(world: World, node: Node, for_s: float) -> None:
        if node.state != UP or not node.agent or node.name not in world.run.nodes:
            return
        node.ill = node.ill or action is Consequence.EXCLUDE
        bad = NodeHealth(node=node.name, level=level, metric=metric, reason=f"{metric} is bad", action=action)
        well = NodeHealth(node=node.name, level=Level.HEALTHY, metric=metric, reason=f"{metric} is well")
        world.from_node(node.name, 0.1, bad)
        world.from_node(node.name, for_s, well)

    return strike


def _xid(code: int) -> Strike:
    def strike(world: World, node: Node, for_s: float) -> None:
        del for_s
        node.ill = node.ill or (code == 79 and node.state == UP)
        world.from_node(node.name, 0.1, XidSeen(node=node.name, gpu="0000:3b:00", xid=code))

    return strike


def _nan(world: World, node: Node, for_s: float) -> None:
    del for_s
    number = attempt_on(world, node)
    if number is not None:
        step = max(world.run.newest_step, 0) + 5
        world.from_supervisor(0.1, LossAlarm(attempt=number, kind="nan", rank=0, step=step, value="nan"))


def _straggler(world: World, node: Node, for_s: float) -> None:
    del for_s
    number = attempt_on(world, node)
    if number is not None:
        slow = StragglerSeen(
            attempt=number, rank=0, node=node.name, own_s=0.9, median_s=0.2, score=40.0, windows=5
        )  # fmt: skip
        world.from_supervisor(50.0, slow)


def _lossy(world: World, node: Node, for_s: float) -> None:
    """Beats of a healthy node come unevenly: it is suspected again and again, and heard again soon."""
    epoch = world.epoch

    def miss(times: int) -> None:
        if epoch != world.epoch or node.state != UP or not node.agent:
            return
        suspected = NodeSuspected(node=node.name, silent_s=6.5, phi=9.0, patience=2.0, peers=len(world.names))
        world.happen(suspected)
        world.from_supervisor(1.0, NodeHeard(node=node.name))
        if times:
            world.later(max(for_s / 4, 3.0), lambda: miss(times - 1))

    world.later(3.0, lambda: miss(4))


def _fabric(world: World, node: Node, for_s: float) -> None:
    del for_s
    world.from_supervisor(4.0, FabricSilent(node=node.name, by=world.names[0], silent_s=4.0, others=2, of=2))


def _clock(by_s: float) -> Strike:
    """The wall clock of the supervisor's host jumps; monotonic ones do not."""

    def strike(world: World, node: Node, for_s: float) -> None:
        del node, for_s
        world.wall_s += by_s

    return strike


ILLS: dict[str, Strike] = {
    "clock_back": _clock(-7200.0),
    "clock_forward": _clock(7200.0),
    "compute_wrong": _sick("compute_wrong", Level.FAILED, Consequence.EXCLUDE),
    "fabric": _fabric,
    "gpu_lost": _sick("gpu_lost", Level.FAILED, Consequence.EXCLUDE),
    "gpu_memory": _gpu_memory,
    "lossy": _lossy,
    "nan": _nan,
    "out_of_memory": _out_of_memory,
    "scratch_full": _sick("scratch_free", Level.CRITICAL, Consequence.AVOID),
    "straggler": _straggler,
    "xid_of_the_gpu": _xid(79),
    "xid_of_the_program": _xid(31),
}

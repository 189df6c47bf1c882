"""What may go wrong in `tests.core.world`: each fault is a moment, a kind, a node and a duration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ftslurm.core.events import (
    ENDED,
    AgentLost,
    GenerationDurable,
    NodeHeard,
    NodeSuspected,
    Phase,
    SlurmReported,
    StopRequested,
)
from ftslurm.core.symptoms import RanksStalled
from tests.core.ills import ILLS
from tests.core.stage import CUT, DEAD, FROZEN, UP, Node
from tests.core.world import World

SUSPECT_AFTER_S = 3.0
DEADMAN_S = 10.0


@dataclass(frozen=True)
class Fault:
    """At `at_s` seconds of the run something happens to the node of index `which`, for `for_s` seconds."""

    at_s: float
    kind: str
    which: int = 0
    for_s: float = 30.0

    def strike(self, world: World) -> None:
        """Let it happen."""
        if world.run.phase not in ENDED:
            names = world.names
            KINDS[self.kind](world, world.nodes[names[self.which % len(names)]], self.for_s)


def _silence(world: World, node: Node, state: str, for_s: float) -> None:
    """A node is cut off or frozen; it is missed after a while, and back after `for_s`."""
    if node.state != UP:
        return
    node.state, node.bad_since = state, world.now
    epoch, life = world.epoch, node.life

    def missed() -> None:
        if node.state == state and node.agent and node.life == life and epoch == world.epoch:
            world.happen(NodeSuspected(node=node.name, silent_s=3.1, phi=9.0, peers=len(world.names)))

    world.later(SUSPECT_AFTER_S, missed)
    world.later(for_s, lambda: _back(world, node, state, for_s))


def _back(world: World, node: Node, state: str, for_s: float) -> None:
    if node.state != state:
        return
    node.state, node.bad_since, node.well_since = UP, None, world.now
    killed = node.ranks if state == CUT and for_s > DEADMAN_S else set()
    attempt = world.run.attempt
    for number in list(killed):
        placement = attempt.placement if attempt is not None and attempt.number == number else ()
        world.end_ranks(node, number, placement, 137, "killed by its own agent")
    if node.agent and node.name in world.run.agents:
        world.happen(NodeHeard(node=node.name))
    elif node.agent:
        world.from_node(node.name, 0.2, world._up(node))


def _cut(world: World, node: Node, for_s: float) -> None:
    _silence(world, node, CUT, for_s)


def _freeze(world: World, node: Node, for_s: float) -> None:
    _silence(world, node, FROZEN, for_s)


def _power_off(world: World, node: Node, for_s: float) -> None:
    del for_s
    if node.state == DEAD:
        return
    connected = node.state == UP and node.agent
    node.state, node.agent, node.ranks, node.life = DEAD, False, set(), node.life + 1
    node.bad_since = world.now
    if connected:
        world.from_supervisor(0.1, AgentLost(node=node.name, reason="reset"))


def _kill_agent(world: World, node: Node, for_s: float) -> None:
    del for_s
    if node.state == UP and node.agent:
        node.agent, node.life = False, node.life + 1
        world.from_supervisor(0.1, AgentLost(node=node.name, reason="reset"))


def _kill_ranks(world: World, node: Node, for_s: float) -> None:
    del for_s
    world.lose_ranks(node, 137, "")


def _program_error(world: World, node: Node, for_s: float) -> None:
    del for_s
    world.lose_ranks(node, 1, '  File "train.py", line 7\nValueError: nan')


def _hang(world: World, node: Node, for_s: float) -> None:
    """A rank stands still, and the others with it: the supervisor's watch says so, again and again."""
    del for_s
    attempt = world.run.attempt
    if attempt is None or not attempt.released or node.name not in attempt.nodes or attempt.number not in node.ranks:
        return
    world.hung, number = (attempt.number, node.name), attempt.number
    node.hangs += 1

    def watch() -> None:
        now = world.run.attempt
        if now is not None and now.number == number and not now.fencing and world.run.phase not in ENDED:
            if world.run.phase is Phase.TRAINING:
                ranks = tuple(range(now.world_size))
                stall = RanksStalled(
                    attempt=number, ranks=ranks, count=now.world_size, phase="step", silent_s=25.0, limit_s=20.0
                )
                world.happen(replace(stall, step=int(world.now)))
            world.later(10.0, watch)

    world.later(25.0, watch)


def _storage(world: World, node: Node, for_s: float) -> None:
    del node
    world.storage_back = world.now + for_s


def _slurmctld(world: World, node: Node, for_s: float) -> None:
    del node
    world.slurmctld_back = world.now + for_s


def _damage(world: World, node: Node, for_s: float) -> None:
    del node, for_s
    if world.store:
        world.damaged.add(max(world.store))


def _supervisor(world: World, node: Node, for_s: float) -> None:
    del node, for_s
    world.restart_supervisor()


def _supervisor_in_action(world: World, node: Node, for_s: float) -> None:
    del node, for_s
    world.dies_at_next_action = True


def _unkillable(world: World, node: Node, for_s: float) -> None:
    node.unkillable_until = world.now + for_s
    _kill_ranks(world, node, for_s)


def _torn_save(world: World, node: Node, for_s: float) -> None:
    """A rank is killed in the middle of the next save: its node's part is never finished."""
    del for_s
    world.torn_next.append(node.name)


def _excise(world: World, node: Node, for_s: float) -> None:
    del for_s
    if world.no_kill and world.run.phase is not Phase.REQUEUED:
        node.bad_since = world.now - 1e6
        world.happen(SlurmReported(job_state="RUNNING", gone=(node.name,)))


def _time_limit(world: World, node: Node, for_s: float) -> None:
    del node, for_s
    world.happen(StopRequested(why="time_limit", save=True))


def _cancel(world: World, node: Node, for_s: float) -> None:
    del node, for_s
    world.happen(StopRequested(why="cancel", save=False))


def _stray_word(world: World, node: Node, for_s: float) -> None:
    """Old words that come late: a commit that is known already, a node that nobody suspects."""
    del for_s
    for name in world.store:
        world.happen(GenerationDurable(generation=name, digest="d"))
    world.happen(NodeHeard(node=node.name))


KINDS: dict[str, Callable[[World, Node, float], None]] = {
    "cut": _cut,
    "freeze": _freeze,
    "power_off": _power_off,
    "kill_agent": _kill_agent,
    "kill_ranks": _kill_ranks,
    "hang": _hang,
    "program_error": _program_error,
    "storage": _storage,
    "slurmctld": _slurmctld,
    "damage": _damage,
    "supervisor": _supervisor,
    "supervisor_in_action": _supervisor_in_action,
    "torn_save": _torn_save,
    "unkillable": _unkillable,
    "excise": _excise,
    "time_limit": _time_limit,
    "cancel": _cancel,
    "stray_word": _stray_word,
    **ILLS,
}

"""The stage of `tests.core.world`: a clock that is moved, nodes that speak, and the supervisor's loop.

Time is simulated, and the wall clock is as far off it as it is told. What comes from a node is lost with its agent and waits while it is cut off; what comes from the
supervisor's own threads is lost when it is restarted.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from ftslurm.core.actions import Action, CleanScratch, Whereabouts
from ftslurm.core.events import ENDED, Event, PartSaved, Phase, RankExited
from ftslurm.core.manifest import parse_generation
from ftslurm.core.recovery import Policy
from ftslurm.core.run import advance
from ftslurm.core.state import Run
from ftslurm.journal import Entry
from tests.core.laws import Laws

MOST_S = 6 * 3600.0
MOST_STEPS = 20_000
UP, CUT, DEAD, FROZEN = "up", "cut", "dead", "frozen"


@dataclass
class Node:
    """What is true of a node; `life` counts its agents, `ranks` are the attempts that have processes here."""

    name: str
    state: str = UP
    agent: bool = False
    life: int = 0
    ranks: set[int] = field(default_factory=set)
    told: set[int] = field(default_factory=set)
    ends: list[RankExited] = field(default_factory=list)
    scratch: dict[str, PartSaved] = field(default_factory=dict)
    partner: set[tuple[str, str]] = field(default_factory=set)
    bad_since: float | None = None
    well_since: float = -1e9
    unkillable_until: float = 0.0
    hangs: int = 0

    def clean(self, action: CleanScratch) -> None:
        """Keep the two newest generations, those above the watermark, and what has to be kept."""
        limit = parse_generation(action.watermark)
        names = sorted(self.scratch, key=parse_generation)
        gone = {name for name in names[:-2] if parse_generation(name) <= limit and name not in action.keep}
        self.scratch = {name: part for name, part in self.scratch.items() if name not in gone}
        kept = {*sorted({name for _, name in self.partner}, key=parse_generation)[-2:], *action.keep}
        self.partner = {(owner, name) for owner, name in self.partner if name in kept or parse_generation(name) > limit}

    ill: bool = False


@dataclass
class Stage:
    """The run, its clock and its nodes."""

    policy: Policy
    random: Random
    names: tuple[str, ...] = ("n1", "n2", "n3", "n4")
    run: Run = field(default_factory=Run)
    now: float = 1000.0
    entries: list[Entry] = field(default_factory=list)
    dies_at_next_action: bool = False
    parts_there: dict[str, set[str]] = field(default_factory=dict)
    epoch: int = 0
    wall_s: float = 0.0

    def __post_init__(self) -> None:
        self.laws = Laws(self.policy)
        self.nodes = {name: Node(name) for name in self.names}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def perform(self, action: Action) -> None:
        """Do what the core asks for."""
        raise NotImplementedError

    def restart_supervisor(self) -> None:
        """The supervisor dies and is started again."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------------------- the clock

    def later(self, after_s: float, work: Callable[[], None]) -> None:
        """Have something happen, with a little jitter."""
        at = self.now + after_s * self.random.uniform(0.9, 1.2)
        heapq.heappush(self._heap, (at, next(self._order), work))

    def live(self) -> None:
        """Go on until the run has ended; too long is a failure."""
        for _ in range(MOST_STEPS):
            if self.run.phase in ENDED:
                return
            self.now, _, work = heapq.heappop(self._heap)
            assert self.now < MOST_S, f"stuck: {self.story()}"
            work()
        raise AssertionError(f"the run goes in circles: {self.story()}")

    def planned(self, nodes: tuple[str, ...]) -> tuple[str, ...]:
        """Return where the ranks of an attempt on these nodes go."""
        return tuple(name for name in nodes for _ in range(self.policy.ranks_per_node))

    def has(self, generation: str, owner: str, holders: tuple[str, ...]) -> bool:
        """Tell whether a part can be had: from shared storage, or from a node that answers."""
        there = owner in self.parts_there.get(generation, ())
        nodes = [self.nodes[name] for name in holders if self.nodes[name].state == UP and self.nodes[name].agent]
        return there or any(
            (owner, generation) in node.partner or (node.name == owner and generation in node.scratch) for node in nodes
        )

    def has_all(self, wanted: tuple[Whereabouts, ...]) -> bool:
        """Tell whether every part of these generations can be had."""
        return all(
            self.has(where.generation, part.node, holders)
            for where in wanted
            for part, holders in zip(where.parts, where.holders, strict=True)
        )

    def story(self) -> str:
        """Return the last entries, for the reader of a failed test."""
        last = [f"{each.t:.1f} {each.phase} {each.event} -> {each.actions}" for each in self.entries[-25:]]
        return "\n".join([repr(self.run), *last])

    def happen(self, event: Event) -> None:
        """One turn of the supervisor's loop."""
        if self.run.phase in ENDED:
            return
        event = replace(event, at=self.now + self.wall_s, mono=self.now)
        run, actions = advance(self.run, event, self.policy)
        self.entries.append(Entry(len(self.entries), run.epoch, event.at, run.phase, event, actions))
        given_up = set(run.condemned) - set(self.run.condemned)
        self.run = run
        self.laws.check(event, run, actions)
        for node in (self.nodes[name] for name in given_up):
            # The answers that speak against a node may be as old as the deadline for giving them.
            just_back = self.now < node.well_since + 5.0
            excused = just_back or self.now < node.unkillable_until + 5.0 or node.hangs > 1 or node.ill
            assert node.bad_since is not None or excused, f"{node} is sound"
        dies = self.dies_at_next_action and bool(actions) and run.phase not in ENDED | {Phase.REQUEUED}
        done = actions[: self.random.randrange(len(actions))] if dies else actions
        for action in done:
            self.perform(action)
        if dies:
            self.dies_at_next_action = False
            self.restart_supervisor()

    # ------------------------------------------------------------------------------------------- who says something

    def from_supervisor(self, after_s: float, event: Event, then: Callable[[], None] = lambda: None) -> None:
        """A word of the supervisor's own threads: lost when it is restarted meanwhile."""
        epoch = self.epoch

        def work() -> None:
            if epoch == self.epoch:
                then()
                self.happen(event)

        self.later(after_s, work)

    def from_node(self, name: str, after_s: float, *events: Event) -> None:
        """Words of an agent, in this order: they wait while its node is cut off, and are lost with the agent."""
        node = self.nodes[name]
        life = node.life

        def work() -> None:
            if node.life != life or node.state == DEAD:
                return
            if node.state == UP and node.agent:
                for event in events:
                    self.happen(event)
            else:
                self.later(1.0, work)

        self.later(after_s, work)

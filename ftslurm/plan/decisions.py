"""The decisions of a simulated run: those of `core.recovery`, which a live run asks, too.

The core is asked about nodes by name, which costs time in proportion to them. Where nothing is known of switches and
loads only the numbers of nodes count, so that a situation with the same numbers has the same answer, and the core is
asked once for each (a property that a test holds up with random situations). What is left out of the numbers changes
nothing: work that has to be done again is the same term in every plan's price, and idle nodes beyond those that are
missing are not used by any.
"""

from __future__ import annotations

from typing import NamedTuple

from ftslurm.core.diagnosis import Cause, Diagnosis, Scope
from ftslurm.core.recovery import Kind, Policy, Situation, plan

_FOUND = Diagnosis(cause=Cause.UNKNOWN, scope=Scope.JOB, where="", confidence=1.0, reason="simulated")


class Moment(NamedTuple):
    """What a decision depends on, in numbers.

    Attributes:
        nodes: nodes of the attempt that failed.
        kept: those of them that can be used.
        idle: other usable nodes of the allocation.
        attempts: attempts so far.
        fruitless: attempts in a row that the program ended without a new checkpoint.
        requeues: requeues so far.
        restart_s: what a restart costs, in whole seconds and to two digits.
        queue_wait_s: how long a requeued job would wait; None: nobody knows.
    """

    nodes: int
    kept: int
    idle: int
    attempts: int
    fruitless: int
    requeues: int
    restart_s: int
    queue_wait_s: float | None


class Choice(NamedTuple):
    """What follows, and with how many nodes: those that are kept first, then idle ones, in their order."""

    kind: Kind
    nodes: int


class Decider:
    """Asks the core, and remembers its answers."""

    def __init__(self, policy: Policy, wanted: int, interval_s: float) -> None:
        """`wanted` are the nodes that the user asked for, `interval_s` the time between two checkpoints."""
        self._policy, self._wanted, self._interval_s = policy, wanted, interval_s
        self._names: tuple[str, ...] = ()
        self._known: dict[Moment, Choice] = {}

    def decide(self, moment: Moment) -> Choice:
        """Return what the core plans for this moment."""
        key = self._essence(moment)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._ask(key)
        return found

    def _essence(self, moment: Moment) -> Moment:
        """The moment with numbers that make no difference replaced by one of their kind."""
        policy = self._policy
        return moment._replace(
            idle=min(moment.idle, max(max(self._wanted, moment.nodes) - moment.kept, 1)),
            attempts=policy.max_attempts if moment.attempts >= policy.max_attempts else 1,
            fruitless=policy.no_progress_limit if moment.fruitless >= policy.no_progress_limit else 0,
            requeues=policy.max_requeues if moment.requeues >= policy.max_requeues else 0,
        )

    def _ask(self, moment: Moment) -> Choice:
        names = self._named(moment.nodes + moment.idle)
        nodes = names[: moment.nodes]
        now = Situation(
            nodes=nodes,
            live=nodes[: moment.kept] + names[moment.nodes :],
            wanted=self._wanted,
            no_kill=True,
            lost=nodes[moment.kept :],
            attempts=moment.attempts,
            fruitless=moment.fruitless,
            requeues=moment.requeues,
            restart_s=float(moment.restart_s),
            interval_s=self._interval_s,
            queue_wait_s=moment.queue_wait_s,
        )
        choice = plan(_FOUND, now, self._policy)
        return Choice(choice.kind, len(choice.nodes))

    def _named(self, count: int) -> tuple[str, ...]:
        if len(self._names) < count:
            self._names = tuple(f"n{number}" for number in range(count))
        return self._names[:count]

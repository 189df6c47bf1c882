"""A run on a cluster that fails, simulated from one event to the next, with the decisions of the live core.

Between two failures nothing is decided, so a whole stretch of training is one step, however many saves it holds. A
failure is detected, diagnosed, and then `core.recovery` is asked what to do, by way of `plan.decisions`. Another
failure may come at any moment: before the plan it joins the incident, during a restart it makes a new one.

What is known of a node that was given up is what a live run knows: it stays out until the job is requeued, and longer
where there are other nodes. A broken node that was not found makes the next attempt fail, too. Work is counted in
seconds of the full world. The clock never stops: faults come at all times (see `plan.generators` for their rates).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from random import Random

from ftslurm.core.diagnosis import Cause
from ftslurm.core.lemons import Evidence, Mark, judge, to_exclude
from ftslurm.core.placement import usable
from ftslurm.core.recovery import Kind, fruitless_after
from ftslurm.plan.decisions import Decider, Moment
from ftslurm.plan.fleet import Fleet
from ftslurm.plan.outcome import Loss, Outcome
from ftslurm.plan.progress import Progress
from ftslurm.plan.strikes import Strike, What, drawn
from ftslurm.plan.terms import Terms

KEPT_RESTARTS = 8


def simulate(terms: Terms, seed: int | str, decider: Decider | None = None) -> Outcome:
    """Return what comes of one run; the same terms and seed give the same, anywhere.

    Args:
        terms: see `plan.terms.terms_of`.
        seed: of all that is drawn.
        decider: one that has been used with the same terms before, for its memory.
    """
    return play(terms, drawn(terms, Random(f"{seed}:strikes")), Random(f"{seed}:chances"), decider)  # noqa: S311 - no secret


def play(terms: Terms, strikes: Sequence[Strike], chances: Random, decider: Decider | None = None) -> Outcome:
    """Return what comes of one run with these strikes, in their order; all else is drawn from `chances`."""
    decider = decider or Decider(terms.policy, terms.nodes, terms.copies.period_s)
    course = _Course(terms, strikes, chances, decider)
    course.run()
    return course.outcome


def _two_digits(seconds: float) -> int:
    """What a restart costs as the core is told: the more often it is told the same, the less often it is asked."""
    return int(float(f"{seconds:.1e}"))


class _Course:
    """The state of one run, and its rules."""

    def __init__(self, terms: Terms, strikes: Sequence[Strike], chances: Random, decider: Decider) -> None:
        self.outcome = Outcome(wall_s=terms.span_s)
        self._terms, self._chances, self._decider = terms, chances, decider
        self._strikes, self._next = strikes, 0
        self._now = 0.0
        self._fleet = Fleet(terms.fleet, terms.repairers)
        self._world: dict[int, None] = {}
        self._idle: dict[int, None] = {}
        self._condemned: set[int] = set()
        self._hidden: dict[int, float] = {}
        self._marks: list[Mark] = []
        self._progress = Progress(terms.copies, chances, self.outcome)
        self._size = 0
        self._restarts: deque[float] = deque(maxlen=KEPT_RESTARTS)
        self._cause = Cause.UNKNOWN
        self._forget_failures()

    def run(self) -> None:
        """Go on until the span is over."""
        self._gather()
        up = self._launch()
        while self._now < self._terms.span_s:
            if up:
                self._train()
            if self._now < self._terms.span_s:
                up = self._recover()

    def _forget_failures(self) -> None:
        self._attempts = self._requeues = 0
        self._history: list[tuple[Cause, bool]] = []

    # ------------------------------------------------------------------------------------------------------- time

    def _spend(self, loss: Loss, until: float) -> None:
        until = min(until, self._terms.span_s)
        self.outcome.spent_s[loss] += until - self._now
        self._now = until

    def _struck(self, until: float) -> Strike | None:
        """The next strike before `until` that hits the world; what else is struck on the way breaks unnoticed."""
        until = min(until, self._terms.span_s)
        while self._next < len(self._strikes) and self._strikes[self._next].at_s < until:
            strike = self._strikes[self._next]
            self._next += 1
            if strike.node in self._world:
                if strike.node not in self._hidden:
                    return strike
            elif strike.what is What.NODE and not self._fleet.is_broken(strike.node, strike.at_s):
                self._fleet.fail(strike.node, strike.at_s, strike.repair_s)
                if strike.node in self._idle:
                    del self._idle[strike.node]
                    self._condemned.add(strike.node)
                    self.outcome.spares_lost += 1
        return None

    # --------------------------------------------------------------------------------------------------- training

    def _train(self) -> None:
        strike = self._struck(self._terms.span_s)
        end = strike.at_s if strike is not None else self._terms.span_s
        nodes, wanted = len(self._world), self._terms.nodes
        speed = 1.0 if nodes >= wanted else nodes * (self._terms.policy.efficiency or 1.0) / wanted
        self._progress.train(end - self._now, speed)
        self._now = end
        if strike is not None:
            self._hit(strike)

    def _hit(self, strike: Strike) -> None:
        """A strike becomes a failure with a verdict, right or wrong; a node that is blamed is given up."""
        self.outcome.failures += 1
        broken = strike.what is What.NODE
        if broken and strike.node not in self._hidden:
            self._hidden[strike.node] = strike.repair_s
            self._fleet.hide(strike.node)
        wrong = bool(self._terms.wrong_diagnoses) and self._chances.random() < self._terms.wrong_diagnoses
        blamed = strike.what is What.FALSE_ALARM or broken != wrong
        self._cause = Cause.RANK_KILLED
        if blamed:
            self._cause = Cause.NODE_DOWN if broken else Cause.NODE_UNREACHABLE
            self._exclude(strike.node)

    def _exclude(self, node: int) -> None:
        del self._world[node]
        self._condemned.add(node)
        broken = node in self._hidden
        if broken:
            self._progress.lose_node(self._size)
            self._fleet.find(node, self._now, self._hidden.pop(node))
            self.outcome.right_exclusions += 1
        else:
            self.outcome.wrong_exclusions += 1
        if self._terms.ledger:
            evidence = Evidence.HARD if broken else Evidence.SOFT
            self._marks.append(Mark(node=str(node), at=self._now, cause=self._cause, evidence=evidence))

    # --------------------------------------------------------------------------------------------------- recovery

    def _recover(self) -> bool:
        """Detect, diagnose, plan, and do what is planned. Return whether the run trains again."""
        self._watch(Loss.DETECTING, self._terms.detect_s)
        self._watch(Loss.DIAGNOSING, self._terms.diagnose_s)
        if self._now >= self._terms.span_s:
            return False
        self._attempts += 1
        self._history = [*([] if self._progress.saved else self._history), (self._cause, self._progress.saved)]
        choice = self._decider.decide(self._moment())
        self.outcome.plans[choice.kind] += 1
        if choice.kind in (Kind.SPARE, Kind.SHRINK):
            self._resize(choice.nodes)
        elif choice.kind is Kind.REQUEUE:
            self._requeues += 1
            self._leave(self._terms.requeue_s + self._terms.queue_wait_s)
        elif choice.kind is Kind.ABORT:
            self._forget_failures()
            self._leave(self._terms.resume_s + self._terms.queue_wait_s)
        return self._launch()

    def _watch(self, loss: Loss, seconds: float) -> None:
        """Time passes before the plan; what fails meanwhile joins the incident, and has to be found as well."""
        until = self._now + seconds
        while (strike := self._struck(until)) is not None:
            self._spend(loss, strike.at_s)
            self._hit(strike)
            until = max(until, strike.at_s + self._terms.detect_s)
        self._spend(loss, until)

    def _moment(self) -> Moment:
        restarts = sorted(self._restarts)
        return Moment(
            nodes=self._size,
            kept=len(self._world),
            idle=len(self._idle),
            attempts=self._attempts,
            fruitless=fruitless_after(self._history),
            requeues=self._requeues,
            restart_s=_two_digits(restarts[len(restarts) // 2] if restarts else self._terms.restart_s),
            queue_wait_s=self._queue_wait_s(),
        )

    def _queue_wait_s(self) -> float | None:
        """What the planner knows of the queue: nothing where repairs have to be waited for."""
        enough = self._terms.wait_known and self._fleet.healthy(self._now) >= self._terms.nodes
        return self._terms.queue_wait_s if enough else None

    def _resize(self, count: int) -> None:
        """The world gets so many nodes: those that are left, then idle ones; what is over is held idle."""
        while len(self._world) < count:
            node = next(iter(self._idle))
            del self._idle[node]
            self._world[node] = None
        while len(self._world) > count:
            self._idle[self._world.popitem()[0]] = None

    def _launch(self) -> bool:
        """Start an attempt. Return whether it came up: a strike, or a broken node among its own, ends it."""
        self._size = len(self._world)
        if self._now >= self._terms.span_s:
            return False
        took_s = max(self._terms.restart_s, self._progress.restore())
        strike = self._struck(self._now + took_s)
        self._spend(Loss.RESTARTING, strike.at_s if strike is not None else self._now + took_s)
        if strike is None:
            node = next((each for each in self._hidden if each in self._world), None)
            strike = Strike(self._now, node, What.NODE, self._hidden[node]) if node is not None else None
        if strike is not None:
            self._hit(strike)
            return False
        self._restarts.append(took_s)
        self._progress.begin()
        return True

    # ----------------------------------------------------------------------------------------------- other nodes

    def _leave(self, wait_s: float) -> None:
        """Give all nodes back, when what only they hold is on shared storage, and get other ones."""
        ready = self._now + max(wait_s, self._progress.make_durable())
        for node in [each for each in self._hidden if each in self._world]:
            self._fleet.find(node, self._now, self._hidden.pop(node))
        self._world, self._idle = {}, {}
        while True:
            self._struck(ready)
            if ready >= self._terms.span_s or self._fleet.healthy(ready) >= self._terms.nodes:
                break
            ready = max(self._fleet.when(self._terms.nodes), ready)
        self._spend(Loss.WAITING, ready)
        if self._now < self._terms.span_s:
            self._gather()

    def _gather(self) -> None:
        """Take nodes that are in order: first those that no run has given up, and no lemons if there are others."""
        policy, wanted = self._terms.policy, self._terms.nodes
        ready = self._fleet.in_order(self._now)
        lemons = self._lemons(ready)
        ready.sort(key=lambda node: (node in lemons, node in self._condemned))
        taken = ready[: wanted + self._terms.spares]
        self._condemned.difference_update(taken)
        names = [str(node) for node in taken[:wanted]]
        count = usable(names, policy.ranks_per_node, policy.world_multiple_of, policy.world_sizes)
        self._world = dict.fromkeys(taken[:count])
        self._idle = dict.fromkeys(taken[count:])

    def _lemons(self, ready: Sequence[int]) -> frozenset[int]:
        if not self._marks:
            return frozenset()
        records = judge(self._marks, (), self._now, self._terms.fleet)
        chosen = to_exclude(records, frozenset(map(str, ready)), self._terms.nodes)
        return frozenset(int(each.node) for each in chosen)

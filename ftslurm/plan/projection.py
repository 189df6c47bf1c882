"""A run as it might have gone under a policy: the recorded failures, met by a small model that asks the core's planner.

The model: a world of nodes does work, `rate` node-seconds in a second. It saves after every `interval_s` of work,
standing still for `pause_s`. A failure throws it back to its newest save; for `detect_s + stop_s` nothing is done, then
`core.recovery.plan` decides, and what it decides takes as long as it took in the recorded run: a launch and its
loading, or a wait in the queue and a new job. What it assumes: a node fails when it failed (where it is not held,
nobody meets that), and the program where in its work it did; the newest save survives where it did; Slurm gives as
many nodes as are asked for; nothing else fails; a smaller world is as efficient as the run's own policy believes. After
the recorded end nothing is known: a run that was not finished stops there.

The same model with the run's own policy stands beside what was measured: the difference is the model's error, and one
between two policies that is smaller than that says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf

from ftslurm.core.diagnosis import Diagnosis, Scope
from ftslurm.core.ending import OF_TIME
from ftslurm.core.placement import usable
from ftslurm.core.recovery import NONE, Kind, Policy, Situation, fruitless_after, plan
from ftslurm.insight.walltime import Category, ettr
from ftslurm.plan.assumed import Assumed
from ftslurm.plan.otherpolicy import Rules
from ftslurm.plan.recorded import Fault, Job, Recorded, Stop, pieces, rate_of, with_shift, work_at

MOST_S = 10 * 365 * 86400.0
"""A model that is not done with its work by then never will be."""


_EXACT = 1e-6
"""Seconds and node-seconds that do not count: what rounding leaves."""
TERMS = ("redo", "restart", "missing", "saving", "waiting")
_TERM = {
    Category.QUEUED: "waiting",
    Category.STARTING: "restart",
    Category.LOADING: "restart",
    Category.SAVING: "saving",
    Category.DETECTING: "restart",
    Category.RECOVERING: "restart",
    Category.RECOMPUTING: "redo",
}


@dataclass(slots=True)
class Outcome:
    """What came of it. `spent` are seconds by category; `lost` node-seconds by what they were lost to.

    `useful` are node-seconds of work that was kept; `idle` those of spares that were held and not used; `unmet` the
    failures that met nobody; `end` how it ended, in words, and `over` that it did before the model's time was up.
    """

    spent: dict[Category, float] = field(default_factory=lambda: dict.fromkeys(Category, 0.0))
    lost: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TERMS, 0.0))
    useful: float = 0.0
    idle: float | None = 0.0
    attempts: int = 0
    requeues: int = 0
    unmet: int | None = 0
    plans: list[tuple[float, Kind]] = field(default_factory=list)
    end: str = ""
    over: bool = False

    @property
    def lost_node_s(self) -> float:
        """All that was lost."""
        return sum(self.lost.values())

    @property
    def ettr(self) -> float | None:
        """The productive share of the time in which the run was to be trained."""
        return ettr(self.spent)

    @property
    def took_s(self) -> float:
        """From its first moment to its last."""
        return sum(self.spent.values())

    def add(self, category: Category, seconds: float, wanted: int, rate: float = 0.0) -> None:
        """So much time was spent; `rate` is the work of the world, in nodes, where it worked."""
        self.spent[category] += seconds
        if category is Category.PRODUCTIVE:
            self.useful += rate * seconds
            self.lost["missing"] += max(wanted - rate, 0.0) * seconds
        elif category in _TERM:
            self.lost[_TERM[category]] += wanted * seconds


def measured(found: Recorded, policy: Policy) -> Outcome:
    """Return what really came of the run, in the same terms."""
    outcome = Outcome(attempts=found.attempts, requeues=found.requeues, idle=None, unmet=None, end="recorded")
    for category, seconds, nodes in pieces(found):
        outcome.add(category, seconds, found.wanted, rate_of(nodes, found.wanted, found, policy))
    return outcome


def project(found: Recorded, own: Rules, rules: Rules, assumed: Assumed) -> Outcome:
    """Return what the model makes of the recorded run under `rules`; `own` are those it was recorded under."""
    goal = measured(found, own.policy).useful if found.finished else inf
    model = _Model(found, own, rules, assumed, goal)
    for each in found.happened:
        if not (isinstance(each, Fault) and not each.nodes):
            model.meet(each)
    return model.finished()


class _Model:
    """A run in the making; its clock is `t`, in epoch seconds."""

    def __init__(self, found: Recorded, own: Rules, rules: Rules, assumed: Assumed, goal: float) -> None:
        self._found, self._own, self._rules, self._took, self._goal = found, own, rules, assumed, goal
        self._program = [
            (work_at(found, each.t, own.policy), each)
            for each in found.happened
            if isinstance(each, Fault) and not each.nodes
        ]
        self._more = rules.spares - own.spares
        self._shift_s = rules.suspect_after_s - own.suspect_after_s
        self.outcome = Outcome()
        self._idle, self._unmet = 0.0, 0
        self._t = found.begun
        self._held: tuple[str, ...] = ()
        self._gone: set[str] = set()
        self._world: tuple[str, ...] = ()
        self._wanted = found.wanted
        self._position = self._furthest = self._saved = 0.0  # seconds of training
        self._history: list[tuple[Fault, bool]] = []
        self._progressed = False
        self._running = False
        self._over = False

    # ------------------------------------------------------------------------------------------------ what happens

    def meet(self, what: Job | Fault | Stop) -> None:
        """Let time pass until it happens, and let it happen."""
        if self._over and not (isinstance(what, Job) and what.resumed):
            return
        self._pass(what.t)
        match what:
            case Job():
                self._job(what)
            case Fault():
                self._fault(with_shift(what, self._shift_s))
            case Stop():
                self._stop(what)

    def finished(self) -> Outcome:
        """Return what came of it."""
        if not self._over:
            self._pass(self._t + MOST_S if self._goal < inf else self._found.until)
        if not self._over:
            self.outcome.end = "still going on at the recorded end"
        self.outcome.idle, self.outcome.unmet = self._idle, self._unmet + len(self._program)
        return self.outcome

    def _job(self, job: Job) -> None:
        """A recorded job counts where the model has none: the first one, and one that a user has resumed by."""
        if self._running:
            return
        if job.resumed:
            self.outcome.spent[Category.IDLE] += max(job.t - self._t, 0.0)
            self._t, self._over, self._history = max(job.t, self._t), False, []
            self.outcome.over = False
        self._wanted = job.wanted
        self._begin(self._nodes(job))

    def _nodes(self, job: Job) -> tuple[str, ...]:
        """The nodes of a job, with as many spares more or fewer as the policy wants."""
        fresh = tuple(f"another{number}" for number in range(1, self._more + 1))
        return (*job.nodes, *fresh) if self._more >= 0 else job.nodes[: max(len(job.nodes) + self._more, 1)]

    def _begin(self, nodes: tuple[str, ...]) -> None:
        policy = self._rules.policy
        self._held, self._gone, self._running = nodes, set(), True
        ready = nodes[: self._wanted]
        count = usable(ready, policy.ranks_per_node, policy.world_multiple_of, policy.world_sizes)
        if count < max(policy.min_nodes, 1):
            self._end(f"{count} of {len(nodes)} nodes could be used, min_nodes is {policy.min_nodes}")
            return
        self._spend(Category.STARTING, self._took.start_s)
        self._launched(ready[:count])

    def _launched(self, world: tuple[str, ...]) -> None:
        self._spend(Category.LOADING, self._took.load_s)
        self._world, self._progressed = world, False
        self._position = self._saved
        self.outcome.attempts += 1

    def _stop(self, stop: Stop) -> None:
        self._saved = self._position if self._rules.policy.can_ask_to_save else self._saved
        if stop.why not in OF_TIME or self._way() == NONE:
            self._end(f"stopped ({stop.why})")
            return
        self._again()

    def _way(self) -> str:
        return self._rules.continue_by or self._found.continue_by or self._rules.policy.continue_by

    def _again(self) -> None:
        """Wait in the queue, and begin with as many nodes as are asked for: those that were well, and others."""
        self._running = False
        self.outcome.requeues += 1
        self._spend(Category.QUEUED, self._took.queue_s)
        well = [node for node in self._held if node not in self._gone]
        size = self._wanted + self._rules.spares
        fresh = [f"new{self.outcome.requeues}.{number}" for number in range(1, size + 1)]
        self._begin((*well, *fresh)[:size])

    def _fault(self, fault: Fault) -> None:
        hit = tuple(node for node in fault.nodes if node in self._held and node not in self._gone)
        if fault.nodes and not hit:
            self._unmet += 1
            return
        self._gone |= set(hit)
        if fault.nodes and not set(hit) & set(self._world):
            return
        self._history.append((fault, self._progressed))
        self._spend(Category.DETECTING, fault.detect_s)
        self._spend(Category.RECOVERING, fault.stop_s)
        self._carry_out(fault, hit)

    def _carry_out(self, fault: Fault, hit: tuple[str, ...]) -> None:
        found = Diagnosis(
            cause=fault.cause, scope=Scope.NODE if hit else Scope.JOB, where="", confidence=1.0, reason=f"{fault.cause}"
        )
        policy = replace(self._rules.policy, continue_by=self._way())
        choice = plan(found, self._situation(fault, hit), policy)
        self.outcome.plans.append((self._t, choice.kind))
        self._saved = max(self._saved - fault.behind_s, 0.0)
        if choice.kind is Kind.ABORT:
            self._end(f"given up: {choice.reason}")
        elif choice.kind is Kind.REQUEUE:
            self._again()
        else:
            self._spend(Category.RECOVERING, self._took.restart_s)
            self._launched(choice.nodes)

    def _situation(self, fault: Fault, hit: tuple[str, ...]) -> Situation:
        """The recorded situation, with what is otherwise in the model."""
        base = fault.now or Situation(nodes=(), live=(), wanted=self._wanted, no_kill=self._found.no_kill)
        return replace(
            base,
            nodes=self._world,
            live=tuple(node for node in self._held if node not in self._gone),
            lost=hit,
            attempts=len(self._history),
            fruitless=fruitless_after([(each.cause, progressed) for each, progressed in self._history]),
            repeated=base.repeated and not self._progressed,
            requeues=self.outcome.requeues,
            redo_s=self._position - self._saved,
            interval_s=self._took.interval_s if self._took.interval_s < inf else 0.0,
        )

    def _end(self, why: str) -> None:
        self._over, self._running, self.outcome.end = True, False, why
        self.outcome.over = True

    # ----------------------------------------------------------------------------------------------- time goes by

    def _rate(self) -> float:
        return rate_of(len(self._world), self._wanted, self._found, self._own.policy)

    def _pass(self, until: float) -> None:
        """Train until then, saving on the way, or until the work is done."""
        while self._running and self._world and self._t < until:
            to_save, to_new = self._took.interval_s - (self._position - self._saved), self._furthest - self._position
            ahead = to_new if to_new > 0 else (self._next() - self.outcome.useful) / self._rate()
            self._train(max(min(to_save, ahead, until - self._t), 0.0), new=to_new <= 0)
            if to_new <= 0 and self.outcome.useful >= self._next() - _EXACT:
                self._come_to_next()
            elif self._position - self._saved >= self._took.interval_s - _EXACT:
                self._save(until)

    def _next(self) -> float:
        """The amount of work, in node-seconds, at which the program fails next, or is done."""
        return min([self._goal, *(work for work, _ in self._program[:1])])

    def _come_to_next(self) -> None:
        if self._program and self._program[0][0] <= self._goal:
            self._fault(self._program.pop(0)[1])
        else:
            self._end("finished")

    def _train(self, seconds: float, *, new: bool) -> None:
        """Do new work, or what was done before: as many steps take as long as they took then."""
        self._position += seconds
        if not new and self._furthest - self._position < _EXACT:
            self._position = self._furthest
        self._furthest = max(self._furthest, self._position)
        self._spend(Category.PRODUCTIVE if new else Category.RECOMPUTING, seconds, self._rate())

    def _save(self, until: float) -> None:
        """A save that a failure comes into is none."""
        whole = self._t + self._took.pause_s <= until
        self._spend(Category.SAVING, min(self._took.pause_s, until - self._t))
        if whole:
            self._saved, self._progressed = self._position, True

    def _spend(self, category: Category, seconds: float, rate: float = 0.0) -> None:
        """Let time pass; spares stand idle in it."""
        if self._goal == inf:
            seconds = min(seconds, max(self._found.until - self._t, 0.0))
        self._t += seconds
        self.outcome.add(category, seconds, self._wanted, rate)
        if self._running and self._world:
            self._idle += max(len(self._held) - len(self._gone) - len(self._world), 0) * seconds

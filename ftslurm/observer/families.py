"""The metrics of one run, by the names that Prometheus knows them by. Their table: docs/how-to/metrics.md.

Values of labels come from closed sets but for names (the run's, its job's, its nodes'), which are made visible: no
control character, no newline, no text that goes on for ever. No counter has a `_created` beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from ftslurm import __version__
from ftslurm.core.events import Phase
from ftslurm.core.health import Level
from ftslurm.insight.text import visible
from ftslurm.insight.walltime import Category, ettr, goodput
from ftslurm.observer.histogram import STEPS, Histogram
from ftslurm.observer.tally import Tally

LONGEST = 200
HOUR_S = 3600.0


def label(text: str) -> str:
    """A name from outside as the value of a label."""
    return visible(text)[:LONGEST]


@dataclass(slots=True, kw_only=True)
class Live:
    """What stands in no journal, as the supervisor told it last; and what must never become less."""

    run: str
    name: str
    job_id: str = ""
    user: str = ""
    partition: str = ""
    t: float = 0.0
    phi: float = 0.0
    step: int = -1
    stepped: float = 0.0
    ranks: Mapping[str, int] = field(default_factory=dict)
    nodes: Mapping[str, int] = field(default_factory=dict)
    wanted: int = 0
    steps: Histogram = field(default_factory=lambda: Histogram(STEPS))
    wall: dict[Category, float] = field(default_factory=dict)

    def take(self, told: Mapping[str, Any]) -> None:
        """The supervisor has told how it is now."""
        self.t, self.phi = float(told["t"]), float(told["phi"])
        self.ranks = {str(state): int(count) for state, count in told["ranks"].items()}
        self.nodes = {str(state): int(count) for state, count in told["nodes"].items()}
        self.wanted = int(told["wanted"])
        step = int(told["step"])
        if step >= 0 and step != self.step:
            self.step, self.stepped = step, self.t
        for count, seconds in told["paces"]:
            self.steps.observe(float(seconds) / int(count), int(count))


def families(tally: Tally, live: Live, now: float) -> Iterator[Metric]:
    """Every metric of the run at this moment (epoch seconds)."""
    of = _Of(label(live.run))
    yield of.gauge("run_info", "What the run is; join it to the others by run.",
                   [((label(live.job_id), label(live.name), label(live.user), label(live.partition)), 1)],
                   ("job_id", "name", "user", "partition"))  # fmt: skip
    build = GaugeMetricFamily("ftslurm_build_info", "The release of ftslurm.", labels=("version",))
    build.add_metric((__version__,), 1)
    yield build
    yield of.gauge("heartbeat_unixtime", "When the supervisor was heard last.", [((), live.t)])
    phases = [((phase.value,), float(phase is tally.phase)) for phase in Phase]
    yield of.gauge("run_phase", "1 for the phase that the run is in.", phases, ("phase",))
    yield from _training(of, tally, live)
    yield from _time(of, tally, live, now)
    yield from _failures(of, tally, live)
    yield from _checkpoints(of, tally, now)
    yield from _nodes(of, tally, live)


def _training(of: _Of, tally: Tally, live: Live) -> Iterator[Metric]:
    ranks = [((state,), float(count)) for state, count in live.ranks.items()]
    yield of.gauge("ranks", "Ranks of the newest attempt, by state.", ranks, ("state",))
    newest = tally.saves.newest
    step = max(live.step, newest.step if newest else -1)
    steps = [((), float(step))] if step >= 0 else []
    yield of.gauge("training_step", "The newest training step that is known.", steps)
    stepped = [((), live.stepped)] if live.stepped else []
    yield of.gauge("last_step_unixtime", "When the newest training step was heard of.", stepped)
    yield of.histogram("step_seconds", "How long training steps take.", [((), live.steps)])
    yield of.counter("attempts", "Attempts that were started.", [((), tally.attempts)])


def _time(of: _Of, tally: Tally, live: Live, now: float) -> Iterator[Metric]:
    spent = tally.wall(now)
    live.wall = steadied(live.wall, spent)
    wall = [((name.value,), seconds) for name, seconds in live.wall.items()]
    yield of.counter("wall_seconds", "Where the time went; the categories sum to it.", wall, ("category",))
    windows = {"run": spent, "1h": tally.time.window(now, HOUR_S)}
    for name, text, share in (
        ("ettr_ratio", "Productive share of the time in which the run was to be trained.", ettr),
        ("goodput_ratio", "Productive share of all the time.", goodput),
    ):
        found = [((window,), value) for window, parts in windows.items() if (value := share(parts)) is not None]
        yield of.gauge(name, text, found, ("window",))


def steadied(before: Mapping[Category, float], spent: Mapping[Category, float]) -> dict[Category, float]:
    """Seconds by category of which none is less than it was, and which sum to what was spent.

    What was thought to be work may turn out to have been silence, but a counter that goes back is taken for a restart.
    So a category that would fall stays, and the others grow by as much less until it has caught up.
    """
    grown = {name: seconds - before.get(name, 0.0) for name, seconds in spent.items()}
    gain = sum(each for each in grown.values() if each > 0.0)
    excess = -sum(each for each in grown.values() if each < 0.0)
    share = max(1.0 - excess / gain, 0.0) if gain else 0.0
    return {name: before.get(name, 0.0) + share * max(each, 0.0) for name, each in grown.items()}


def _failures(of: _Of, tally: Tally, live: Live) -> Iterator[Metric]:
    failures = [(key, float(count)) for key, count in tally.failures.items()]
    yield of.counter("failures", "Verdicts, by class and by what they are about.", failures, ("class", "scope"))
    recoveries = [(key, float(count)) for key, count in tally.recoveries.items()]
    yield of.counter("recoveries", "Plans that were carried out, and how that ended.", recoveries, ("plan", "outcome"))
    yield of.share("recovery_success_ratio", "Share of the recoveries that led to training.", tally.recovered_share)
    yield of.gauge("recoveries_failed_in_a_row", "Recoveries that failed since one did not.",
                   [((), tally.failed_in_a_row)])  # fmt: skip
    yield of.gauge("failures_without_progress", "Failures since the newest checkpoint.", [((), tally.barren)])
    yield of.histogram("detection_seconds", "From the first sign of a failure to its verdict.",
                       [((), tally.detection)])  # fmt: skip
    taken = [((plan,), histogram) for plan, histogram in tally.recovery.items()]
    yield of.histogram("recovery_seconds", "From the first sign of a failure to the next release of ranks.", taken,
                       ("plan",))  # fmt: skip
    yield of.gauge("suspicion_phi_max", "Suspicion of the node that is suspected most.", [((), live.phi)])
    yield of.counter("false_suspicions", "Nodes that were asked about and found well.",
                     [((), tally.false_suspicions)])  # fmt: skip
    yield of.counter("lost_steps", "Training steps that had to be made again.", [((), tally.lost_steps)])


def _checkpoints(of: _Of, tally: Tally, now: float) -> Iterator[Metric]:
    newest, durable = tally.saves.newest, tally.saves.newest_durable
    ages = [((), now - newest.seen)] if newest and newest.seen is not None else []
    yield of.gauge("checkpoint_age_seconds", "Since the newest checkpoint was begun.", ages)
    ages = [((), now - durable.seen)] if durable and durable.seen is not None else []
    yield of.gauge("checkpoint_durable_age_seconds", "Since the newest one on shared storage was begun.", ages)
    interval = [((), tally.interval_s)] if tally.interval_s is not None else []
    yield of.gauge("checkpoint_interval_seconds", "The usual time between two checkpoints.", interval)
    size = [((), float(tally.checkpoint_bytes))] if tally.checkpoint_bytes else []
    yield of.gauge("checkpoint_bytes", "Size of the newest checkpoint.", size)
    stages = [((stage,), histogram) for stage, histogram in tally.stages.items()]
    yield of.histogram("checkpoint_seconds", "How long checkpoints take, by stage.", stages, ("stage",))
    outcomes = [((name,), float(tally.checkpoints[name])) for name in ("saved", "durable", "failed", "lost")]
    yield of.counter("checkpoints", "Checkpoints, by what became of them.", outcomes, ("outcome",))
    yield of.share("checkpoint_success_ratio", "Share of what was tried with checkpoints and went well.",
                   tally.saved_share)  # fmt: skip


def _nodes(of: _Of, tally: Tally, live: Live) -> Iterator[Metric]:
    counts = [((state,), float(count)) for state, count in live.nodes.items()]
    yield of.gauge("nodes", "Nodes of the job, by what they are to the run.", counts, ("state",))
    yield of.gauge("nodes_wanted", "Nodes that the run would use.", [((), live.wanted)])
    ills = tally.ills.now()
    levels = []
    for node in dict.fromkeys((*tally.nodes, *tally.excluded)):
        level = Level.FAILED if node in tally.excluded else ills[node][0].level if node in ills else Level.HEALTHY
        levels += [((label(node), each.value), float(each is level)) for each in Level]
    yield of.gauge("node_health", "1 for the level that the node has.", levels, ("node", "level"))
    guilty = [((label(node),), float(count)) for node, count in tally.guilty.items()]
    yield of.counter("node_incidents", "Verdicts that name the node.", guilty, ("node",))


Sample = tuple[tuple[str, ...], float | int]


@dataclass(frozen=True, slots=True)
class _Of:
    """Makes families whose first label is the run."""

    run: str

    def gauge(self, name: str, text: str, samples: Iterable[Sample], labels: Sequence[str] = ()) -> Metric:
        family = GaugeMetricFamily(f"ftslurm_{name}", text, labels=("run", *labels))
        for values, value in samples:
            family.add_metric((self.run, *values), value)
        return family

    def share(self, name: str, text: str, value: float | None) -> Metric:
        return self.gauge(name, text, [] if value is None else [((), value)])

    def counter(self, name: str, text: str, samples: Iterable[Sample], labels: Sequence[str] = ()) -> Metric:
        family = CounterMetricFamily(f"ftslurm_{name}", text, labels=("run", *labels))
        for values, value in samples:
            family.add_metric((self.run, *values), value)
        return family

    def histogram(
        self, name: str, text: str, samples: Iterable[tuple[tuple[str, ...], Histogram]], labels: Sequence[str] = ()
    ) -> Metric:
        family = HistogramMetricFamily(f"ftslurm_{name}", text, labels=("run", *labels))
        for values, histogram in samples:
            family.add_metric((self.run, *values), list(histogram.buckets()), histogram.sum)
        return family

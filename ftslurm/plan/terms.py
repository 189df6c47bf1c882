"""The numbers that a simulation runs on, taken from a scenario: plain, and small enough to send to another process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from ftslurm.core import interval
from ftslurm.core.recovery import Policy
from ftslurm.plan.generators import Clustered, Exponential, Generator, Lemons, Lognormal, Replay, Weibull
from ftslurm.plan.scenario import Scenario
from ftslurm.plan.study import Case, as_config
from ftslurm.runtime.settings import policy_of

DAY_S = 86400.0
PER_THOUSAND = 1 / (1000 * DAY_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """What saves and their copies cost, in seconds of the whole job.

    Attributes:
        interval_s: work between two saves; infinite: there are none.
        stall_s: how long training stands still for one.
        scratch_s: to read one back from the nodes' own disks.
        partner_s: to make, and to read, the copies on other nodes; None: there are none.
        shared_s: to write one to shared storage, or to read it, while nobody else uses that.
        contention: the mean share of shared storage that others use.
        durable_every_s: the shortest time between two copies to shared storage.
        damaged: the share of loads at which the newest is refused.
    """

    interval_s: float
    stall_s: float
    scratch_s: float = 0.0
    partner_s: float | None = None
    shared_s: float = 0.0
    contention: float = 0.0
    durable_every_s: float = 0.0
    damaged: float = 0.0

    @property
    def period_s(self) -> float:
        """From one save to the next."""
        return self.interval_s + self.stall_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Everything that a simulation runs on; rates are failures of one node in a second."""

    nodes: int
    spares: int
    fleet: int
    span_s: float
    policy: Policy
    copies: Copies
    outages: Generator
    node_share: float
    program_rate: float
    alarm_rate: float
    mttf_s: float
    detect_s: float
    diagnose_s: float
    wrong_diagnoses: float
    restart_s: float
    repairers: int
    requeue_s: float
    queue_wait_s: float
    wait_known: bool
    resume_s: float
    ledger: bool


def terms_of(case: Case) -> Terms:
    """Return the terms of a case."""
    scenario = case.scenario
    mttf_s = _mttf_s(case)
    traced = case.trace is not None
    return Terms(
        nodes=scenario.nodes,
        spares=scenario.recovery.spares,
        fleet=scenario.among,
        span_s=scenario.span,
        policy=replace(policy_of(as_config(scenario)), checkpoints=True, reshards=scenario.checkpoint.reshards),
        copies=_copies(scenario, mttf_s),
        outages=_generator(case),
        node_share=scenario.node_share if traced else 1.0,
        program_rate=0.0 if traced else scenario.rate * (1 - scenario.node_share) * PER_THOUSAND,
        alarm_rate=scenario.detection.wrong_exclusions * PER_THOUSAND,
        mttf_s=mttf_s,
        detect_s=scenario.detection.delay,
        diagnose_s=scenario.detection.diagnosis,
        wrong_diagnoses=scenario.detection.wrong_diagnoses,
        restart_s=scenario.restart,
        repairers=scenario.repair.repairers,
        requeue_s=scenario.requeue.delay,
        queue_wait_s=scenario.requeue.wait,
        wait_known=scenario.requeue.wait_known,
        resume_s=scenario.resume_after,
        ledger=scenario.ledger,
    )


def _mttf_s(case: Case) -> float:
    """The expected time between failures of the whole job: what a formula for the interval is given."""
    scenario, trace = case.scenario, case.trace
    if trace is not None:
        days = trace.nodes * trace.span_s / DAY_S
        rate = 1000 * len(trace.outages) / days
    else:
        rate = scenario.rate
    return 1 / (rate * PER_THOUSAND * scenario.nodes) if rate else inf


def _copies(scenario: Scenario, mttf_s: float) -> Copies:
    saved, nodes = scenario.checkpoint, scenario.nodes
    size = saved.size or 0
    scratch_s = size / nodes / saved.scratch if saved.scratch else 0.0
    stall_s = saved.stall if saved.stall is not None else scratch_s
    return Copies(
        interval_s=_interval_s(saved.every, stall_s, mttf_s),
        stall_s=stall_s,
        scratch_s=scratch_s,
        partner_s=size / nodes / saved.partner if saved.partner else None,
        shared_s=size / saved.shared if saved.shared else 0.0,
        contention=saved.contention,
        durable_every_s=saved.durable_every,
        damaged=saved.damaged,
    )


def _interval_s(every: float | str, stall_s: float, mttf_s: float) -> float:
    if isinstance(every, float):
        return every
    if every == "none" or mttf_s == inf:
        return inf
    formulas = {"young": interval.young, "daly": interval.daly, "exact": interval.optimum}
    # A save that costs nothing would be made all the time.
    return max(formulas[every](stall_s, mttf_s), 1.0)


def _generator(case: Case) -> Generator:
    scenario, faults = case.scenario, case.scenario.faults
    if case.trace is not None:
        return Replay(trace=case.trace)
    rate = scenario.rate * scenario.node_share
    repair = Lognormal(scenario.repair.median, scenario.repair.mean)
    match faults.kind:
        case "weibull":
            return Weibull(per_1000_node_days=rate, shape=faults.shape, repair=repair)
        case "lemons":
            return Lemons(per_1000_node_days=rate, share=faults.bad_share, factor=faults.bad_factor, repair=repair)
        case "clustered":
            return Clustered(per_1000_node_days=rate, repair=repair)
        case _:
            return Exponential(per_1000_node_days=rate, repair=repair)

"""What a forecast reckons with: every number with its source, from the configuration, a measurement, or an assumption.

What the configuration says counts most, then what was measured in an earlier run (`--from`), then what follows from
other values of the configuration. What is left is assumed, and said to be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ftslurm.core.interval import daly
from ftslurm.core.pricing import REQUEUE_DELAY_S
from ftslurm.errors import UsageError
from ftslurm.plan.losses import Costs
from ftslurm.plan.rates import PRESETS, Rate
from ftslurm.quantities import short_size
from ftslurm.runtime.settings import reshards

if TYPE_CHECKING:
    from ftslurm.config import Config
    from ftslurm.plan.measured import Measured

WITNESSES_S = 5.0
"""At most so long is a silent node asked about."""
SAVE_S, RESTART_S = 10.0, 300.0
REPAIR_S = 132.8 * 3600


class Known(NamedTuple):
    """A number, and where it is from; `assumed`: nobody said or measured it."""

    value: float
    source: str
    assumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What is known of a run before it begins; times in seconds.

    Attributes:
        config: the whole configuration.
        nodes: how many train.
        rate: how often one of them fails.
        save: how long training stands still for a save.
        detect: from a failure until it is known.
        restart: from there to the first new step.
        wait: how long the job waits for nodes after a failure.
        repair: the mean time until a lost node is back.
        interval: the work between two saves that the run will have; None: the program decides, or nobody knows.
        state_bytes: of one checkpoint; None: nobody knows.
        stepped: (ranks, seconds of a step) of an earlier run, as often as measured.
        remarks: what the reader should know of all this.
    """

    config: Config
    nodes: int
    rate: Rate
    save: Known
    detect: Known
    restart: Known
    wait: Known
    repair: Known
    interval: Known | None = None
    state_bytes: Known | None = None
    stepped: tuple[tuple[int, float], ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def mttf_s(self) -> float:
        """The mean time between failures of the job."""
        return self.rate.mttf_s(self.nodes)

    @property
    def costs(self) -> Costs:
        """What saves and failures cost."""
        return Costs(
            save_s=self.save.value,
            detect_s=self.detect.value,
            restart_s=self.restart.value,
            wait_s=self.wait.value,
        )


def rate_of(named: float | str, by: str = "plan.rate") -> Rate | None:
    """Return the rate of this name or number, which `by` has given; None for one that has to be learnt."""
    if isinstance(named, float):
        return Rate(per_1000_node_days=named, source=f"given: {by}")
    return PRESETS.get(named)


def gather(config: Config, rate: Rate, measured: Measured | None = None, nodes: int | None = None) -> Inputs:
    """Return what a forecast for this configuration reckons with.

    Args:
        config: what `submit` would be given.
        rate: how often a node fails.
        measured: what an earlier run has shown.
        nodes: how many nodes, where not as many as the configuration asks for.

    Raises:
        UsageError: the rate is 0, of which nothing follows.
    """
    if rate.per_1000_node_days <= 0:
        raise UsageError(f"nothing ever fails ({rate.source})", hint="give plan.rate as a number above 0")
    count = nodes or config.resources.nodes[1]
    state = _state(config, measured)
    save = _save(config, measured, state, count)
    return Inputs(
        config=config,
        nodes=count,
        rate=rate,
        save=save,
        detect=_detect(config, measured),
        restart=_restart(config, measured),
        wait=_wait(config),
        repair=_repair(config),
        interval=_interval(config, measured, save, rate.mttf_s(count)),
        state_bytes=state,
        stepped=measured.stepped if measured is not None else (),
        remarks=(*_unsaved(config), *(measured.remarks if measured is not None else ())),
    )


def _state(config: Config, measured: Measured | None) -> Known | None:
    if config.plan.state is not None:
        return Known(config.plan.state, "given: plan.state")
    if measured is not None and measured.state_bytes is not None:
        return Known(*measured.state_bytes)
    model = config.plan.model
    if model is not None:
        each = model.weight_bytes + model.optimizer_bytes
        return Known(model.parameters * each, f"plan.model: {each:g} bytes of weights and optimizer a parameter")
    return None


def _save(config: Config, measured: Measured | None, state: Known | None, nodes: int) -> Known:
    plan = config.plan
    if plan.save is not None:
        return Known(plan.save, "given: plan.save")
    if measured is not None and measured.save_s is not None:
        return Known(*measured.save_s)
    if state is not None and config.checkpoint.in_place and plan.shared_bandwidth is not None:
        return Known(state.value / plan.shared_bandwidth, "one checkpoint by plan.shared_bandwidth: saved in place")
    if state is not None and not config.checkpoint.in_place and plan.scratch_bandwidth is not None:
        each = state.value / nodes
        source = f"{short_size(round(each))} of every node by plan.scratch_bandwidth"
        source += "; at most, for the library writes beside training" if config.checkpoint.in_library else ""
        return Known(each / plan.scratch_bandwidth, source)
    return Known(SAVE_S, "assumed, nobody measured it: give plan.save, or --from an earlier run", assumed=True)


def _detect(config: Config, measured: Measured | None) -> Known:
    beat = config.heartbeat
    if config.plan.detect is not None:
        return Known(config.plan.detect, "given: plan.detect")
    if measured is not None and measured.detect_s is not None:
        return Known(*measured.detect_s)
    source = "heartbeat.interval and suspect_after, and 5 s to ask witnesses: a lost node; a crash is known at once"
    return Known(beat.interval + beat.suspect_after + WITNESSES_S, source)


def _restart(config: Config, measured: Measured | None) -> Known:
    if config.plan.restart is not None:
        return Known(config.plan.restart, "given: plan.restart")
    if measured is not None and measured.restart_s is not None:
        return Known(*measured.restart_s)
    source = "assumed, the best of Meta's 5 to 20 min (arXiv 2410.21680): give plan.restart, or --from an earlier run"
    return Known(RESTART_S, source, assumed=True)


def _wait(config: Config) -> Known:
    """The wait after a failure: none where the job goes on with spares or fewer nodes, else a turn in the queue."""
    recovery, queue_s = config.recovery, config.plan.queue_wait
    if recovery.spares:
        return Known(0.0, "a spare takes over at once, as long as there is one (recovery.spares)")
    if recovery.min_nodes < config.resources.nodes[1] and reshards(config):
        return Known(0.0, "the job goes on with fewer nodes (recovery.min_nodes); what they miss is not counted here")
    if recovery.continue_ == "none":
        return Known(0.0, "nothing follows the job (recovery.continue: none): a lost node ends the run")
    if queue_s is None:
        source = "Slurm's own delay of a requeue alone; the queue's wait is unknown: give plan.queue_wait"
        return Known(REQUEUE_DELAY_S, source, assumed=True)
    return Known(REQUEUE_DELAY_S + queue_s, f"a requeue: {REQUEUE_DELAY_S:.0f} s of Slurm's own, and plan.queue_wait")


def _repair(config: Config) -> Known:
    if config.plan.repair is not None:
        return Known(config.plan.repair, "given: plan.repair")
    source = "assumed, the mean of 584 repairs of 400 nodes (InfiniteHBD trace, SIGCOMM 2025): give plan.repair"
    return Known(REPAIR_S, source, assumed=True)


def _interval(config: Config, measured: Measured | None, save: Known, mttf_s: float) -> Known | None:
    """What the run will have between two saves, as far as somebody knows."""
    saved = config.checkpoint
    if not saved.is_watched:
        whole_s, named = (
            (config.plan.work, "plan.work") if config.plan.work else (config.resources.time, "resources.time")
        )
        return None if whole_s is None else Known(whole_s, f"{named}: nothing is saved, a failure loses all of it")
    every = saved.every
    by_time = "auto" if every is None else every.time
    if saved.in_library and isinstance(by_time, float):
        return Known(max(by_time, saved.min_interval), "checkpoint.every.time")
    if saved.in_library and by_time == "auto" and (every is None or every.steps is None):
        best_s = daly(save.value, mttf_s)
        return Known(max(best_s, saved.min_interval), "checkpoint.every.time: auto, which is Daly's")
    if measured is not None and measured.interval_s is not None:
        between_s, source = measured.interval_s
        return Known(between_s - save.value, source) if between_s > save.value else None
    return None


def _unsaved(config: Config) -> tuple[str, ...]:
    if config.checkpoint.is_watched:
        return ()
    return ("nothing is saved, for checkpoint.files is not set: after every failure the work begins anew",)


def assumed(inputs: Inputs) -> tuple[str, ...]:
    """Return the names of what was neither given nor measured, nor follows from anything."""
    return tuple(name for name in ("save", "restart", "wait", "repair") if getattr(inputs, name).assumed)

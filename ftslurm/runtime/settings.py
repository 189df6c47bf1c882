"""From the configuration to what the core may do, how patient the detector is, and what agents are told."""

from __future__ import annotations

from ftslurm.config import Config
from ftslurm.core.detector import Settings
from ftslurm.core.health import Consequence, Level, Rule
from ftslurm.core.placement import Strategy
from ftslurm.core.progress import Patience
from ftslurm.core.recovery import Policy
from ftslurm.paths import RunPaths
from ftslurm.runtime.spec import CheckpointSpec, ProbeSpec, ProgressSpec


def policy_of(config: Config) -> Policy:
    """Return what the core is allowed to do."""
    recovery, saved = config.recovery, config.checkpoint
    return Policy(
        ranks_per_node=config.resources.ranks_per_node,
        min_nodes=recovery.min_nodes,
        world_multiple_of=recovery.world_multiple_of,
        world_sizes=recovery.world_sizes,
        spares=recovery.spares,
        placement=Strategy(recovery.placement),
        efficiency=recovery.efficiency,
        prefer=tuple(recovery.prefer),
        continue_by="none" if recovery.continue_ == "none" else "requeue",
        max_attempts=recovery.max_attempts,
        no_progress_limit=recovery.no_progress_limit,
        checkpoints=bool(saved.files),
        wants_all_ranks=any("{rank}" in pattern for pattern in saved.files),
        first_union_wait_s=max(6.0, 2 * config.heartbeat.suspect_after),
        can_ask_to_save=bool(saved.files) and saved.save_on != "none",
        muster_s=min(config.progress.startup, 120.0),
        grace_s=saved.grace,
        on_nan=config.progress.on_nan,
    )


def wanted_of(config: Config, allocated: int) -> int:
    """Return how many of the allocated nodes the run uses; the others are its spares.

    Of a range of nodes Slurm may give fewer than asked for: spares are kept as long as the range allows it.
    """
    low, high = config.resources.nodes
    return min(high, max(allocated - config.recovery.spares, min(low, allocated)))


def patience_of(config: Config) -> Patience:
    """Return when a program that is alive is called stuck."""
    wanted = config.progress
    return Patience(
        hang_after_s=wanted.hang_after if isinstance(wanted.hang_after, float) else None,
        auto=wanted.hang_after == "auto",
        startup_s=wanted.startup,
        expected=bool(wanted.log_pattern or wanted.files),
    )


def progress_of(config: Config) -> ProgressSpec:
    """Return how agents see the progress of programs that do not beat."""
    return ProgressSpec(log_pattern=config.progress.log_pattern or "", files=tuple(config.progress.files))


def probes_of(config: Config) -> ProbeSpec:
    """Return what agents measure on their nodes, and by which rules they judge it."""
    wanted = config.probes
    rules = (
        Rule(
            metric=rule.metric,
            limit=rule.limit,
            above=rule.above is not None,
            readings=rule.for_,
            severity=Level(rule.severity),
            action=Consequence(rule.action),
        )
        for rule in config.rules
    )
    return ProbeSpec(
        interval_s=wanted.interval,
        gpus=config.resources.gpus_per_node if wanted.gpus == "auto" else 0,
        compute=wanted.compute_test == "auto",
        python=config.command[0],
        rules=tuple(rules),
    )


def detector_of(config: Config) -> Settings:
    """Return how patient the failure detector is."""
    beat = config.heartbeat
    return Settings(
        interval_s=beat.interval,
        suspect_after_s=beat.suspect_after,
        nodes=config.resources.nodes[1],
        false_suspicions_s=beat.false_suspicions,
    )


def checkpoint_of(config: Config, paths: RunPaths) -> CheckpointSpec:
    """Return the checkpoints' part, placeholders filled in."""
    saved = config.checkpoint
    places = {"{run_dir}": str(paths.root), "{run_id}": paths.run_id, "{name}": config.name}
    shared = saved.shared
    for name, value in places.items():
        shared = shared.replace(name, value)
    return CheckpointSpec(
        files=tuple(saved.files),
        scratch=saved.scratch,
        shared=shared,
        keep_last=saved.keep_last,
        drain=saved.drain,
        drain_to=saved.drain_to or "",
        rate_limit=saved.rate_limit or 0.0,
        settle_s=saved.settle,
        done_marker=saved.done_marker or "",
        save_on=saved.save_on,
    )

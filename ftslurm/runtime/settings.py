"""From the configuration to what the core may do, how patient the detector is, and what agents are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ftslurm.checkpoint_section import Every
from ftslurm.config import Config
from ftslurm.core.detector import Settings
from ftslurm.core.health import Consequence, Level, Rule
from ftslurm.core.placement import Strategy
from ftslurm.core.progress import Patience
from ftslurm.core.recovery import Policy
from ftslurm.core.retention import Rules
from ftslurm.core.savepolicy import SavePolicy
from ftslurm.core.worlds import announced
from ftslurm.paths import RunPaths
from ftslurm.runtime.spec import CheckpointSpec, ProbeSpec, ProgressSpec, SyncSpec


def policy_of(config: Config) -> Policy:
    """Return what the core is allowed to do."""
    recovery, saved = config.recovery, config.checkpoint
    return Policy(
        ranks_per_node=config.resources.ranks_per_node,
        tasks_per_node=config.tasks_per_node,
        min_nodes=recovery.min_nodes,
        world_multiple_of=recovery.world_multiple_of,
        world_sizes=recovery.world_sizes,
        spares=recovery.spares,
        placement=Strategy(recovery.placement),
        efficiency=recovery.efficiency,
        prefer=tuple(recovery.prefer),
        # What a job finds out when it starts counts more (`runtime.onward`).
        continue_by="requeue" if recovery.continue_ == "auto" else recovery.continue_.partition(":")[0],
        max_attempts=recovery.max_attempts,
        no_progress_limit=recovery.no_progress_limit,
        checkpoints=saved.is_watched,
        wants_all_ranks=saved.in_library or any("{rank}" in pattern for pattern in saved.files),
        first_union_wait_s=max(6.0, 2 * config.heartbeat.suspect_after),
        library=saved.in_library,
        partner=_wants_partners(config),
        in_place=saved.in_place,
        reshards=reshards(config),
        deadman_s=config.heartbeat.deadman_after,
        durable_every_s=saved.durable_every or 0.0,
        drain_width=saved.drain_width,
        min_interval_s=saved.min_interval,
        can_ask_to_save=saved.in_library or (saved.is_watched and asked_by(config) != "none"),
        muster_s=min(config.progress.startup, 120.0),
        grace_s=saved.grace,
        on_nan=config.progress.on_nan,
    )


def reshards(config: Config) -> bool:
    """Return whether another number of ranks can load a checkpoint."""
    from ftslurm.checkpoint.frameworks.table import FRAMEWORKS

    saved = config.checkpoint
    if saved.reshards != "auto":
        return saved.reshards == "yes"
    return saved.layout not in FRAMEWORKS or FRAMEWORKS[saved.layout].reshards


def asked_by(config: Config) -> str:
    """Return how the program is asked to save."""
    from ftslurm.checkpoint.frameworks.table import FRAMEWORKS

    saved = config.checkpoint
    if saved.save_on is not None:
        return saved.save_on
    return FRAMEWORKS[saved.layout].save_on if saved.layout in FRAMEWORKS else "signal:TERM"


def handover_notes(config: Config) -> tuple[str, ...]:
    """Return what a user must know of checkpoints that were refused, and can be loaded nevertheless."""
    from ftslurm.checkpoint.enforcement import notes

    saved = config.checkpoint
    return notes(saved.layout, config.command, saved.resume_args, in_place=saved.in_place, manage=saved.manage)


def smaller_worlds(config: Config) -> tuple[str, ...]:
    """Return what a lost node means for the training, before it happens."""
    return announced(config.resources.nodes[1], policy_of(config))


def _wants_partners(config: Config) -> bool:
    """Copies go from scratch to scratch; where there can be one node only, there is nobody to copy to."""
    saved = config.checkpoint
    if not saved.is_watched or saved.in_place or saved.scratch == "none" or saved.partner == "none":
        return False
    return saved.partner == "always" or (saved.in_library and config.resources.nodes[1] > 1)


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
        collective_s=wanted.collective_timeout if isinstance(wanted.collective_timeout, float) else None,
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
        sample_every_s=0.0 if config.observe.sample_every == "none" else config.observe.sample_every,
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
        drain=saved.drain,
        drain_to=saved.drain_to or "",
        rate_limit=saved.rate_limit or 0.0,
        settle_s=saved.settle,
        done_marker=saved.done_marker or "",
        save_on=asked_by(config),
        layout=saved.layout,
        folder=str(Path.cwd() / saved.folder) if saved.in_place and saved.folder else "",
        also=tuple(saved.also),
        manage=saved.manage,
        partner=saved.partner,
        drain_width=saved.drain_width,
        durable_every_s=saved.durable_every or 0.0,
        delta=saved.delta,
        keep=keep_of(config),
        save=save_policy_of(config),
    )


def keep_of(config: Config) -> Rules:
    """Return which checkpoints stay."""
    saved = config.checkpoint
    rules = Rules(last=saved.keep_last, every_steps=saved.keep_every, max_age_s=saved.max_age or 0.0)
    best = saved.keep_best
    return rules if best is None else replace(rules, best=best.count, metric=best.metric, mode=best.mode)


def save_policy_of(config: Config) -> SavePolicy:
    """Return when a program of the library layout saves, and what its saves hold; nothing in the files layout."""
    saved = config.checkpoint
    if not saved.in_library:
        return SavePolicy()
    every = saved.every or Every(time="auto")
    policy = SavePolicy(
        every_steps=every.steps or 0,
        every_s=every.time,
        epoch_end=every.epoch,
        min_steps=saved.min_steps,
        min_interval_s=saved.min_interval,
        full_every=saved.full_every,
        compression=saved.compression,
    )
    if every.metric is None:
        return policy
    return replace(policy, metric=every.metric.name, metric_mode=every.metric.mode)


def sync_of(config: Config) -> SyncSpec:
    """Return where else the history of the training's state is kept."""
    sync = config.state.sync
    return SyncSpec() if sync is None else SyncSpec(to=sync.to, every_s=sync.every)

"""From the configuration to what the core may do, how patient the detector is, and what agents are told."""

from __future__ import annotations

from ftslurm.config import Config
from ftslurm.core.detector import Settings
from ftslurm.core.recovery import Policy
from ftslurm.paths import RunPaths
from ftslurm.runtime.spec import CheckpointSpec


def policy_of(config: Config) -> Policy:
    """Return what the core is allowed to do."""
    recovery, saved = config.recovery, config.checkpoint
    return Policy(
        ranks_per_node=config.resources.ranks_per_node,
        min_nodes=recovery.min_nodes,
        world_multiple_of=recovery.world_multiple_of,
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
    )


def detector_of(config: Config) -> Settings:
    """Return how patient the failure detector is."""
    return Settings(interval_s=config.heartbeat.interval, suspect_after_s=config.heartbeat.suspect_after)


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

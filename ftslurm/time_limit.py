"""What will happen at the time limit, in one line with its numbers: said when a run is submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftslurm.quantities import format_duration, format_slurm_time
from ftslurm.runtime.settings import asked_by, policy_of
from ftslurm.submission import SAVE_LEAD_S

if TYPE_CHECKING:
    from ftslurm.config import Config

_AFTER = {
    "auto": "then the job is requeued, or a new one is submitted where Slurm does not requeue it, and goes on from it",
    "requeue": "then the job is requeued and goes on from it",
    "resubmit": "then a new job is submitted from the node and goes on from it",
    "none": "then the run ends with exit code 1, and `ftslurm resume` continues it",
}


def outlook(config: Config) -> str:
    """The line for a run of this configuration."""
    lead_s, limit_s, count = config.checkpoint.grace + SAVE_LEAD_S, config.resources.time, config.recovery.chain
    limit = f"limit {format_slurm_time(limit_s)}" if limit_s is not None else "the partition's limit"
    after = _AFTER.get(config.recovery.continue_, "")
    if count:
        after = f"then the next of {count} jobs goes on from it; after the last one `ftslurm resume` does"
    early = ""
    if limit_s is not None and limit_s <= lead_s:
        early = "; THE LIMIT IS SHORTER THAN THAT: the run would leave as soon as it starts"
    return f"time limit: {limit}; {format_duration(lead_s)} before it {_save(config)}; {after}{early}"


def _save(config: Config) -> str:
    saved = config.checkpoint
    if not saved.is_watched:
        return "the program is stopped (no checkpoints are watched)"
    if not policy_of(config).can_ask_to_save:
        return "the program is stopped, without a save (checkpoint.save_on is none); what is saved is drained"
    how = "ftslurm.training" if saved.in_library else asked_by(config)
    given = format_duration(saved.grace)
    return f"the program is asked to save ({how}) and has {given}, and the save is drained to shared storage"

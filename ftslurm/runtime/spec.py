"""What agents are told of a run. No configuration is imported here: an agent starts in a fraction of a second."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSpec:
    """How agents watch and move checkpoints; `files` empty: none are watched."""

    files: tuple[str, ...]
    scratch: str
    shared: str
    keep_last: int
    drain: str
    drain_to: str
    rate_limit: float
    settle_s: float
    done_marker: str
    save_on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """Everything an agent is told when it is started; its secret comes from the run's key file."""

    run_id: str
    run_dir: str
    host: str
    port: int
    epoch: int
    interface: str
    ports: tuple[int, int]
    interval_s: float
    deadman_s: float
    checkpoint: CheckpointSpec

    def to_json(self) -> str:
        """Return the form that travels in the environment of the agents' step."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> AgentSpec:
        """Return what `to_json` was made from."""
        record = json.loads(text)
        saved = record.pop("checkpoint")
        saved["files"] = tuple(saved["files"])
        record["ports"] = tuple(record["ports"])
        return cls(checkpoint=CheckpointSpec(**saved), **record)

"""What agents are told of a run. No configuration is imported here: an agent starts in a fraction of a second."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ftslurm.core.health import Consequence, Level, Rule
from ftslurm.core.retention import Rules
from ftslurm.core.savepolicy import SavePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSpec:
    """How agents watch, copy and move checkpoints.

    `files` and what belongs to them say how those of the files layout are recognised; `save` is for the library
    layout. `folder` is where the program writes checkpoints that stay in place; empty: they do not. `durable_every_s`
    0: as many become durable as the storage takes.
    """

    files: tuple[str, ...]
    scratch: str
    shared: str
    drain: str
    drain_to: str
    rate_limit: float
    settle_s: float
    done_marker: str
    save_on: str
    layout: str = "files"
    folder: str = ""
    also: tuple[str, ...] = ()
    manage: bool = False
    partner: Literal["auto", "none", "always"] = "auto"
    drain_width: int = 16
    durable_every_s: float = 0.0
    delta: Literal["none", "auto"] = "none"
    keep: Rules = field(default_factory=Rules)
    save: SavePolicy = field(default_factory=SavePolicy)

    @property
    def in_library(self) -> bool:
        """Whether the program saves through `ftslurm.training`."""
        return self.layout == "library"

    @property
    def packs(self) -> bool:
        """Whether parts may leave the nodes packed."""
        return self.in_library and self.delta == "auto"

    @property
    def is_watched(self) -> bool:
        """Whether there will be checkpoints at all."""
        return self.layout != "files" or bool(self.files)

    @property
    def in_place(self) -> bool:
        """Whether checkpoints stay where the program writes them."""
        return bool(self.folder)

    @property
    def best_by(self) -> tuple[str, Literal["min", "max"]]:
        """The metric, and what good means, by which a generation is `best`; the loss where nothing else is said."""
        if self.keep.metric:
            return self.keep.metric, self.keep.mode
        return self.save.best_by

    @classmethod
    def of(cls, record: dict[str, Any]) -> CheckpointSpec:
        """Return what `asdict` made a record of."""
        keep, save = Rules(**record["keep"]), SavePolicy(**record["save"])
        names = {name: tuple(record[name]) for name in ("files", "also")}
        return cls(**{**record, **names, "keep": keep, "save": save})


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncSpec:
    """Where else the history of the training's state is kept; `to` empty: nowhere."""

    to: str = ""
    every_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressSpec:
    """How agents see the progress of programs that do not beat."""

    log_pattern: str = ""
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSpec:
    """What agents measure on their nodes; `interval_s`, `sample_every_s` 0: nothing, `gpus` 0: no GPU is expected."""

    interval_s: float = 30.0
    sample_every_s: float = 5.0
    gpus: int = 0
    compute: bool = True
    python: str = ""
    rules: tuple[Rule, ...] = ()

    @classmethod
    def of(cls, record: dict[str, Any]) -> ProbeSpec:
        """Return what `asdict` made a record of."""
        rules = (
            Rule(**{**each, "severity": Level(each["severity"]), "action": Consequence(each["action"])})
            for each in record.pop("rules")
        )
        return cls(**record, rules=tuple(rules))


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
    progress: ProgressSpec = ProgressSpec()
    probes: ProbeSpec = ProbeSpec()
    job_id: str = ""
    requeue_id: str = ""
    restart: int = 0
    takeover_after_s: float = 6.0
    umask: int = -1
    output: str = ""

    def to_json(self) -> str:
        """Return the form that travels in the environment of the agents' step."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> AgentSpec:
        """Return what `to_json` was made from."""
        record = json.loads(text)
        saved = CheckpointSpec.of(record.pop("checkpoint"))
        record["ports"] = tuple(record["ports"])
        record["probes"] = ProbeSpec.of(record.pop("probes"))
        seen = record.pop("progress")
        record["progress"] = ProgressSpec(**{**seen, "files": tuple(seen["files"])})
        return cls(checkpoint=saved, **record)

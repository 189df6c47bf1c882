"""The policy that a recorded run is replayed with: read from a file, laid beside the run's own.

A file with `command` is a whole configuration: what it leaves out has its default. Any other one holds changes: what
it leaves out stays as it was in the run. Of a whole one only the sections that decide something count
(`SECTIONS`); and what is a fact of the recorded run, as the ranks of a node or the layout of its checkpoints, stays as
it was: its events would mean something else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ftslurm import siteprofile
from ftslurm.config import Config, from_resolved, parse, text_of
from ftslurm.core.recovery import Policy
from ftslurm.core.savepolicy import SavePolicy
from ftslurm.errors import ConfigError, DataDamaged, StorageError
from ftslurm.paths import RunPaths
from ftslurm.runtime.settings import policy_of, save_policy_of
from ftslurm.yamldoc import read

SECTIONS = ("recovery", "checkpoint", "heartbeat", "progress")
"""Whose keys decide what is done about a failure, and when."""
FACTS = ("ranks_per_node", "tasks_per_node", "checkpoints", "wants_all_ranks", "library", "in_place")
"""Fields of `Policy` that say what the program and its files are, not what is wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One key that is not the same in both configurations; `why` it is not replayed, or a `remark` on how it is."""

    key: str
    own: str
    other: str
    why: str = ""
    remark: str = ""

    @property
    def counts(self) -> bool:
        """Whether it is replayed."""
        return not self.why


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What decides in a run.

    Attributes:
        policy: of the core.
        saving: when the program's library saves; nothing in other layouts, where the program decides.
        suspect_after_s: the silence after which a node is asked about.
        spares: nodes beyond those that are used.
        continue_by: how a job is gone on from; empty: as was found out when it started.
    """

    policy: Policy
    saving: SavePolicy = field(default_factory=SavePolicy)
    suspect_after_s: float = 3.0
    continue_by: str = ""

    @property
    def spares(self) -> int:
        """Nodes beyond those that are used."""
        return self.policy.spares


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """Another policy, and in what it differs from the run's own."""

    rules: Rules
    changes: tuple[Change, ...]

    @property
    def differs(self) -> bool:
        """Whether anything differs that is replayed."""
        return any(change.counts for change in self.changes)


def config_of(paths: RunPaths) -> Config:
    """Return the configuration that a run was recorded under.

    Raises:
        DataDamaged: it is no configuration of this release.
        StorageError: it cannot be read.
    """
    try:
        data = json.loads(paths.resolved.read_bytes())
        return siteprofile.of_run(from_resolved(data), paths)
    except OSError as error:
        raise StorageError(f"cannot read the run's configuration {paths.resolved}: {error.strerror}") from error
    except (ValueError, AttributeError, ConfigError) as error:
        hint = "it was perhaps written by another release of ftslurm"
        raise DataDamaged(f"the run's configuration {paths.resolved} cannot be read: {error}", hint=hint) from error


def rules_of(config: Config) -> Rules:
    """Return what decides in a run with this configuration."""
    saving = save_policy_of(config)
    return Rules(policy=policy_of(config), saving=saving, suspect_after_s=config.heartbeat.suspect_after)


def read_other(file: Path, own: Config) -> Other:
    """Return the policy of a file beside the run's own.

    Raises:
        ConfigError: the file cannot be read, or has mistakes; each with its line and column.
    """
    text = text_of(file)
    given = read(text).value
    if given == {}:
        raise ConfigError(f"{file} holds no section", hint=f"it may change {', '.join(SECTIONS)}")
    changes = isinstance(given, Mapping) and "command" not in given
    return compared(own, parse(text, str(file), _left_out(own.resolved(), given) if changes else None))


def _left_out(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What of the run's own configuration a file does not speak of."""
    found: dict[str, Any] = {}
    for name, value in own.items():
        said = given.get(name)
        if name not in given:
            found[name] = value
        elif isinstance(value, Mapping) and isinstance(said, Mapping):
            found[name] = _left_out(value, said)
    return found


def compared(own: Config, other: Config) -> Other:
    """Return what counts of another configuration, and in what it differs."""
    mine, wanted = policy_of(own), policy_of(other)
    kept = {name: getattr(mine, name) for name in FACTS}
    changes = tuple(_changes(own.resolved(), other.resolved()))
    rules = replace(rules_of(other), policy=replace(wanted, **kept))
    if own.checkpoint.layout != other.checkpoint.layout:
        rules = replace(rules, saving=save_policy_of(own))
    if own.recovery.continue_ != other.recovery.continue_:
        rules = replace(rules, continue_by=wanted.continue_by)
    return Other(rules=rules, changes=changes)


_FACT_KEYS = ("checkpoint.layout", "checkpoint.mode", "checkpoint.folder", "checkpoint.files", "checkpoint.also")
_FACT = "a fact of the recorded program: its events would mean something else"
_UNSEEN = "nothing in a journal depends on it"
_SEEN = {
    "recovery": frozenset(
        ("prefer", "spares", "min_nodes", "world_multiple_of", "world_sizes", "efficiency", "placement", "continue",
         "max_attempts", "no_progress_limit")
    ),
    "checkpoint": frozenset(
        ("reshards", "partner", "drain_width", "durable_every", "every", "min_interval", "min_steps", "save_on",
         "grace", "scratch")
    ),
    "heartbeat": frozenset(("suspect_after", "deadman_after")),
    "progress": frozenset(("startup", "on_nan")),
}  # fmt: skip
"""The keys that policies are made of (`runtime.settings`), and those that decide when a save or a question is due."""
_BY_PROGRAM = "in the projection only: the program's library decides on it, not the supervisor"
_REMARKS = {
    "recovery.spares": "in the projection only: the recorded jobs had the nodes that they had",
    "checkpoint.every": _BY_PROGRAM,
    "checkpoint.min_steps": _BY_PROGRAM,
}


def _changes(own: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[Change]:
    """Every key that differs, in the order of the configuration; the run root and the name are nobody's policy."""
    found: list[Change] = []
    for name in dict.fromkeys((*own, *other)):
        key = f"{prefix}{name}"
        mine, theirs = own.get(name), other.get(name)
        if mine == theirs:
            continue
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping) and not prefix:
            found += _changes(mine, theirs, f"{key}.")
        else:
            told = (_shown(mine), _shown(theirs))
            found.append(Change(key=key, own=told[0], other=told[1], why=_why_not(key), remark=_REMARKS.get(key, "")))
    return found


def _why_not(key: str) -> str:
    section, _, name = key.partition(".")
    if key in _FACT_KEYS or section in ("resources", "command", "launch"):
        return _FACT
    return "" if name in _SEEN.get(section, ()) else _UNSEEN


def _shown(value: Any) -> str:  # noqa: ANN401 - a value of a configuration
    return json.dumps(value, ensure_ascii=True) if not isinstance(value, str) else value

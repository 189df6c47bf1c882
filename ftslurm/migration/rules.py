"""What each key of the older form means today. Pure; one rule a key.

A rule turns a value into settings, each with a word about it, or says why there is none. Values are not checked against
their ranges here: the configuration does that itself, and what it refuses becomes a warning (`newfile`).
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ftslurm.migration.oldfile import name_of, shown
from ftslurm.quantities import format_duration

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A key of today with its value; `origin` says where it comes from; `key` is the older one, if there is one."""

    path: Path
    value: Any
    origin: str
    key: Key | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A key of the older file that is not in the new one, with its value, and why."""

    name: str
    value: Any
    why: str


@dataclass(slots=True)
class Result:
    """What has become of the older file: settings, remarks on what needs none, and what is lost."""

    settings: list[Setting] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)


class NotThat(ValueError):
    """A value that the rule can do nothing with; the message says why."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the older file."""

    path: Path
    value: Any

    @property
    def name(self) -> str:
        """For people."""
        return name_of(self.path)

    def setting(self, target: str, value: Any, word: str = "") -> Setting:  # noqa: ANN401 - any value of YAML
        """A setting that comes from this key."""
        origin = f"from {self.name}: {shown(self.value)}{f'; {word}' if word else ''}"
        return Setting(path=tuple(target.split(".")), value=value, origin=origin, key=self)

    def number(self) -> float:
        """Its value as a number that is not negative."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12 or math.isnan(value):
            raise NotThat("expected a number that is not negative")
        return float(value)

    def whole(self) -> int:
        """Its value as a whole number that is not negative."""
        if not self.number().is_integer():
            raise NotThat("expected a whole number")
        return int(self.value)

    def flag(self) -> bool:
        """Its value as a switch."""
        if not isinstance(self.value, bool):
            raise NotThat("expected true or false")
        return self.value

    def text(self) -> str:
        """Its value as text."""
        if not isinstance(self.value, str) or not self.value:
            raise NotThat("expected text")
        return self.value

    def folder(self) -> str:
        """Its value as an absolute path without placeholders."""
        if not self.text().startswith("/") or set(self.value) & set("{}"):
            raise NotThat("expected an absolute path, without braces")
        return self.text().rstrip("/") or "/"


Rule = Callable[[Key], list[Setting] | str]


def _seconds(target: str, word: str = "") -> Rule:
    def rule(key: Key) -> list[Setting]:
        said = f"in seconds{'; ' + word if word else ''}"
        return [key.setting(target, format_duration(key.number()), said)]

    return rule


def _count(target: str) -> Rule:
    return lambda key: [key.setting(target, key.whole())]


def _text(target: str) -> Rule:
    return lambda key: [key.setting(target, key.text())]


def _command(key: Key) -> list[Setting]:
    if isinstance(key.value, list):
        if not key.value or not all(isinstance(each, str) for each in key.value):
            raise NotThat("expected a list of texts")
        return [key.setting("command", list(key.value))]
    try:
        return [key.setting("command", shlex.split(key.text()), "split into words; no shell expands it")]
    except ValueError as error:
        raise NotThat(f"it cannot be split into words: {error}") from error


def _auto_recovery(key: Key) -> list[Setting] | str:
    if key.flag():
        return "a run always recovers"
    return [key.setting("recovery.max_attempts", 1, "no second attempt"), key.setting("recovery.continue", "none")]


def _retries(key: Key) -> list[Setting]:
    return [key.setting("recovery.max_attempts", key.whole() + 1, "attempts count the first one")]


def _placement(key: Key) -> list[Setting]:
    if key.value not in ("load_balanced", "round_robin"):
        raise NotThat("expected load_balanced or round_robin")
    return [key.setting("recovery.placement", key.value)]


def _compression(key: Key) -> list[Setting]:
    return [key.setting("checkpoint.compression", "zstd" if key.flag() else "none")]


def _folder_of_checkpoints(key: Key) -> list[Setting]:
    return [key.setting("checkpoint.shared", f"{key.folder()}/{{run_id}}", "every run has a folder of its own there")]


def _backend(key: Key) -> str:
    if str(key.value).lower() not in {"file", "files", "filesystem", "file_system", "local", "nfs", "lustre", "posix"}:
        raise NotThat("the history of the state is kept as files in the run's folder, nowhere else")
    return "the history of the state is always kept as files in the run's folder"


def _destination(key: Key) -> list[Setting]:
    return [key.setting("state.sync.to", key.folder(), "a second copy; the run's folder has the first")]


SLOW = "ftslurm's own default is 3s: without this line a lost node is noticed sooner"
RULES: Mapping[str, Rule] = {
    "name": _text("name"),
    "job_name": _text("name"),
    "run_name": _text("name"),
    "command": _command,
    "nodes": _count("resources.nodes"),
    "num_nodes": _count("resources.nodes"),
    "ranks_per_node": _count("resources.ranks_per_node"),
    "ntasks_per_node": _count("resources.ranks_per_node"),
    "tasks_per_node": _count("resources.ranks_per_node"),
    "gpus_per_node": _count("resources.gpus_per_node"),
    "cpus_per_task": _count("resources.cpus_per_rank"),
    "time": _text("resources.time"),
    "time_limit": _text("resources.time"),
    "partition": _text("resources.partition"),
    "fault_tolerance.heartbeat_interval": _seconds("heartbeat.interval"),
    "fault_tolerance.node_failure_timeout": _seconds("heartbeat.suspect_after", SLOW),
    "fault_tolerance.enable_auto_recovery": _auto_recovery,
    "fault_tolerance.max_retry_attempts": _retries,
    "fault_tolerance.migration_strategy": _placement,
    "checkpoint.keep_last_n_checkpoints": _count("checkpoint.keep_last"),
    "checkpoint.enable_compression": _compression,
    "checkpoint.checkpoint_dir": _folder_of_checkpoints,
    "state_persistence.storage_backend": _backend,
    "state_persistence.storage_path": _destination,
    "state_persistence.sync_interval_seconds": _seconds("state.sync.every"),
}
TRIGGERS = frozenset({"strategy", "epoch_interval", "time_interval_minutes", "step_interval"})
"""Keys of `checkpoint` that only make sense together."""

PLACES = ("resources", "slurm", "job")
"""Sections in which the keys of the first group may stand, besides the top."""

STRATEGIES: Mapping[str, tuple[str, ...]] = {
    "hybrid": ("epoch_interval", "time_interval_minutes", "step_interval"),
    "epoch": ("epoch_interval",),
    "time": ("time_interval_minutes",),
    "time_based": ("time_interval_minutes",),
    "step": ("step_interval",),
    "steps": ("step_interval",),
}


def migrated(old: Mapping[str, Any]) -> Result:
    """What becomes of the older file."""
    result = Result()
    triggers: dict[str, Key] = {}
    for key in _keys(old):
        if key.path[0] == "checkpoint" and key.path[1:] and key.path[1] in TRIGGERS:
            triggers[key.path[1]] = key
        else:
            _apply(key, RULES.get(_rule_name(key.path)), result)
    _when_to_save(triggers, result)
    return result


def _keys(old: Mapping[str, Any]) -> list[Key]:
    """Every key, those of sections one by one."""
    found = []
    for name, value in old.items():
        if isinstance(value, dict) and value:
            found += [Key((name, inner), each) for inner, each in value.items()]
        else:
            found.append(Key((name,), value))
    return found


def _rule_name(path: Path) -> str:
    """The rule's name: keys about the job may stand at the top or in a section of theirs."""
    return path[-1] if len(path) == 2 and path[0] in PLACES else ".".join(path)


def _apply(key: Key, rule: Rule | None, result: Result) -> None:
    if rule is None:
        result.lost.append(Lost(name=key.name, value=key.value, why="there is no counterpart"))
        return
    try:
        found = rule(key)
    except NotThat as error:
        result.lost.append(Lost(name=key.name, value=key.value, why=str(error)))
        return
    if isinstance(found, str):
        result.remarks.append(f"{key.name}: {shown(key.value)} needs no setting: {found}")
        return
    for setting in found:
        _put(key, setting, result)


def _put(key: Key, setting: Setting, result: Result) -> None:
    """Add a setting; of two for one key the first stays."""
    before = [each for each in result.settings if each.path == setting.path]
    if before and before[0].value != setting.value:
        why = f"{name_of(setting.path)} is set already, {before[0].origin}"
        result.lost.append(Lost(name=key.name, value=key.value, why=why))
    elif not before:
        result.settings.append(setting)


# ------------------------------------------------------------------------------------------------------ when to save


def _when_to_save(triggers: Mapping[str, Key], result: Result) -> None:
    """The strategy and its intervals: ftslurm decides when to save where the program saves through its library."""
    if not triggers:
        return
    strategy = triggers.get("strategy")
    used = STRATEGIES.get(str(strategy.value)) if strategy else STRATEGIES["hybrid"]
    if used is None and strategy:
        why = f"the strategies are {', '.join(STRATEGIES)}; the intervals are taken as they are"
        result.lost.append(Lost(name=strategy.name, value=strategy.value, why=why))
        used = STRATEGIES["hybrid"]
    elif strategy and strategy.value != "hybrid":
        result.remarks.append(f"{strategy.name}: {shown(strategy.value)} needs no setting: the interval says it")
    elif strategy:
        result.remarks.append(f"{strategy.name}: {shown(strategy.value)} needs no setting: whichever comes first")
    rules = {
        "epoch_interval": _epochs,
        "time_interval_minutes": _minutes,
        "step_interval": _count("checkpoint.every.steps"),
    }
    for name, rule in rules.items():
        key = triggers.get(name)
        if key is not None and used is not None and name in used:
            _apply(key, rule, result)
            if name == "epoch_interval" and key.value not in (0, 1):
                result.lost.append(Lost(name=key.name, value=key.value, why="every epoch is saved, not one in so many"))
        elif key is not None:
            result.lost.append(Lost(name=key.name, value=key.value, why="the strategy does not use it"))


def _epochs(key: Key) -> list[Setting] | str:
    if key.whole() == 0:
        return "no epoch is saved for being one"
    return [key.setting("checkpoint.every.epoch", True)]  # noqa: FBT003 - a value of YAML


def _minutes(key: Key) -> list[Setting]:
    return [key.setting("checkpoint.every.time", format_duration(60 * key.number()), "in minutes")]


INTERVALS: Mapping[str, Rule] = {
    "epoch_interval": _epochs,
    "time_interval_minutes": _minutes,
    "step_interval": _count("checkpoint.every.steps"),
}

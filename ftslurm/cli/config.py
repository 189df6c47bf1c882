"""`ftslurm config`: check a file, show it with all defaults, describe every key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ftslurm.config import Config

CHECK_EXAMPLES = """\b
Examples:
  ftslurm config check train.yaml                     # what would be submitted, or every mistake at once
  ftslurm config check train.yaml --json | jq .ok
"""
SHOW_EXAMPLES = """\b
Examples:
  ftslurm config show train.yaml                      # YAML with every default filled in
  ftslurm config show train.yaml --json
"""
SCHEMA_EXAMPLES = """\b
Examples:
  ftslurm config schema > ftslurm.schema.json         # then, as the first line of a configuration:
  # yaml-language-server: $schema=ftslurm.schema.json
"""
MIGRATE_EXAMPLES = """\b
Examples:
  ftslurm config migrate old.json                     # print the configuration, warnings on stderr
  ftslurm config migrate old.json -o train.yaml       # fill in what is marked; then: config check
\b
Nothing is dropped silently: every key has a comment that says where it comes from, and what has no effect any more is
kept as a comment, with a warning.
"""
GROUP_EXAMPLES = """\b
Examples:
  ftslurm config check train.yaml
  ftslurm config show train.yaml
  ftslurm config schema > ftslurm.schema.json
  ftslurm config migrate old.json -o train.yaml
"""

file_argument = click.argument("file", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


@click.group(epilog=GROUP_EXAMPLES)
def config() -> None:
    """Check, show and describe configuration files. Values of secrets are never printed."""


@config.command(epilog=CHECK_EXAMPLES)
@file_argument
@json_option
def check(file: Path, *, as_json: bool) -> None:
    """Say what FILE would run, or everything that is wrong with it (exit code 2)."""
    from ftslurm.config import load
    from ftslurm.errors import ConfigError

    try:
        loaded = load(file)
    except ConfigError as error:
        if as_json:
            _print_json({"ok": False, "error": str(error).splitlines()[0], "problems": str(error).splitlines()[1:]})
        raise
    if as_json:
        _print_json({"ok": True, "config": loaded.resolved()})
    else:
        click.echo("\n".join(f"{label:<12} {text}" for label, text in describe(loaded)))


@config.command(epilog=SHOW_EXAMPLES)
@file_argument
@json_option
def show(file: Path, *, as_json: bool) -> None:
    """Print FILE with all defaults filled in."""
    from ftslurm.config import load

    resolved = load(file).resolved()
    if as_json:
        _print_json({"config": resolved})
        return
    import yaml

    click.echo(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True, width=100), nl=False)


@config.command(epilog=SCHEMA_EXAMPLES)
def schema() -> None:
    """Print the JSON Schema of configuration files: every key, its meaning and its default."""
    import json

    from ftslurm.config import json_schema

    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@config.command(epilog=MIGRATE_EXAMPLES)
@click.argument("old", metavar="OLD.json", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write, which must not exist.")
def migrate(old: Path, output: Path | None) -> None:
    """Turn the older JSON (fault_tolerance, checkpoint, state_persistence) into a configuration."""
    from ftslurm.migration.newfile import checked, warnings, written
    from ftslurm.migration.oldfile import read
    from ftslurm.migration.rules import migrated

    found = checked(migrated(read(old)))
    text = written(found, old.name)
    for line in warnings(found):
        click.echo(f"ftslurm: warning: {line}", err=True)
    if output is None:
        click.echo(text, nl=False)
        return
    _write_new(output, text)
    click.echo(f"{output} is written; fill in what is marked, and then: ftslurm config check {output}", err=True)


def _write_new(path: Path, text: str) -> None:
    from ftslurm.errors import CannotCreate

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CannotCreate(f"cannot write {path}: {error.strerror}", hint="name a file that does not exist") from error


def describe(config: Config) -> list[tuple[str, str]]:
    """What would be run, as pairs of a label and a few words."""
    import shlex

    from ftslurm.quantities import format_duration, format_slurm_time
    from ftslurm.runtime.settings import asked_by

    resources, launch, recovery, saved = config.resources, config.launch, config.recovery, config.checkpoint
    least, most = resources.nodes
    nodes = str(most) if least == most else f"{least} to {most}"
    gpus = f", {resources.gpus_per_node} GPUs a node" if resources.gpus_per_node else ""
    limit = format_slurm_time(resources.time) if resources.time is not None else "the partition's"
    return [
        ("run", config.name),
        ("command", shlex.join(config.command)),
        ("ranks", f"{nodes} nodes x {resources.ranks_per_node}{gpus}, started by {launch.launcher}"),
        ("partition", resources.partition or "the cluster's default"),
        ("time limit", f"{limit}; {format_duration(saved.grace)} before it: {asked_by(config)}"),
        ("failures", f"goes on with {recovery.min_nodes} nodes or more, at most {recovery.max_attempts} attempts"),
        ("checkpoints", _checkpoints(config)),
        *([("sbatch", _options(resources.sbatch))] if resources.sbatch else []),
    ]


def _checkpoints(config: Config) -> str:
    saved = config.checkpoint
    if not saved.is_watched:
        return "none watched (checkpoint.files is not set): every attempt starts from the beginning"
    what = "by ftslurm.training" if saved.in_library else ", ".join(saved.files) or f"those of {saved.layout}"
    if saved.in_place:
        return f"{what}, as they lie in {saved.folder}; manifests of the last {saved.keep_last} in {saved.shared}"
    return f"{what}, the last {saved.keep_last} in {saved.shared}"


def _options(options: dict[str, Any]) -> str:
    """The pass-through options as sbatch would get them, without secrets."""
    import shlex

    from ftslurm.passthrough import hide_assignments

    words = []
    for name, setting in options.items():
        if isinstance(setting, bool):
            words += [f"--{name}"] if setting else []
        else:
            values = setting if isinstance(setting, tuple) else (setting,)
            words += [f"--{name}={hide_assignments(value)}" for value in values]
    return shlex.join(words)


def _print_json(content: dict[str, Any]) -> None:
    import json

    click.echo(json.dumps({"meta": {"schema": 1}, **content}, indent=2, ensure_ascii=False))

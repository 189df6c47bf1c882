"""The keys that say how training is saved: the two layouts, the triggers, what is kept."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from ftslurm.config import Config, from_resolved, json_schema, parse
from ftslurm.core.retention import Rules
from ftslurm.core.savepolicy import SavePolicy
from ftslurm.errors import ConfigError
from ftslurm.paths import RunPaths
from ftslurm.runtime.settings import checkpoint_of, keep_of, policy_of, save_policy_of, sync_of
from ftslurm.runtime.spec import AgentSpec, CheckpointSpec, SyncSpec

HEAD = "name: small\ncommand: [python, train.py]\nresources: {nodes: 2}\n"
LIBRARY = f"""\
{HEAD}checkpoint:
  layout: library
  partner: always
  every: {{steps: 1000, time: 30m, epoch: true, metric: {{name: loss, mode: max}}}}
  min_interval: 30s
  min_steps: 10
  durable_every: 10m
  full_every: 4
  compression: zstd
  delta: auto
  keep_last: 3
  keep_best: {{metric: loss, count: 2}}
  keep_every: 10000
  max_age: 7d
  drain_width: 8
state:
  sync: {{to: 'backup:/pool/history', every: 90s}}
"""


def of(text: str) -> Config:
    """The configuration in a text."""
    return parse(text, "run.yaml")


def test_library_layout_arrives() -> None:
    """Every key reaches the record that agents, ranks and retention work with."""
    config = of(LIBRARY)
    spec = checkpoint_of(config, RunPaths(Path("/runs/small-1")))
    assert (spec.layout, spec.partner, spec.drain_width, spec.durable_every_s) == ("library", "always", 8, 600.0)
    assert spec.delta == "auto"
    assert spec.keep == Rules(last=3, best=2, metric="loss", mode="min", every_steps=10000, max_age_s=7 * 86400.0)
    assert spec.save == SavePolicy(
        every_steps=1000,
        every_s=1800.0,
        epoch_end=True,
        metric="loss",
        metric_mode="max",
        min_steps=10,
        min_interval_s=30.0,
        full_every=4,
        compression="zstd",
    )
    assert sync_of(config) == SyncSpec(to="backup:/pool/history", every_s=90.0)
    assert from_resolved(config.resolved()) == config


def test_library_needs_two_words() -> None:
    """`layout: library` is enough: saves come as often as measured to be best, and each rank's part is waited for."""
    config = of(HEAD + "checkpoint: {layout: library}\n")
    assert save_policy_of(config) == SavePolicy(every_s="auto", full_every=8)
    policy = policy_of(config)
    assert (policy.checkpoints, policy.wants_all_ranks, policy.can_ask_to_save) == (True, True, True)


def test_files_layout_decides_nothing() -> None:
    """In the files layout the program saves when it wants; retention is the same."""
    config = of(HEAD + "checkpoint: {files: '*.pt', keep_last: 2, keep_every: 100}\n")
    assert save_policy_of(config) == SavePolicy()
    assert keep_of(config) == Rules(last=2, every_steps=100)
    assert sync_of(config) == SyncSpec()


def test_agents_read_what_they_are_told() -> None:
    """The nested records survive the environment of the agents' step."""
    spec = checkpoint_of(of(LIBRARY), RunPaths(Path("/runs/small-1")))
    told = AgentSpec(
        run_id="small-1",
        run_dir="/runs/small-1",
        host="n1",
        port=1,
        epoch=0,
        interface="auto",
        ports=(1, 2),
        interval_s=1.0,
        deadman_s=1.0,
        checkpoint=spec,
    )
    assert AgentSpec.from_json(told.to_json()) == told
    assert CheckpointSpec.of(asdict(spec)) == spec


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{layout: library, files: '*.pt'}", "checkpoint.files: not with checkpoint.layout: library: ftslurm.training saves and restores by itself"),
        ("{layout: library, resume_args: [-r]}", "checkpoint.resume_args: not with checkpoint.layout: library: ftslurm.training saves and restores by itself"),
        ("{layout: library, save_on: none}", "checkpoint.save_on: not with checkpoint.layout: library: ftslurm.training saves and restores by itself"),
        ("{files: '*.pt', every: {steps: 5}}", "checkpoint.every: only with checkpoint.layout: library; with files the program decides when it saves, and what"),
        ("{files: '*.pt', keep_best: {metric: loss}}", "checkpoint.keep_best: only with checkpoint.layout: library; with files the program decides when it saves, and what"),
        ("{min_interval: 30s}", "checkpoint.min_interval: only with checkpoint.layout: library; with files the program decides when it saves, and what"),
        ("{layout: library, full_every: 1, delta: auto}", "checkpoint.delta: there are no differential saves: checkpoint.full_every is 1"),
        ("{layout: library, every: {}}", "checkpoint.every: expected at least one of steps, time, epoch and metric"),
        ("{layout: library, every: {time: often}}", "checkpoint.every.time: expected a duration such as 500ms, 30s, 15m, 2h or 1h30m, got 'often'"),
        ("{layout: library, every: {time: 30}}", "checkpoint.every.time: a duration needs a unit; write 30s or 30ms"),
        ("{layout: library, every: {time: 90d}}", "checkpoint.every.time: must be auto, or between 100ms and 30d"),
        ("{layout: library, every: {step: 5}}", "checkpoint.every.step: unknown key; did you mean steps?"),
        ("{layout: library, every: {steps: 0}}", "checkpoint.every.steps: must be at least 1, got 0"),
        ("{layout: library, every: {metric: loss}}", "checkpoint.every.metric: expected a section (lines of `key: value`), got 'loss'"),
        ("{layout: library, every: {metric: {mode: min}}}", "checkpoint.every.metric.name: required, but missing"),
        ("{layout: library, keep_best: {metric: loss, mode: least}}", "checkpoint.keep_best.mode: expected min or max, got 'least'"),
        ("{max_age: 1s}", "checkpoint.max_age: must be between 1m and 3650d"),
        ("{max_age: 7}", "checkpoint.max_age: a duration needs a unit; write 7s or 7ms"),
        ("{partner: yes}", "checkpoint.partner: expected auto, none or always, got 'yes'"),
    ],
)  # fmt: skip
def test_mistakes(text: str, problem: str) -> None:
    """One mistake is one sentence that says what to write, or which other key it does not go with."""
    with pytest.raises(ConfigError) as caught:
        of(f"{HEAD}checkpoint: {text}\n")
    headline, line = str(caught.value).splitlines()
    assert headline == "1 problem in run.yaml"
    assert line.partition(": ")[2] == problem


def test_no_partner_on_one_node() -> None:
    """`partner: always` needs a second node."""
    with pytest.raises(ConfigError, match=r"checkpoint\.partner: there is no partner: resources\.nodes is 1"):
        of("name: x\ncommand: [a]\nresources: {nodes: 1}\ncheckpoint: {layout: library, partner: always}\n")


@pytest.mark.parametrize("to", ["history", "host:history", "-oProxyCommand=x:/a"])
def test_places_of_the_history(to: str) -> None:
    """The history goes to a folder, or to a host by rsync; nothing else."""
    with pytest.raises(ConfigError, match=r"state\.sync\.to: expected an absolute path or host:/path"):
        of(f"{HEAD}state: {{sync: {{to: '{to}'}}}}\n")


def test_schema_of_nested_sections() -> None:
    """The schema writes the defaults of sections inside sections as a user would."""
    sections = json_schema()["$defs"]
    assert sections["Sync"]["properties"]["every"]["default"] == "1m"
    assert sections["Every"]["additionalProperties"] is False
    assert "default" not in sections["KeepBest"]["properties"]["metric"]

"""The keys that say whose layout a checkpoint has, and whether it stays where the program writes it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from ftslurm.config import Config, from_resolved, parse
from ftslurm.errors import ConfigError
from ftslurm.paths import RunPaths
from ftslurm.runtime.settings import asked_by, checkpoint_of, policy_of
from ftslurm.runtime.spec import CheckpointSpec

HEAD = "name: small\ncommand: [python, train.py]\nresources: {nodes: 2}\n"
RUN = RunPaths(Path("/runs/small-1"))


def of(text: str) -> Config:
    """The configuration with this section on checkpoints."""
    return parse(f"{HEAD}checkpoint: {text}\n", "run.yaml")


def test_in_place_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key reaches the agents' record; a relative folder is one of the working directory; nothing is partnered."""
    monkeypatch.chdir(tmp_path)
    config = of("{layout: hf, mode: in-place, folder: out, also: 'data_{step}.json', manage: true, partner: auto}")
    spec = checkpoint_of(config, RUN)
    assert (spec.folder, spec.also, spec.manage) == (str(tmp_path / "out"), ("data_{step}.json",), True)
    assert (spec.in_place, spec.is_watched, spec.in_library) == (True, True, False)
    assert CheckpointSpec.of(asdict(spec)) == spec
    policy = policy_of(config)
    assert (policy.in_place, policy.partner, policy.checkpoints, policy.deadman_s) == (True, False, True, 10.0)
    assert from_resolved(config.resolved()) == config


def test_drained_ones_have_no_folder() -> None:
    """Without `mode: in-place` nothing of it is there."""
    spec = checkpoint_of(of("{layout: hf}"), RUN)
    assert (spec.folder, spec.in_place, spec.is_watched) == ("", False, True)


@pytest.mark.parametrize(
    ("section", "reshards", "save_on"),
    [
        ("{files: '*.pt'}", True, "signal:TERM"),
        ("{files: '*.pt', reshards: no}", False, "signal:TERM"),
        ("{layout: hf}", True, "none"),
        ("{layout: megatron}", False, "signal:TERM"),
        ("{layout: megatron, reshards: yes}", True, "signal:TERM"),
        ("{layout: deepspeed, save_on: 'signal:USR1'}", False, "signal:USR1"),
        ("{layout: library}", True, "signal:TERM"),
    ],
)
def test_a_layout_has_its_own_ways(section: str, reshards: bool, save_on: str) -> None:
    """Whether a smaller world is allowed, and how a program is asked to save, is known of a layout; a key beats it."""
    config = of(section)
    assert (policy_of(config).reshards, asked_by(config)) == (reshards, save_on)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{files: '*.pt', mode: in-place}", "in-place needs checkpoint.folder"),
        ("{files: '*.pt', folder: /out}", "checkpoint.folder: only with checkpoint.mode: in-place"),
        ("{files: '*.pt', manage: true}", "checkpoint.manage: only with checkpoint.mode: in-place"),
        (
            "{layout: hf, files: '*.pt'}",
            "checkpoint.files: only with checkpoint.layout: files; the names of hf are known",
        ),
        ("{layout: library, mode: in-place, folder: /o}", "checkpoint.mode: not with checkpoint.layout: library"),
        (
            "{layout: hf, mode: in-place, folder: o, drain: rsync}",
            "checkpoint.drain: not with checkpoint.mode: in-place",
        ),
        ("{layout: hf, mode: in-place, folder: o, also: run.id}", "'run.id' holds no {step}"),
        ("{layout: hf, mode: in-place, folder: o, also: ../x}", "may not leave it"),
    ],
)
def test_what_contradicts_is_refused(section: str, said: str) -> None:
    """Keys that would do nothing, or the wrong thing, are mistakes that name the other key."""
    with pytest.raises(ConfigError) as refused:
        of(section)
    assert said in str(refused.value)

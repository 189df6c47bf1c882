from __future__ import annotations

import pytest

from ftslurm.checkpoint.patterns import Marker, Patterns
from ftslurm.errors import ConfigError


@pytest.mark.parametrize(
    ("pattern", "name", "step", "rank", "alone"),
    [
        ("step_*.pt", "step_500.pt", 500, None, True),
        ("step_*.pt", "step_000500.pt", 500, None, True),
        ("step_*.pt", "step_500_rank_3.pt", 500, None, False),
        ("step_{step}.pt", "step_7.pt", 7, None, True),
        ("gpt2_step_*.pt", "gpt2_step_9.pt", 9, None, True),
        ("step_{step}_r{rank}.pt", "step_3_r3.pt", 3, 3, False),
        ("*_r{rank}.pt", "step3_r3.pt", 3, 3, False),
        ("step_{step}/rank_{rank}.pt", "step_10/rank_2.pt", 10, 2, False),
        ("step_*/*.pt", "step_10/model-4.pt", 10, None, False),
        ("checkpoint-{step}/*", "checkpoint-10/model.safetensors", 10, None, False),
        ("{step}/{step}.pt", "4/4.pt", 4, None, False),
        ("ck [1]+(*).pt", "ck [1]+(8).pt", 8, None, True),
    ],
)
def test_what_a_name_says(pattern: str, name: str, step: int, rank: int | None, alone: bool) -> None:
    """Step and rank are read from the wildcards, never from the fixed text."""
    found = Patterns.parse(pattern).match(name)
    assert found is not None
    assert (found.step, found.rank, found.alone) == (step, rank, alone)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("step_*.pt", "step_500.pt.tmp"),
        ("step_*", "step_500.part"),
        ("step_*", "step_500~"),
        ("step_*", ".step_500"),
        ("*_500", ".x_500"),
        ("step_*/*", "step_5/.model.bin"),
        ("step_*.pt", "step_last.pt"),
        ("step_*.pt", "sub/step_5.pt"),
        ("step_*.pt", "step_5/x.pt"),
        ("step_{step}.pt", "step_x.pt"),
        ("step_{step}.pt", "step_5.pt\n"),
        ("{step}/{step}.pt", "4/5.pt"),
        ("step_{step}.pt", "step_" + "9" * 20 + ".pt"),
    ],
)
def test_names_that_do_not_match(pattern: str, name: str) -> None:
    """Temporary names, other folders and names without a step are no checkpoints."""
    assert Patterns.parse(pattern).match(name) is None


@pytest.mark.parametrize(
    "pattern", ["", "/abs/*.pt", "../*.pt", "last.pt", "**/*.pt", "step_*.tmp", "a\n*", "rank_{rank}.pt"]
)
def test_patterns_that_cannot_be_meant(pattern: str) -> None:
    """A pattern that leaves the folder, tells no step or matches nothing is a mistake of the configuration."""
    with pytest.raises(ConfigError):
        Patterns.parse(pattern)
    with pytest.raises(ConfigError):
        Patterns.parse([])


def test_folders_that_may_hold_checkpoints() -> None:
    """Only folders on the way to a pattern are looked into."""
    patterns = Patterns.parse(["ck/step_*/*.pt", "top_*.pt"])
    assert patterns.may_hold("ck")
    assert patterns.may_hold("ck/step_5")
    assert not patterns.may_hold("logs")
    assert not patterns.may_hold("ck/other")
    assert not patterns.may_hold("ck/step_5/deeper")


def test_a_list_of_patterns_never_means_a_single_file() -> None:
    """With two patterns a step may have two files."""
    found = Patterns.parse(["model_*.pt", "optim_*.pt"]).match("optim_3.pt")
    assert found is not None
    assert not found.alone


@pytest.mark.parametrize(
    ("marker", "name", "step", "wanted"),
    [
        ("{file}.done", "a/step_5.pt", 5, "a/step_5.pt.done"),
        ("{folder}/DONE", "step_005/x.pt", 5, "step_005/DONE"),
        ("{folder}/DONE_{step}", "step_5.pt", 5, "DONE_5"),
        ("step_{step}.done", "step_5.pt", 5, "step_5.done"),
    ],
)
def test_markers(marker: str, name: str, step: int, wanted: str) -> None:
    """A marker's name follows from the file's, and is no checkpoint itself."""
    assert Marker(marker).of(name, step) == wanted
    assert Marker(marker).is_one(wanted, step)
    assert not Marker(marker).is_one(name, step)


def test_a_marker_that_speaks_for_all_is_refused() -> None:
    """One marker for every checkpoint says nothing about any."""
    with pytest.raises(ConfigError):
        Marker("DONE")

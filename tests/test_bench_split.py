"""Where a recovery's time went, read from a journal: the phases follow each other and add up."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from tests.local_ranks import ROOT

spec = importlib.util.spec_from_file_location("split", ROOT / "scripts" / "benchmarks" / "split.py")
assert spec is not None
assert spec.loader is not None
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)


def entry(at: float, event: str = "Tick", *actions: str) -> dict[str, Any]:
    """One line of a journal."""
    return {"t": at, "event": {"type": event}, "actions": [{"type": name} for name in actions]}


def test_a_killed_rank() -> None:
    """Each phase begins where the one before ended, and nothing before the fault counts."""
    journal = [
        entry(1.0, "WorldMustered", "ReleaseRanks"), entry(10.5, "RankExited", "FenceAttempt"),
        entry(10.75, "NodeFenced", "LaunchAttempt"), entry(11.0, "WorldMustered", "ReleaseRanks"),
    ]  # fmt: skip
    assert module.split(journal, 10.0, 15.0) == {"detect": 0.5, "decide": 0, "stop": 0.25, "launch": 0.25, "first": 4}


def test_a_successor_that_adopts_the_attempt_first() -> None:
    """The word to ranks of the adopted attempt is none to the new ones: no phase is negative."""
    journal = [
        entry(6.0, "NodeSuspected", "ReleaseRanks"), entry(9.0, "NodeProbed", "FenceAttempt"),
        entry(9.25, "NodeFenced", "LaunchAttempt"), entry(9.75, "WorldMustered", "ReleaseRanks"),
    ]  # fmt: skip
    found = module.split(journal, 0.0, 13.0)
    assert found == {"detect": 6, "decide": 3, "stop": 0.25, "launch": 0.5, "first": 3.25}
    assert sum(found.values()) == pytest.approx(13.0)


def test_a_recovery_that_does_not_come() -> None:
    """What did not happen has no time, and nothing after it has."""
    assert module.split([entry(10.5, "LaunchEnded", "FenceAttempt")], 10.0, 15.0) == {"detect": 0.5, "decide": 0}

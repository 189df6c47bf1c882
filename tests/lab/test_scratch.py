"""Runs without node-local scratch: none is wanted, or what was named is the same folder on all nodes."""

from __future__ import annotations

import re
import signal

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.library import library, right_digest
from tests.lab.longer import long_test
from tests.lab.training import workplace

pytestmark = pytest.mark.lab

STEPS = 100
SHORT = ("--steps", STEPS)


@long_test("two runs of the library layout that have no scratch")
def test_the_library_saves_and_restores_without_scratch(lab: Cluster) -> None:
    """A rank is killed where no scratch is wanted, and where it was no node's own: shared storage has all, and is right."""
    common = workplace(lab, "common", None)
    none = library(lab, name="none", nodes=2, words=SHORT, checkpoint={"scratch": "none"})
    shared = library(lab, name="shared", nodes=2, words=SHORT, checkpoint={"scratch": str(common)})
    for run in (none, shared):
        run.wait("a committed checkpoint", run.durable)
        next(proc for proc in run.processes("rank") if proc.rank == 1).send(signal.SIGKILL)
    for run in (none, shared):
        assert run.wait_end() == ("finished", 0)
        assert set(run.done()) == {right_digest(STEPS)}
        assert run.restored_steps()[1] >= 20
        assert {event["source"] for event in run.events("RestoreReady")} == {"in place"}
    assert re.search(rf"no scratch on n\d: {common}/\S+ is the same folder on n\d", shared.said())
    assert {event["node"] for event in shared.events("ScratchShared")} == set(shared.launches()[0])
    assert not none.events("ScratchShared")

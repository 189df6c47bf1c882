"""Two faults in either order, the second while the first is being recovered from: the run goes on, and nobody is wronged."""

from __future__ import annotations

import contextlib
import itertools
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab import epochs
from tests.lab.longer import long_test
from tests.lab.training import LabRun, await_that, patient

pytestmark = pytest.mark.lab

SHORT = {("kill", "corrupt"), ("corrupt", "cut"), ("cut", "supervisor"), ("supervisor", "kill")}
"""Each fault once as the first and once as the second."""


class Harm:
    """What was done to a run: the nodes that were cut off, and the checkpoints that were damaged."""

    def __init__(self, run: LabRun) -> None:
        self.run = run
        self.cut: list[str] = []
        self.damaged: list[tuple[int, str]] = []
        self._victims = iter(("n3", "n4"))
        self.strike: dict[str, Callable[[], None]] = {
            "kill": self._kill,
            "cut": self._cut,
            "supervisor": self._supervisor,
            "corrupt": self._corrupt,
        }

    def _kill(self) -> None:
        """SIGKILL a rank that no other fault concerns; in a recovery, one of the new attempt."""

        def on_n2() -> list[int | None]:
            return [proc.rank for proc in self.run.processes("rank", "n2")]

        self.run.wait("a rank to kill", on_n2)
        self.run.processes("rank", "n2")[-1].send(signal.SIGKILL)

    def _cut(self) -> None:
        node = next(self._victims)
        self.run.lab.cut(node)
        self.cut.append(node)

    def _supervisor(self) -> None:
        self.run.wait("a supervisor", lambda: self.run.processes("supervisor"))
        self.run.processes("supervisor")[-1].send(signal.SIGKILL)

    def _corrupt(self) -> None:
        """Flip a bit of the newest committed checkpoint in every copy that is kept of it, on shared storage and on scratch."""
        name = self.run.durable()[-1]
        places = [self.run.root / "checkpoints/gen" / name]
        places += [
            path for node in self.run.lab.nodes for path in self.run.lab.scratch(node).glob(f"**/{self.run.run_id}")
        ]
        copies = [path for place in places for path in place.rglob(f"step_{int(name.split('-')[0]):08d}.pt")]
        for path in copies:
            if "restore" not in path.parts:  # that one has been verified, and is being handed over
                with contextlib.suppress(FileNotFoundError):  # a newer one is durable by now, and scratch is cleaned
                    flip(path)
        self.damaged.append((len(self.run.actions("ReleaseRanks")), name))

    def loaded(self) -> list[str]:
        """The damaged checkpoints that ranks were handed afterwards."""
        handed = [action.get("checkpoint", "") for action in self.run.actions("ReleaseRanks")]
        return [path for since, name in self.damaged for path in handed[since:] if name in path]


def flip(path: Path) -> None:
    """Change one bit of a file that may be read-only."""
    mode = path.stat().st_mode
    path.chmod(0o600)
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    path.chmod(mode & 0o7777)


def misread(run: LabRun) -> list[str]:
    """Attempts whose first rank began somewhere else than the checkpoint that it was handed says."""
    found = []
    for action in run.actions("ReleaseRanks"):
        begun = re.findall(r"rank 0 starts at step (\d+)", run.rank_log(action["attempt"], 0))
        found += [f"{action} began at {step}" for step in begun if int(step) != action.get("step", 0)]
    return found


def pairs() -> Iterator[object]:
    """All ordered pairs; most of them belong to the longer tests."""
    for pair in itertools.product(("kill", "cut", "supervisor", "corrupt"), repeat=2):
        marks = () if pair in SHORT else long_test("one of the other pairs")
        yield pytest.param(*pair, marks=marks, id="-".join(pair))


@pytest.mark.parametrize(("first", "second"), list(pairs()))
def test_an_ordered_pair(lab: Cluster, first: str, second: str) -> None:
    """The run ends well, without the nodes that were cut and with all others; no damaged checkpoint is ever loaded."""
    run = patient(lab, name=f"{first}-{second}", nodes=4, recovery={"min_nodes": 2})
    run.wait("two checkpoints", lambda: len(run.durable()) > 1)
    harm = Harm(run)
    harm.strike[first]()
    if first in ("kill", "cut"):
        run.wait("a verdict", lambda: run.actions("FenceAttempt"))
    harm.strike[second]()
    if harm.cut:
        run.wait("the nodes that were cut are out", lambda: set(harm.cut).isdisjoint(run.launches()[-1]))

    newest = run.newest()
    run.wait("checkpoints go on", lambda: run.newest() > newest + 40)
    assert set(run.launches()[-1]) == set(lab.nodes) - set(harm.cut)
    assert misread(run) == []
    verdicts_on = {
        action["facts"]["excluded"] for action in run.actions("Say") if "excluded" in action.get("facts", ())
    }
    assert verdicts_on <= set(harm.cut)
    for node in harm.cut:
        lab.heal(node)
    run.enough()
    assert run.wait_end() == ("finished", 0)
    assert epochs.problems(run.root) == []
    await_that("nothing is left", lambda: not run.processes(), 60, run.story)
    assert first != "corrupt" or harm.loaded() == []

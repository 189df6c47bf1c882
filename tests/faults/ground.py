"""A ground without a cluster: runs are tales of the real core, and a fault is the next thing that happens in them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from ftslurm.errors import ServiceUnavailable
from ftslurm.faults.catalogue import CATALOGUE
from ftslurm.faults.fault import Fault, Need
from ftslurm.faults.means import Struck
from ftslurm.faults.truth import Injection
from ftslurm.paths import RunPaths
from tests.insight.journals import Tale, make_run, policy_for

DIGEST = "0123456789abcdef"


@dataclass
class ToyRun:
    """A run whose journal is written after everything that happens; it ends after so many faults."""

    paths: RunPaths
    tale: Tale
    left: int
    digest: str

    def write(self) -> None:
        """Let the journal be read."""
        self.tale.write(self.paths)

    def end(self) -> None:
        """Every rank ends well, and rank 0 says what its weights are."""
        self.tale.finish()
        log = self.paths.rank_log(0, 0)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"step 1 at {time.time():.3f}\nfinal step 9 digest {self.digest}\n")
        self.write()


@dataclass
class ToyMeans:
    """Lets a fault happen to a toy run at once."""

    run: ToyRun
    ground: ToyGround
    offers: frozenset[Need] = frozenset(Need)

    def strike(self, fault: Fault, injection: Injection, lasts_s: float | None) -> Struck:
        """The run notices it and goes on, or does not."""
        self.ground.struck.append(injection)
        if self.ground.fails:
            raise ServiceUnavailable(self.ground.fails.pop())
        tale = self.run.tale
        tale.now = at = max(time.time(), tale.now + 1.0)
        if fault.costs_node:
            tale.lose(injection.node)
            tale.launched()
        elif fault.stops_training:
            tale.crash(injection.rank or 0, signal=9, tail="")
            tale.launched()
        self.run.left -= 1
        if self.run.left == 0:
            self.run.end()
        self.run.write()
        return Struck(at=at, note="toy")

    def undo(self, fault: Fault, injection: Injection) -> float:
        """Nothing lasts."""
        self.ground.undone.append(injection.fault)
        return time.time()


@dataclass
class ToyGround:
    """Gives one toy run after the other; `weights` are their digests, that of the undisturbed one first."""

    root: Path
    faults_each: int = 2
    weights: list[str] = field(default_factory=list)
    begins: bool = True
    least: int = 2
    offers: frozenset[Need] = frozenset(Need)
    begun: list[ToyRun] = field(default_factory=list)
    struck: list[Injection] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    fails: list[str] = field(default_factory=list)
    mended: int = 0

    def begin(self) -> RunPaths:
        """A run that trains and has a checkpoint."""
        tale = Tale(policy_for())
        tale.now = time.time()
        tale.start().save(50)
        digest = self.weights.pop(0) if self.weights else DIGEST
        run = ToyRun(make_run(self.root, tale), tale, self.faults_each, digest)
        self.begun.append(run)
        return run.paths

    def means(self, paths: RunPaths) -> ToyMeans:
        """Of one of them."""
        return ToyMeans(next(run for run in self.begun if run.paths == paths), self)

    def end(self, paths: RunPaths) -> None:
        """Let one of them end."""
        run = next(run for run in self.begun if run.paths == paths)
        if run.left > 0:
            run.left = 0
            run.end()

    def mend(self) -> None:
        """Count."""
        self.mended += 1


assert CATALOGUE  # what tests draw from

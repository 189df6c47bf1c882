"""Simulating a study: every case as often as it asks, on as many processes as there are, and what that amounts to.

Replication number k of every case has the same seed, whatever process it runs in, so that the result depends neither
on the number of processes nor on their luck, and cases differ by what they are and less by chance. Intervals are
Student's: they hold the mean of all possible runs in 95 of 100 studies, where the number of replications is not tiny.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, stdev

from ftslurm.errors import TryAgain
from ftslurm.plan.decisions import Decider
from ftslurm.plan.outcome import Outcome
from ftslurm.plan.simulator import simulate
from ftslurm.plan.study import Case, Study
from ftslurm.plan.terms import Terms, terms_of

CHUNK = 25
"""At most so many replications are made in a row; what the core has decided is remembered that long."""
_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval; of a single value nobody knows the interval."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One case, with everything that came of it."""

    case: Case
    terms: Terms
    outcomes: tuple[Outcome, ...]

    def estimate(self, measure: Callable[[Outcome], float]) -> Estimate:
        """Return what a measure is over all replications."""
        return estimate([measure(each) for each in self.outcomes])

    def mean(self, measure: Callable[[Outcome], float]) -> float:
        """Return the mean of a measure alone."""
        return fmean(measure(each) for each in self.outcomes)


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of independent values, and Student's 95 % interval for what they are values of."""
    mean = fmean(values)
    if len(values) < 2:
        return Estimate(mean, None, None)
    half = student(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def student(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's distribution.

    Exact for 1 and 2 degrees of freedom, then the expansion of Cornish and Fisher (Abramowitz and Stegun 26.7.5), which
    is right to 0.3 % at 3 and to 0.01 % from 7 on.
    """
    if degrees == 1:
        return math.tan(math.pi * 0.475)
    if degrees == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    z, n = _Z, degrees
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
    )


def run(study: Study, workers: int, told: Callable[[int, int], None]) -> tuple[Result, ...]:
    """Simulate all cases of a study.

    Args:
        study: what to simulate.
        workers: processes; 1: this one.
        told: is called with how many replications are done, and of how many.

    Raises:
        TryAgain: a process was killed.
    """
    terms = [terms_of(case) for case in study.cases]
    total = sum(case.scenario.replications for case in study.cases)
    size = max(min(CHUNK, total // (4 * workers)), 1)
    tasks = [
        (each, case.scenario.seed, range(first, min(first + size, case.scenario.replications)))
        for each, case in zip(terms, study.cases, strict=True)
        for first in range(0, case.scenario.replications, size)
    ]
    found: list[Outcome] = []
    with _mapping(min(workers, len(tasks))) as mapping:
        for outcomes in mapping(chunk, tasks):
            found += outcomes
            told(len(found), total)
    results, first = [], 0
    for each, case in zip(terms, study.cases, strict=True):
        end = first + case.scenario.replications
        results.append(Result(case=case, terms=each, outcomes=tuple(found[first:end])))
        first = end
    return tuple(results)


Task = tuple[Terms, int, range]


@contextmanager
def _mapping(workers: int) -> Iterator[Callable[..., Iterable[list[Outcome]]]]:
    """What `map` is, on so many processes; they end with this, also where it is left by Ctrl-C."""
    if workers <= 1:
        yield map
        return
    others = set(multiprocessing.active_children())
    # Not forked: a display of ours may be a thread by now.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_serve) as pool:
        try:
            yield pool.map
        except BaseException as error:
            # What is being made may take minutes, and nobody wants it any more.
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise TryAgain(
                    "a process that simulates was killed", hint="is there too little memory? --workers 1 takes least"
                ) from error
            raise


def _serve() -> None:
    """What a process of the pool does first: leave Ctrl-C to us, and never outlive us, even if we are killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def chunk(task: Task) -> list[Outcome]:
    """Some replications of one case."""
    terms, seed, numbers = task
    decider = Decider(terms.policy, terms.nodes, terms.copies.period_s)
    return [simulate(terms, f"{seed}:{number}", decider) for number in numbers]


def shares(results: Iterable[Outcome]) -> dict[str, float]:
    """Return the mean share of the wall time of each loss, by its name."""
    outcomes = list(results)
    names = outcomes[0].spent_s
    return {str(name): fmean(each.spent_s[name] / each.wall_s for each in outcomes) for name in names}

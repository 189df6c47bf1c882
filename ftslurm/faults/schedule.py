"""What a campaign is going to do, drawn before anything is done, written down, and read back: that is what is done.

Nothing is drawn while faults are made. Whoever goes on with a campaign that was cut short reads the same schedule, and
every injection carries its draw in the run's own `faults.jsonl`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from ftslurm.core.strictjson import decode, encode, fields_of
from ftslurm.errors import ConfigError, DataDamaged
from ftslurm.faults.arrivals import Draw, draws
from ftslurm.faults.planfile import Plan, source_of

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One stretch of a campaign with one mean time between faults; a sweep has several."""

    mtbf_s: float
    draws: tuple[Draw, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Everything that is drawn, and the seed that it was drawn with."""

    seed: int
    weights: Mapping[str, float]
    legs: tuple[Leg, ...]

    @property
    def size(self) -> int:
        """How many faults are to come."""
        return sum(len(leg.draws) for leg in self.legs)


def draw(plan: Plan, seed: int, weights: Mapping[str, float], folder: Path) -> Schedule:
    """Draw a schedule.

    Args:
        plan: what was asked for.
        seed: the same one gives the same schedule.
        weights: how often each fault comes.
        folder: the plan's own; a trace lies beside it.

    Raises:
        ConfigError: the trace cannot be read, or there would be far too many faults.
    """
    legs = []
    for number, mtbf_s in enumerate(plan.mtbf):
        dice = Random(f"{seed}:{number}")  # noqa: S311 - a seed has to give the same campaign again
        source = source_of(plan, mtbf_s, folder)
        try:
            legs.append(Leg(mtbf_s=mtbf_s, draws=draws(source, weights, dice, plan.duration)))
        except ValueError as error:
            raise ConfigError(f"{plan.name}: {error}", hint="a longer mtbf, or a shorter duration") from error
    return Schedule(seed=seed, weights=dict(weights), legs=tuple(legs))


def encoded(schedule: Schedule) -> bytes:
    """As it is written down."""
    return encode({"schema": SCHEMA, **asdict(schedule)})


def decoded(data: bytes) -> Schedule:
    """As it was written down.

    Raises:
        DataDamaged: it is no schedule of ours.
    """
    what = "schedule of a campaign"
    fields = fields_of(decode(data, what), ("schema", "seed", "weights", "legs"), what)
    if fields["schema"] != SCHEMA:
        raise DataDamaged(f"{what} of schema {fields['schema']!r}", hint="written by another release of ftslurm?")
    try:
        legs = tuple(_leg(each) for each in fields["legs"])
        return Schedule(seed=int(fields["seed"]), weights=dict(fields["weights"]), legs=legs)
    except (TypeError, ValueError) as error:
        raise DataDamaged(f"not the {what}: {error}") from error


def _leg(record: Any) -> Leg:  # noqa: ANN401 - JSON
    fields = fields_of(record, ("mtbf_s", "draws"), "leg of a schedule")
    return Leg(mtbf_s=float(fields["mtbf_s"]), draws=tuple(Draw(**each) for each in fields["draws"]))

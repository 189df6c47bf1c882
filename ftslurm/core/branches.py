"""Which generations are those of the training as it went on, after it was rolled back.

A rollback deletes nothing. It says: go on from this generation; whatever else has been written until now is an
abandoned branch. It can tell the two apart because every attempt has a number of its own, higher than all before it:
what a later attempt writes lies on the new branch, although its steps may be those of the old one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ftslurm.core.manifest import generation_of, parse_generation
from ftslurm.core.strictjson import fields_of, plain_text, refuse, whole

_MAX_ATTEMPT = 10**9
_MAX_REASON = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """The training goes on from `to`. `attempt` is the highest that there was; `at` is wall-clock seconds."""

    to: str
    digest: str
    attempt: int
    at: float
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """As it stands in the store."""
        return {"to": self.to, "digest": self.digest, "attempt": self.attempt, "at": self.at, "reason": self.reason}

    @classmethod
    def from_json(cls, record: object) -> Rollback:
        """Raises DataDamaged for anything that this module cannot have written."""
        fields = fields_of(record, ("to", "digest", "attempt", "at", "reason"), "rollback")
        at = fields["at"]
        if isinstance(at, bool) or not isinstance(at, int | float):
            refuse(f"at={at!r} is not a time")
        return cls(
            to=generation_of(fields["to"]),
            digest=plain_text(fields["digest"], "digest", 64),
            attempt=whole(fields["attempt"], "attempt", _MAX_ATTEMPT),
            at=float(at),
            reason=plain_text(fields["reason"], "reason", _MAX_REASON),
        )


def is_live(generation: str, rollbacks: Sequence[Rollback]) -> bool:
    """Return whether a generation lies on the branch that the training is on, after these rollbacks, oldest first."""
    if not rollbacks:
        return True
    last = rollbacks[-1]
    order, target = parse_generation(generation), parse_generation(last.to)
    if order[1] > last.attempt or order == target:
        return True
    if order > target or order[1] > target[1]:
        return False
    # What led to the target: judged by the rollbacks that were there when the target was written.
    return is_live(generation, [each for each in rollbacks[:-1] if each.attempt < target[1]])


def abandoned(generations: Iterable[str], rollbacks: Sequence[Rollback]) -> frozenset[str]:
    """Return those that lie on abandoned branches."""
    return frozenset(name for name in generations if not is_live(name, rollbacks))

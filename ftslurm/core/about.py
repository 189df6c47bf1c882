"""What a program says about a save: how far training was, how good it was, why it saved.

It travels from rank 0's index through the events into COMMIT.json, and from there into the history that people read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ftslurm.core.strictjson import fields_of, finite, matching, plain_text, refuse, shortened, whole

_MAX_TEXT = 2000
_MAX_NAMED = 1000
_MAX_COUNT = 1 << 60
_ODD = ("nan", "inf", "-inf")
_GENERATION = re.compile(r"(?:[0-9]{9,15}-[0-9]{4,9})?")
_FIELDS = ("reason", "epoch", "samples", "metrics", "odd", "kind", "base", "parent", "versions")


class SaveKind(StrEnum):
    """Whether a generation holds all its bytes itself, or refers to another one for what has not changed."""

    FULL = "full"
    DIFF = "diff"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """A generation's place in the training. The step is in its name.

    `epoch` may be a fraction; `samples` are those that all ranks have seen together. `metrics` are finite; what was not
    finite stands in `odd` as "nan", "inf" or "-inf". `base` is the generation that a diff refers to, `parent` the one
    that training went on from; "" for none.

    Raises:
        DataDamaged: values of another kind, made or read.
    """

    reason: str = ""
    epoch: float | None = None
    samples: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    odd: Mapping[str, str] = field(default_factory=dict, hash=False)
    kind: SaveKind = SaveKind.FULL
    base: str = ""
    parent: str = ""
    versions: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """A record that came over the wire is checked like one that came from a file."""
        plain_text(self.reason, "reason of the save", _MAX_TEXT)
        if self.epoch is not None:
            finite(self.epoch, "epoch")
        if self.samples is not None:
            whole(self.samples, "samples", _MAX_COUNT)
        for name, value in _named(self.metrics, "metrics").items():
            finite(value, f"metric {name!r}")
        for name, text in _named(self.odd, "odd metrics").items():
            if not isinstance(text, str) or text not in _ODD:
                refuse(f"metric {name!r} is {shortened(text)}, which is none of {', '.join(_ODD)}")
        for name, text in _named(self.versions, "versions").items():
            plain_text(text, f"version of {name!r}", _MAX_TEXT)
        for what, generation in (("base", self.base), ("parent", self.parent)):
            matching(generation, _GENERATION, what)
        if (self.kind is SaveKind.DIFF) != bool(self.base):
            refuse(f"a {self.kind} save with the base {self.base!r}")

    def to_json(self) -> dict[str, Any]:
        """As it stands in an index or a commit."""
        return {
            "reason": self.reason,
            "epoch": self.epoch,
            "samples": self.samples,
            "metrics": dict(self.metrics),
            "odd": dict(self.odd),
            "kind": self.kind.value,
            "base": self.base,
            "parent": self.parent,
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, record: object) -> About:
        """Raises DataDamaged for anything that this module cannot have written."""
        fields = fields_of(record, _FIELDS, "record about the save")
        if not isinstance(fields["kind"], str) or fields["kind"] not in {each.value for each in SaveKind}:
            refuse(f"a save cannot be {shortened(fields['kind'])}")
        return cls(**{**fields, "kind": SaveKind(fields["kind"])})


def split_metrics(values: Mapping[str, float]) -> tuple[dict[str, float], dict[str, str]]:
    """(`metrics`, `odd`) of what a program reports: a loss that is NaN is a fact worth keeping, but not a number."""
    finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
    return finite, {name: str(float(value)) for name, value in values.items() if name not in finite}


def _named(values: object, what: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping) or len(values) > _MAX_NAMED:
        refuse(f"{what} are not an object with at most {_MAX_NAMED} names")
    for name in values:
        plain_text(name, f"a name in {what}", _MAX_TEXT)
    return values

"""What a rule is, and how it is put to the facts.

A rule is data: the traps it stands for (numbers of the project's list of measured and documented behaviour of Slurm and
MPI, or a letter for the host, the probe and the configuration), whether it applies, what follows, what to set. A rule
whose fact nobody knows is neither true nor false: it is listed as unknown, with the name of the fact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from ftslurm.doctor.facts import Facts, UnknownFact

Words = str | Callable[[Facts], str]


class Severity(StrEnum):
    """What a rule that applies means for a run."""

    STOPS = "stops"
    """A run would not start, or could not go on after the first failure."""

    WARNING = "warning"
    """A run works; a failure costs more than it must, or a guard of ftslurm's is missing."""

    NOTE = "note"
    """Good to know; nothing has to be done."""

    HANDLED = "handled"
    """ftslurm takes care of it by itself."""


class Standing(StrEnum):
    """Whether a rule applies to this site."""

    APPLIES = "applies"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One trap, or several with one cause. `shows` are the facts that a report quotes."""

    traps: tuple[str, ...]
    severity: Severity
    what: str
    applies: Callable[[Facts], bool]
    consequence: str
    setting: Words
    shows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A rule put to the facts. `because` quotes them; for an unknown one it names what is missing."""

    rule: Rule
    standing: Standing
    because: str
    setting: str

    def record(self) -> dict[str, object]:
        """The finding for JSON."""
        return {
            "traps": list(self.rule.traps),
            "severity": str(self.rule.severity),
            "standing": str(self.standing),
            "what": self.rule.what,
            "because": self.because,
            "consequence": self.rule.consequence,
            "setting": self.setting,
        }


def judge(rules: Iterable[Rule], facts: Facts) -> tuple[Finding, ...]:
    """Every rule's answer, the gravest first; rules of one severity keep their order."""
    order = list(Severity)
    return tuple(sorted((_put(rule, facts) for rule in rules), key=lambda each: order.index(each.rule.severity)))


def _put(rule: Rule, facts: Facts) -> Finding:
    try:
        applies = rule.applies(facts)
    except UnknownFact as unknown:
        said = f"unknown: {unknown.name.removeprefix('conf.')}"
        return Finding(rule=rule, standing=Standing.UNKNOWN, because=said, setting="")
    because = "; ".join(facts.shown(name) for name in rule.shows)
    standing = Standing.APPLIES if applies else Standing.ABSENT
    return Finding(rule=rule, standing=standing, because=because, setting=_setting(rule, facts) if applies else "")


def _setting(rule: Rule, facts: Facts) -> str:
    """What to set; where the facts for it are missing, that is said."""
    if isinstance(rule.setting, str):
        return rule.setting
    try:
        return rule.setting(facts)
    except UnknownFact as unknown:
        return f"unknown: {unknown.name}"

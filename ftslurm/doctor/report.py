"""What a doctor's visit found, as text for people and as one JSON object."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ftslurm.doctor.facts import Facts
from ftslurm.doctor.rules import Finding, Severity, Standing
from ftslurm.insight.text import visible

SCHEMA = 1
NARROWEST, WIDEST = 60, 110
_LABEL = 13


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """Everything that one call of the doctor has found out. `profile` is the file it wrote, or read."""

    facts: Facts
    findings: tuple[Finding, ...]
    probed: bool = False
    profile: str = ""
    remarks: tuple[str, ...] = ()

    def of(self, standing: Standing) -> tuple[Finding, ...]:
        """The findings of one standing, the gravest first."""
        return tuple(each for each in self.findings if each.standing is standing)

    @property
    def sound(self) -> bool:
        """Whether nothing was found that would stop a run."""
        return not any(each.rule.severity is Severity.STOPS for each in self.of(Standing.APPLIES))

    def record(self) -> dict[str, Any]:
        """The visit for JSON: rules that do not apply are in it, too. A number without limit is null."""
        values = {name: None if value == float("inf") else value for name, value in self.facts.values.items()}
        return {
            "meta": {"schema": SCHEMA},
            "ok": self.sound,
            "probed": self.probed,
            "profile": self.profile or None,
            "remarks": list(self.remarks),
            "findings": [each.record() for each in self.findings],
            "facts": values,
        }


def text(visit: Visit, *, everything: bool = False) -> str:
    """The report for a terminal; `everything` adds what ftslurm handles itself and what does not apply."""
    width = max(NARROWEST, min(shutil.get_terminal_size((80, 24)).columns, WIDEST))
    lines = [visible(_heading(visit.facts)), ""]
    applies = visit.of(Standing.APPLIES)
    handled = [each for each in applies if each.rule.severity is Severity.HANDLED]
    for each in applies:
        if each.rule.severity is not Severity.HANDLED:
            lines += [*_block(each, width), ""]
    lines += [*_unknown(visit.of(Standing.UNKNOWN), width)]
    if everything:
        lines += [*_table("Handled by ftslurm itself", handled, width)]
        lines += [*_table("Not the case here", visit.of(Standing.ABSENT), width)]
    lines += [*(visible(remark) for remark in visit.remarks), *_wrap(_summary(visit, len(handled)), width)]
    return "\n".join(lines) + "\n"


def _heading(facts: Facts) -> str:
    values = facts.values
    release, own = (
        str(values.get(name) or "of an unknown release") for name in ("slurm.release", "slurm.client_release")
    )
    here = values.get("host.name") or "this host"
    return f"Cluster {values.get('slurm.cluster') or '(unnamed)'}: Slurm {release}; {here}: Slurm {own}"


def _block(finding: Finding, width: int) -> Iterator[str]:
    """Severity, numbers and what it is; then because, means, setting."""
    rule = finding.rule
    head = f"{rule.severity.upper():<{_LABEL - 4}} {','.join(rule.traps)}  "
    yield from _wrap(head + visible(rule.what), width, subsequent=" " * 10)
    rows = (("because", finding.because), ("means", rule.consequence), ("setting", finding.setting))
    for label, words in rows:
        if words:
            yield from _wrap(f"{label:<9}{visible(words)}", width, initial="  ", subsequent=" " * (_LABEL - 2))


def _unknown(findings: Sequence[Finding], width: int) -> Iterator[str]:
    if not findings:
        return
    yield "Unknown: nobody could tell"
    for each in findings:
        words = f"{','.join(each.rule.traps):<9} {each.rule.what} ({each.because})"
        yield from _wrap(visible(words), width, initial="  ", subsequent=" " * 12)
    yield ""


def _table(title: str, findings: Sequence[Finding], width: int) -> Iterator[str]:
    if not findings:
        return
    yield title
    for each in findings:
        rule = each.rule
        words = f"{','.join(rule.traps):<9} {rule.what}"
        words += (
            f": {rule.consequence}" if rule.severity is Severity.HANDLED else f" ({each.because})" * bool(each.because)
        )
        yield from _wrap(visible(words), width, initial="  ", subsequent=" " * 12)
    yield ""


def _summary(visit: Visit, handled: int) -> str:
    counts = dict.fromkeys(Severity, 0)
    for each in visit.of(Standing.APPLIES):
        counts[each.rule.severity] += 1
    parts = []
    if counts[Severity.STOPS]:
        parts.append(f"{counts[Severity.STOPS]} would stop a run")
    parts.append(_number(counts[Severity.WARNING], "warning"))
    parts.append(_number(counts[Severity.NOTE], "note"))
    if visit.of(Standing.UNKNOWN):
        parts.append(f"{len(visit.of(Standing.UNKNOWN))} unknown")
    parts.append(f"{handled} traps handled by ftslurm itself (--all lists them)")
    said = ", ".join(parts)
    return said if visit.probed else f"{said}. The compute nodes were not looked at: `ftslurm doctor --probe` does"


def _wrap(words: str, width: int, initial: str = "", subsequent: str = "") -> list[str]:
    """Lines of at most `width`; options and paths are not broken at their hyphens."""
    return textwrap.wrap(
        words,
        width,
        initial_indent=initial,
        subsequent_indent=subsequent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"

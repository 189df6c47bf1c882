"""A story as text, for a terminal of 80 to 120 columns; nothing in it can act on the terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

from ftslurm.core.diagnosis import Scope
from ftslurm.core.events import Finding, Phase
from ftslurm.core.fusion import Standing
from ftslurm.core.worlds import changed
from ftslurm.insight.incident import Incident, Judgement
from ftslurm.insight.reasoning import Link
from ftslurm.insight.records import Kind, Moment, Story
from ftslurm.insight.text import clock, count, day, folded, time_of_day, took, visible, visible_lines
from ftslurm.insight.walltime import Category

WIDTH = 100
_LABEL = 12
_INDENT = 4
_MINUTE_S = 60.0
_QUANTITY = re.compile(r"(\d) (s|ms|min|h|d)\b")


def render(story: Story, *, title: str = "the run", width: int = WIDTH) -> str:
    """The whole story, its lines ended by newlines; `title` names the run, `width` is in columns."""
    return "".join(f"{line}\n" for line in _lines(story, title, width))


def _lines(story: Story, title: str, width: int) -> Iterator[str]:
    yield from _wrapped(_headline(story, title), width, "")
    if story.begun is None:
        return
    incidents = {each.number: each for each in story.incidents}
    date = ""
    for moment in story.moments:
        if day(moment.t) != date:
            date = day(moment.t)
            yield ""
            yield f"{date}"
        yield from _moment(moment, story.begun, width)
        if moment.incident is not None:
            yield from _incident(incidents[moment.incident], width)
    yield ""
    for sentence in summary_lines(story):
        yield from _wrapped(sentence, width, "")


def _headline(story: Story, title: str) -> str:
    if story.begun is None:
        return f"{visible(title)}: nothing has happened yet: no supervisor has started"
    total = took(story.totals.total_s)
    if story.over:
        return f"{visible(title)}: {story.phase} after {total}, exit code {story.code}"
    doing = "waits in the queue" if story.phase is Phase.REQUEUED else f"is {story.phase}"
    return f"{visible(title)} {doing}, {total} after its first start"


def summary_lines(story: Story) -> list[str]:
    """What it comes to: where the time went, and the counts."""
    totals = story.totals
    parts = []
    for category, seconds in totals.spent.items():
        if seconds > 0.0 or category is Category.PRODUCTIVE:
            parts.append(f"{category} {took(seconds)}")
    counts = [count(totals.attempts, "attempt"), count(len(story.incidents), "incident")]
    counts += [count(totals.requeues, "requeue")] if totals.requeues else []
    counts.append(f"{count(totals.checkpoints, 'checkpoint')} saved")
    counts += [f"{count(totals.refused, 'checkpoint')} refused"] if totals.refused else []
    counts.append(f"excluded: {folded(story.excluded) or 'no node'}")
    return [f"in all {took(totals.total_s)}: {', '.join(parts)}", ", ".join(counts)]


def _moment(moment: Moment, begun: float, width: int) -> Iterator[str]:
    text = moment.text
    if moment.incident is not None:
        text = f"INCIDENT {moment.incident}: {text}"
    if moment.count > 1 and moment.until is not None:
        text = f"{text} ({moment.count} times until {time_of_day(moment.until)})"
    mark = {Kind.INCIDENT: "!", Kind.NOTE: "-", Kind.SUSPICION: "-"}.get(moment.kind, " ")
    stamp = f"{time_of_day(moment.t)} {relative(moment.t - begun):>9} {mark} "
    yield from _wrapped(text, width, stamp)


def relative(seconds: float) -> str:
    """`+33.6 s` in the first minute, then `+12:03`."""
    return f"+{seconds:.1f} s" if seconds < _MINUTE_S else f"+{clock(seconds)}"


# ----------------------------------------------------------------------------------------------------- incidents


def _incident(incident: Incident, width: int) -> Iterator[str]:
    for judgement in incident.judgements:
        yield from _judgement(judgement, width)
    for choice in incident.choices:
        yield from _field("plan", f"{choice.kind}: {choice.reason}", width)
        for kind, why in choice.rejected:
            yield from _field("", f"not {kind}: {why}", width)
    if incident.excluded:
        yield from _field("excluded", f"{folded(incident.excluded)}, for the rest of the run", width)
    for note in incident.notes:
        again = f" ({note.count} times until {time_of_day(note.until)})" if note.until else ""
        yield from _field("meanwhile", f"{note.text}{again}", width)
    yield from _ending(incident, width)


def _ending(incident: Incident, width: int) -> Iterator[str]:
    if incident.released is not None:
        yield from _field("restored", _restored(incident), width)
    if incident.worlds is not None:
        yield from _field("world", changed(*incident.worlds), width)
    yield from _field("took", _took(incident), width)
    if incident.lost_s:
        since = f"since the checkpoint of step {incident.restored_from.step}" if incident.restored_from else "so far"
        yield from _field("cost", f"{took(incident.lost_s)} of training {since}, to be done again", width)
    if incident.outcome and incident.released is None:
        yield from _field("outcome", incident.outcome, width)


def _judgement(judgement: Judgement, width: int) -> Iterator[str]:
    sure = f", confidence {judgement.confidence:.2f}" if judgement.confidence is not None else ""
    where = f" ({judgement.where})" if judgement.scope is Scope.NODE and judgement.where else ""
    if judgement.by:
        yield from _field("also", judgement.by, width)
    yield from _field("verdict", f"{judgement.cause}{where}{sure}", width)
    if judgement.findings:
        for label, text in _witnesses(judgement.findings):
            yield from _field(label, text, width)
    else:
        yield from _field("because", judgement.reason, width)
    if len(judgement.chain) > 1:
        for index, link in enumerate(judgement.chain):
            yield from _field("" if index else "evidence", _link(link), width)
    for line in visible_lines(judgement.tail):
        yield f"{'':<{_INDENT + _LABEL}}| {line}"[:width]
    for index, sentence in enumerate(judgement.would_change):
        yield from _field("" if index else "otherwise", sentence, width)


_MARKS = {Standing.COUNTED: "+", Standing.CONSEQUENCE: "~", Standing.OUTWEIGHED: "-"}


def _link(link: Link) -> str:
    """One fact: + counted, ~ follows from the cause, - was outweighed."""
    return f"{_MARKS[link.standing]} {time_of_day(link.t)} {link.source}: {link.text} [{link.why}]"


def _witnesses(findings: Sequence[Finding]) -> Iterator[tuple[str, str]]:
    """The witnesses' words, those of one kind in one line."""
    by_word: dict[str, list[str]] = {}
    for finding in findings:
        detail = f" ({finding.detail})" if finding.detail else ""
        by_word.setdefault(finding.outcome, []).append(f"{finding.witness}{detail}")
    for index, (word, names) in enumerate(by_word.items()):
        yield "" if index else "witnesses", f"{word}: {', '.join(names)}"


def _restored(incident: Incident) -> str:
    saved = incident.restored_from
    if saved is None:
        return "nothing: from the beginning"
    return f"step {saved.step} ({saved.generation}), written in attempt {saved.attempt}"


def _took(incident: Incident) -> str:
    """The parts in order; what lies between them (pauses, launches that failed) is named too."""
    stages = dict(incident.stages)
    last = f" (the last of {incident.launches})" if incident.launches > 1 else ""
    remarks = {"restore": " (beside the launch)", "launch": last}
    parts = [
        f"{name} {took(seconds)}{remarks.get(name, '')}" for name, seconds in stages.items() if seconds is not None
    ]
    total = incident.recovery_s
    whole = f"{took(total)} from the first sign to the ranks' release: " if total is not None else ""
    return whole + ", ".join(parts)


def _field(label: str, text: str, width: int) -> Iterator[str]:
    yield from _wrapped(text, width, f"{'':<{_INDENT}}{label:<{_LABEL}}")


def _wrapped(text: str, width: int, first: str) -> list[str]:
    """`text` made visible and wrapped, behind `first`, with a hanging indent."""
    # A number stays with its unit; NUL can stand in for the space, since nothing that is visible holds it.
    tied = _QUANTITY.sub("\\1\0\\2", visible(text))
    wrapped = textwrap.wrap(
        tied, width, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False
    )
    return [line.replace("\0", " ") for line in wrapped] or [first.rstrip()]

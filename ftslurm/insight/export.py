"""Stories and runs as plain data for JSON: stable keys, every time in ISO 8601 (UTC) and, with `_epoch`, in seconds."""

from __future__ import annotations

from typing import Any

from ftslurm.insight.incident import Choice, Incident, Judgement, Note
from ftslurm.insight.records import Moment, Story
from ftslurm.insight.saves import Save
from ftslurm.insight.text import iso

SCHEMA = 1


def times(name: str, t: float | None) -> dict[str, Any]:
    """One moment under two keys: `started` and `started_epoch`."""
    return {name: iso(t), f"{name}_epoch": None if t is None else round(t, 3)}


def of_story(story: Story) -> dict[str, Any]:
    """The whole story."""
    totals = story.totals
    return {
        "phase": story.phase,
        "over": story.over,
        "exit_code": story.code,
        "reason": story.reason or None,
        "jobs": list(story.jobs),
        **times("begun", story.begun),
        **times("until", story.until),
        "excluded": list(story.excluded),
        "newest_checkpoint": of_save(story.newest),
        "totals": {
            "total_s": _seconds(totals.total_s),
            "spent_s": {category: _seconds(seconds) for category, seconds in totals.spent.items()},
            "lost_s": _seconds(totals.lost_s),
            "attempts": totals.attempts,
            "incidents": len(story.incidents),
            "requeues": totals.requeues,
            "checkpoints_saved": totals.checkpoints,
            "checkpoints_refused": totals.refused,
        },
        "moments": [_moment(each) for each in story.moments],
        "incidents": [_incident(each) for each in story.incidents],
    }


def of_save(save: Save | None) -> dict[str, Any] | None:
    """A checkpoint."""
    if save is None:
        return None
    return {
        "generation": save.generation,
        "step": save.step,
        "attempt": save.attempt,
        "state": save.state,
        **times("seen", save.seen),
        **times("durable", save.durable),
    }


def _moment(moment: Moment) -> dict[str, Any]:
    return {
        **times("t", moment.t),
        "kind": moment.kind,
        "slug": moment.slug or None,
        "text": moment.text,
        "count": moment.count,
        **times("until", moment.until),
        "incident": moment.incident,
    }


def _incident(incident: Incident) -> dict[str, Any]:
    return {
        "number": incident.number,
        "attempt": incident.attempt,
        **times("sign", incident.sign),
        **times("noticed", incident.noticed),
        "noticed_by": incident.by,
        "verdicts": [_judgement(each) for each in incident.judgements],
        "plans": [_choice(each) for each in incident.choices],
        "excluded": list(incident.excluded),
        "notes": [_note(each) for each in incident.notes],
        "launches": incident.launches,
        **times("released", incident.released),
        "restored": of_save(incident.restored_from),
        "stages_s": {name: _seconds(seconds) for name, seconds in incident.stages},
        "recovery_s": _seconds(incident.recovery_s),
        "lost_s": _seconds(incident.lost_s),
        "ranks": dict(zip(("before", "after"), incident.worlds, strict=True)) if incident.worlds else None,
        "outcome": incident.outcome or None,
    }


def _judgement(judgement: Judgement) -> dict[str, Any]:
    return {
        **times("t", judgement.t),
        "cause": judgement.cause,
        "scope": judgement.scope,
        "where": judgement.where or None,
        "confidence": judgement.confidence,
        "reason": judgement.reason,
        "noticed_by": judgement.by or None,
        "findings": [
            {"witness": each.witness, "outcome": each.outcome, "detail": each.detail, "took_s": each.took_s}
            for each in judgement.findings
        ],
        "evidence": [
            {**times("t", each.t), "source": each.source, "text": each.text, "standing": each.standing, "why": each.why}
            for each in judgement.chain
        ],
        "tail": judgement.tail or None,
        "would_change": list(judgement.would_change),
    }


def _choice(choice: Choice) -> dict[str, Any]:
    rejected = [{"kind": kind, "reason": reason} for kind, reason in choice.rejected]
    return {**times("t", choice.t), "kind": choice.kind, "reason": choice.reason, "rejected": rejected}


def _note(note: Note) -> dict[str, Any]:
    more = {"slug": note.slug, "text": note.text, "count": note.count}
    return {**times("t", note.t), **more, **times("until", note.until)}


def _seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)

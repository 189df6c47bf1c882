"""Actions and states as short lines of text: what the expected part of a scenario consists of."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from ftslurm.core.actions import Action, Pair, Say, SetTimer, Whereabouts
from ftslurm.core.health import level_of
from ftslurm.core.state import Run
from tests.core.saving_words import PACKED

_GENERATION = re.compile(r"0*(\d+)-0*(\d+)")


def short(generation: str) -> str:
    """Return `20@0` for the generation of step 20 that attempt 0 wrote."""
    found = _GENERATION.fullmatch(generation)
    return f"{found.group(1)}@{found.group(2)}" if found else generation


def action_line(action: Action) -> str:
    """Return one line for an action; fields that have their default are left out, tokens and digests too."""
    if isinstance(action, Say):
        facts = "".join(f" [{name}: {text}]" for name, text in action.facts.items())
        return f'Say {action.slug} "{action.text}"{facts}'
    if isinstance(action, SetTimer):
        return f"SetTimer {action.name} {action.after_s:g}s"
    words = [type(action).__name__]
    for spec in dataclasses.fields(action):
        value = getattr(action, spec.name)
        if value != spec.default and _word(spec.name, value):
            words.append(f"{spec.name}={_word(spec.name, value)}")
    return " ".join(words)


def _word(name: str, value: Any) -> str:
    if name == "wanted":
        return _elsewhere(value)
    if name == "pairs":
        return ",".join(f"{pair.owner}>{pair.holder}" + _from(pair) for pair in value)
    if name == "stand_ins":
        return ",".join(f"{owner}<{holder}" for owner, holder in value)
    if name == "about":
        return f"based_on_{short(value.base)}" if value.base else "full"
    if name in {"keep", "protected"}:
        return ",".join(short(each) for each in value)
    if name == "parts":
        return ",".join(part.node + ("(packed)" if part.manifest_digest == PACKED else "") for part in value)
    if name in {"generation", "watermark", "base"}:
        return short(value)
    if isinstance(value, tuple):
        return ",".join(str(each) for each in value) or "none"
    text = str(value)
    return f'"{text}"' if " " in text else text


def _elsewhere(wanted: tuple[Whereabouts, ...]) -> str:
    """Who is asked for a part that is not simply asked of its owner; and that there is a base."""
    others = [
        f"{part.node}:{'+'.join(holders) or 'nobody'}"
        for where in wanted
        for part, holders in zip(where.parts, where.holders, strict=True)
        if holders != (part.node,)
    ]
    return ",".join([*(f"and_{short(where.generation)}" for where in wanted[1:]), *dict.fromkeys(others)])


def _from(pair: Pair) -> str:
    return "" if pair.sources == (pair.owner,) else f"(from {'+'.join(pair.sources)})"


def state_lines(run: Run) -> list[str]:
    """Return what matters of a state at the end of a story."""
    lines = [f"phase {run.phase}" + (f", code {run.code}: {run.reason}" if run.reason else "")]
    attempt = run.attempt
    if attempt is not None:
        start = f"from {short(attempt.generation)}" if attempt.generation else "from the beginning"
        lines.append(f"attempt {attempt.number}: {attempt.world_size} ranks on {','.join(attempt.nodes)} {start}")
    if run.failures:
        told = (
            f"{each.attempt} {each.diagnosis.cause}{' (progressed)' if each.progressed else ''}"
            for each in run.failures
        )
        lines.append(f"failures: {', '.join(told)}")
    if run.condemned:
        lines.append(f"condemned: {', '.join(f'{node} {found.cause}' for node, found in run.condemned.items())}")
    if run.suspects:
        lines.append(f"suspects: {', '.join(run.suspects)}")
    if run.health:
        ills = (
            f"{node} {level_of(held)} ({', '.join(each.metric for each in held)})" for node, held in run.health.items()
        )
        lines.append(f"health: {', '.join(ills)}")
    if run.saved:
        lines.append(f"saved: {', '.join(f'{short(each.generation)} {each.state}' for each in run.saved)}")
    return lines

"""Actions and states as short lines of text: what the expected part of a scenario consists of."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from ftslurm.core.actions import Action, Say, SetTimer
from ftslurm.core.health import level_of
from ftslurm.core.state import Run

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
        if value != spec.default:
            words.append(f"{spec.name}={_word(spec.name, value)}")
    return " ".join(words)


def _word(name: str, value: Any) -> str:
    if name == "parts":
        return ",".join(part.node for part in value)
    if name in {"generation", "watermark"}:
        return short(value)
    if isinstance(value, tuple):
        return ",".join(str(each) for each in value) or "none"
    text = str(value)
    return f'"{text}"' if " " in text else text


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

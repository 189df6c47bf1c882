"""Asking the program for a checkpoint: because it has to stop, because somebody wants one, because a node falls ill."""

from __future__ import annotations

from dataclasses import replace

from ftslurm.core.actions import Action, AskToSave, Say
from ftslurm.core.events import SaveRequested
from ftslurm.core.phases import LIVE
from ftslurm.core.recovery import Policy
from ftslurm.core.state import Run

NODE_WARNING = "node_warning"


def ask(run: Run, why: str, *, stop: bool = False) -> tuple[Run, AskToSave]:
    """Return the run with one more order, and the order."""
    run = replace(run, orders=run.orders + 1, asked_mono=run.now)
    return run, AskToSave(attempt=run.current.number, number=run.orders, why=why, stop=stop)


def on_requested(run: Run, event: SaveRequested, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Somebody wants a checkpoint now: it goes to shared storage as soon as it is whole."""
    if not policy.can_ask_to_save:
        text = "a checkpoint is wanted now, but the program cannot be asked for one (checkpoint: save_on)"
        return run, (Say(text=text, slug="save_refused"),)
    if run.phase not in LIVE or run.attempt is None or run.attempt.fencing:
        return run, (Say(text=f"a checkpoint is wanted now, but the run is {run.phase}", slug="save_refused"),)
    run, order = ask(replace(run, urgent=True), event.why)
    return run, (Say(text="a checkpoint is wanted now: the program is asked to save", slug="save_asked"), order)


def on_warning(run: Run, node: str, level: str, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """A node has become worse: what it alone knows should be saved before it goes, but not again and again."""
    recent = run.asked_mono is not None and run.now - run.asked_mono < policy.min_interval_s
    able = policy.library and policy.can_ask_to_save and run.phase in LIVE
    if not able or recent or run.attempt is None or run.attempt.fencing or node not in run.attempt.nodes:
        return run, ()
    run, order = ask(run, NODE_WARNING)
    return run, (Say(text=f"{node} is {level}: the program is asked to save", slug="save_asked"), order)

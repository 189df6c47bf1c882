"""Scenarios for tests, small and without anything that a test has not asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ftslurm.plan.study import Case, parse
from ftslurm.plan.terms import Terms, terms_of

PLAIN: dict[str, Any] = {
    "nodes": 4,
    "span": "10d",
    "restart": "60s",
    "detection": {"delay": "0s", "diagnosis": "0s"},
    "checkpoint": {"every": "1h", "stall": "10s"},
    "recovery": {"max_attempts": 1_000_000, "no_progress_limit": 1_000_000},
}


def case(**changes: Any) -> Case:
    """The plain case with these keys; sections are laid over it key by key."""
    value = dict(PLAIN)
    for key, given in changes.items():
        value[key] = {**value.get(key, {}), **given} if isinstance(given, dict) else given
    return parse(yaml.safe_dump(value), "scenario.yaml", Path()).cases[0]


def terms(**changes: Any) -> Terms:
    """The terms of `case`."""
    return terms_of(case(**changes))


def failing(mtbf: str, **changes: Any) -> Terms:
    """The terms of a case whose program fails at random so often, and whose nodes never do."""
    return terms(faults={"mtbf": mtbf, "node_share": 0}, **changes)

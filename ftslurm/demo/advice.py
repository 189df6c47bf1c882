"""What stands in the way of a demonstration on a site, and what its user can do about it. Pure.

Slurm's words come first, the advice behind them; what is known to pass by itself says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ftslurm.errors import FtslurmError, SiteForbids, UsageError

Partitions = Mapping[str, Mapping[str, str]]

BEHIND_DASHES = "as in: ftslurm demo -- --account=NAME --qos=NAME"
DOWN = "nodes are down, drained or reserved: `sinfo -R` lists them; -p asks for another partition"
SHAPE = "the partition does not allow a job of this shape: -p asks for another one, --nodes 1 for less"
LIMIT = "a limit of your account or QOS is reached: it starts when other jobs of yours have ended; or -- --qos=NAME"
PENDING: tuple[tuple[str, bool, str], ...] = (
    (r"None|Priority|Resources|Prolog|Cleaning", True, "it waits for its turn; -p asks for another partition"),
    (r"BeginTime|Dependency|Licenses|JobArrayTaskLimit", True, "it waits for its turn"),
    (r"Partition(Down|Inactive)", False, "the partition starts no jobs now: -p asks for another one"),
    (r"ReqNodeNotAvail.*|Reservation.*|.*DOWN.*|NodeDown", True, DOWN),
    (r"Partition(Node|Time)Limit", False, SHAPE),
    (r"JobHeld(User|Admin)", False, "the job is held: your site's staff, or `scontrol release`, lets it go"),
    (r"(Invalid|Bad).*|(Account|QOS)NotAllowed", False, f"give what your site needs behind --, {BEHIND_DASHES}"),
    (r"(QOS|Assoc).*", True, LIMIT),
)
"""Slurm's reason for a pending job, whether it can pass by itself, and what to do."""

ACCOUNT = "name an account of yours behind --: ftslurm demo -- --account=NAME (`sacctmgr show associations user=$USER`)"
REFUSED: tuple[tuple[str, str], ...] = (
    (r"account", ACCOUNT),
    (r"memory", "ask for memory behind --: ftslurm demo -- --mem=1G"),
    (r"qos", "name a QOS that you may use behind --: ftslurm demo -- --qos=NAME"),
    (r"node config|node count|more processors", "fewer nodes: ftslurm demo --nodes 1; or another partition: -p"),
    (r"time limit", "the partition allows less than five minutes: another one with -p"),
    (r"partition|permission|not permitted|group", "another partition: -p (`sinfo -s` lists them)"),
)
ANY_REFUSAL = f"options that your site needs go behind --, {BEHIND_DASHES}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Why a job waits, whether that can pass by itself, and what to do."""

    reason: str
    passes: bool
    advice: str


def waiting(reason: str) -> Waiting:
    """What to say about a pending job, by Slurm's reason; one that is not known here may pass."""
    word = reason.strip("()") or "None"
    for pattern, passes, advice in PENDING:
        if re.fullmatch(pattern, word, re.IGNORECASE):
            return Waiting(reason=word, passes=passes, advice=advice)
    return Waiting(reason=word, passes=True, advice="see `man squeue`, JOB REASON CODES; -p asks for another partition")


def after_refusal(words: str) -> str:
    """What to do when sbatch says no."""
    return next((advice for pattern, advice in REFUSED if re.search(pattern, words, re.IGNORECASE)), ANY_REFUSAL)


def partition_of(known: Partitions, asked: str | None, nodes: int) -> str:
    """The partition that the job goes to.

    Raises:
        UsageError: there is none of that name, or no default one.
        SiteForbids: it does not take a job of so many nodes, now or ever.
    """
    names = ", ".join(known) or "none"
    default = next((name for name, fields in known.items() if fields.get("Default") == "YES"), "")
    name = asked or default
    if not name:
        raise UsageError("this cluster has no default partition", hint=f"name one with -p; there are: {names}")
    if name not in known:
        raise UsageError(f"there is no partition {name} that you may use", hint=f"there are: {names}; -p names one")
    problem = _problem(known[name], nodes)
    if problem:
        others = [each for each, fields in known.items() if each != name and not _problem(fields, nodes)]
        raise SiteForbids(f"partition {name} {problem}", hint=_way_out(name, nodes, others, known[name]))
    return name


def _problem(fields: Mapping[str, str], nodes: int) -> str:
    """Why a partition takes no job of so many nodes; empty where it does, or nothing is known."""
    if fields.get("State", "UP") != "UP":
        return f"starts no jobs: its state is {fields['State']}"
    has, most = _number(fields.get("TotalNodes")), _number(fields.get("MaxNodes"))
    if has is not None and has < nodes:
        return f"has {has} node{'' if has == 1 else 's'}, and the demonstration asks for {nodes}"
    if most is not None and most < nodes:
        return f"allows {most} node{'' if most == 1 else 's'} a job, and the demonstration asks for {nodes}"
    return ""


def _way_out(name: str, nodes: int, others: list[str], fields: Mapping[str, str]) -> str:
    smaller = f"ftslurm demo -p {name} --nodes 1 (two ranks on one node)" if not _problem(fields, 1) else ""
    ways = [way for way in (smaller if nodes > 1 else "", *(f"ftslurm demo -p {each}" for each in others[:3])) if way]
    return "instead: " + "; or ".join(ways) if ways else "`sinfo -s` shows the partitions of this cluster"


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def with_advice(error: FtslurmError) -> FtslurmError:
    """The same refusal, with what to do about it."""
    return type(error)(str(error), hint=after_refusal(str(error)))

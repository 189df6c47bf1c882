"""Limits of the user's association and QOS: would they hold up this run, its spares, or its chain of jobs?

Slurm takes the first that sets a limit: the partition's QOS, the job's QOS, the user's association (resource limits
page of Slurm's documentation; the flag OverPartQOS, which turns the first two round, is not looked at). What stands
with accounts above the user's own is not read.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Mapping, Sequence

from ftslurm.config import Config
from ftslurm.doctor.facts import Facts, Value
from ftslurm.doctor.rules import Rule, Severity
from ftslurm.errors import FtslurmError
from ftslurm.quantities import format_slurm_time
from ftslurm.slurm import site
from ftslurm.slurm.client import SlurmClient

UNLIMITED = float("inf")
LIMITS = {
    "submit": ("MaxSubmitPU", "MaxSubmit", "GrpSubmit"),
    "jobs": ("MaxJobsPU", "MaxJobs"),
    "wall_s": ("MaxWall",),
    "nodes": ("MaxTRES", "MaxTRESPU", "GrpTRES"),
}
"""Fact -> the columns of sacctmgr that set it, in a QOS or an association; of several the lowest counts."""

Row = Mapping[str, str]


def facts(client: SlurmClient, config: Config, partition: Row | None) -> dict[str, Value]:
    """What limits the job of a configuration; without accounting all of it stays unknown."""
    recovery, resources = config.recovery, config.resources
    kind, _, count = str(recovery.continue_).partition(":")
    known: dict[str, Value] = {
        "limit.chain": float(count) if kind == "chain" and count.isdigit() else 0.0,
        "limit.continue": kind,
        "limit.wanted_nodes": float(resources.nodes[0] + recovery.spares),
        "limit.spares": float(recovery.spares),
    }
    account, quality = (str(resources.sbatch.get(name) or "") for name in ("account", "qos"))
    try:
        associations = client.associations(pwd.getpwuid(os.getuid()).pw_name)
        qualities = {row["Name"]: row for row in client.qualities()}
    except (FtslurmError, KeyError):
        return known
    return known | of_rows(chosen(associations, account, partition or {}), qualities, quality, partition or {})


def chosen(associations: Sequence[Row], account: str, partition: Row) -> Row | None:
    """The association of the job: of the account that is asked for, else the first; one for the partition first."""
    mine = [row for row in associations if not account or row["Account"] == account]
    own = [row for row in mine if row["Partition"] and row["Partition"] == partition.get("PartitionName")]
    return next(iter([*own, *(row for row in mine if not row["Partition"])]), None)


def of_rows(association: Row | None, qualities: Mapping[str, Row], quality: str, partition: Row) -> dict[str, Value]:
    """The limits as numbers, and in words with who sets them."""
    quality = quality or (association or {}).get("DefaultQOS", "") or "normal"
    of_partition = partition.get("QoS", "N/A")
    places = [
        (f"QOS {of_partition} of the partition", qualities.get(of_partition, {})),
        (f"QOS {quality}", qualities.get(quality, {})),
        ("your association", association or {}),
    ]
    known: dict[str, Value] = {"limit.qos": quality, "limit.account": (association or {}).get("Account", "")}
    words = []
    for name, columns in LIMITS.items():
        where, value = next(
            ((place, min(found)) for place, row in places if (found := [*_set(row, columns)])), ("", UNLIMITED)
        )
        known[f"limit.{name}"] = value
        words += [f"{name.removesuffix('_s')} {_shown(name, value)} ({where})"] if where else []
    return known | {"limit.words": tuple(words)}


def _set(row: Row, columns: Sequence[str]) -> Iterator[float]:
    """The values that a row sets for a limit."""
    for column in columns:
        text = row.get(column, "")
        if "TRES" in column:
            number = site.resources(text).get("node")
        elif column == "MaxWall":
            number = site.seconds(text)
        else:
            number = float(text) if text.isdigit() else None
        if number is not None:
            yield number


def _shown(name: str, value: float) -> str:
    return format_slurm_time(value) if name == "wall_s" and value > 0 else f"{value:g}"


def _enforced(facts: Facts) -> bool:
    """Whether this site holds jobs to them at all (AccountingStorageEnforce)."""
    return bool({"limits", "safe", "qos", "all"} & set(facts.words("conf.AccountingStorageEnforce")))


LIMIT_RULES = (
    Rule(
        traps=("K12",),
        severity=Severity.STOPS,
        what="a chain of jobs is asked for, and fewer may be submitted at a time (MaxSubmit)",
        applies=lambda facts: _enforced(facts) and facts.number("limit.chain") > facts.number("limit.submit"),
        shows=("limit.chain", "limit.submit", "limit.words"),
        consequence="sbatch refuses a job in the middle of the chain",
        setting=lambda facts: f"recovery.continue: chain:{facts.number('limit.submit'):g} at most, or requeue",
    ),
    Rule(
        traps=("K12",),
        severity=Severity.STOPS,
        what="no job may be submitted, or run, with this QOS and account",
        applies=lambda facts: _enforced(facts) and 0 in (facts.number("limit.submit"), facts.number("limit.jobs")),
        shows=("limit.qos", "limit.account", "limit.words"),
        consequence="sbatch refuses the job, or it waits for ever",
        setting="resources.sbatch: {qos: another one, account: another one}",
    ),
    Rule(
        traps=("K12",),
        severity=Severity.WARNING,
        what="a run that submits its own successor may have one job only (MaxSubmit)",
        applies=lambda facts: (
            _enforced(facts) and facts.text("limit.continue") == "resubmit" and facts.number("limit.submit") < 2
        ),
        shows=("limit.submit", "limit.words"),
        consequence="sbatch refuses the successor while the job that submits it still runs",
        setting="recovery.continue: requeue",
    ),
    Rule(
        traps=("K13",),
        severity=Severity.STOPS,
        what="more nodes are asked for, spares included, than the QOS or association allows",
        applies=lambda facts: _enforced(facts) and facts.number("limit.wanted_nodes") > facts.number("limit.nodes"),
        shows=("limit.wanted_nodes", "limit.spares", "limit.nodes", "limit.words"),
        consequence="sbatch refuses the job, or it waits for ever (QOSMaxNodePerJobLimit and the like)",
        setting="recovery.spares or resources.nodes: fewer; resources.sbatch: {qos: another one}",
    ),
    Rule(
        traps=("K14",),
        severity=Severity.STOPS,
        what="the time limit is longer than the QOS or association allows (MaxWall)",
        applies=lambda facts: (
            _enforced(facts)
            and facts.flag("config.asks_time")
            and facts.number("config.time_s") > facts.number("limit.wall_s")
        ),
        shows=("config.time_s", "limit.wall_s", "limit.words"),
        consequence="sbatch refuses the job, or it waits for ever (QOSMaxWallDurationPerJobLimit)",
        setting=lambda facts: (
            f"resources.time: {format_slurm_time(facts.number('limit.wall_s'))} at most; a requeue goes on after it"
        ),
    ),
)

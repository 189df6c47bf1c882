"""From Slurm's texts about the site to values: partitions, kinds of MPI, limits. Pure and tolerant, as `parse` is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_FIELD = re.compile(r"(\w+)=(\S*)")
_WORD = re.compile(r"[a-z][a-z0-9_]*")


def partitions(text: str) -> dict[str, Mapping[str, str]]:
    """Name -> fields of every partition in `scontrol show partition -o`."""
    found: dict[str, Mapping[str, str]] = {}
    for line in text.splitlines():
        fields = dict(_FIELD.findall(line))
        if "PartitionName" in fields:
            found[fields["PartitionName"]] = fields
    return found


def mpi_types(text: str) -> tuple[str, ...]:
    """The kinds that `srun --mpi=list` names; what it says and where has changed with almost every release."""
    found: list[str] = []
    for line in text.splitlines():
        words = line.removeprefix("srun:").strip()
        if not words.endswith("..."):
            found += [word for word in re.split(r"[\s,]+", words.rpartition(":")[2]) if _WORD.fullmatch(word)]
    return tuple(dict.fromkeys(found))


def seconds(text: str) -> float | None:
    """A time limit as Slurm writes it (`1-00:00:00`, `30:00`); None: no limit, or no time."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + rest)


ASSOCIATION = ("Account", "Partition", "DefaultQOS", "MaxJobs", "MaxSubmit", "MaxWall", "MaxTRES", "GrpTRES")
QUALITY = ("Name", "MaxJobsPU", "MaxSubmitPU", "MaxWall", "MaxTRES", "MaxTRESPU", "GrpTRES", "GrpSubmit")
"""What sacctmgr is asked for about a user's associations, and about each QOS: limits that a run may meet."""


def table(text: str, columns: Sequence[str]) -> tuple[dict[str, str], ...]:
    """The rows of `sacctmgr --noheader --parsable2 show` by column; a line of another form is left out."""
    rows = (line.split("|") for line in text.splitlines())
    return tuple(dict(zip(columns, row, strict=True)) for row in rows if len(row) == len(columns))


def resources(text: str) -> dict[str, float]:
    """Trackable resources by name, as in `cpu=8,node=2,gres/gpu=16`; what is no plain number is left out."""
    pairs = (part.partition("=") for part in text.split(","))
    return {name: float(value) for name, _, value in pairs if value.isdigit()}

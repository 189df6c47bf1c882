"""What the numbers were measured on, without names of hosts, users or places; and the one way to write results."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftslurm.lab.cluster import Cluster

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "benchmarks"
LIMITS = (
    "All nodes are namespaces of one machine: one kernel, one clock, one page cache, and {cpus} cores for all of them"
    " and for Slurm itself. A node that is *cut* has lost its network, not its disk. What shared storage adds on a real"
    " cluster is missing here, and so is the time that many more ranks need to start."
)


def describe(slurm: str) -> dict[str, Any]:
    """The machine and the versions that matter; Slurm's is what the lab says (`slurm_version`)."""
    return {
        "cpus": os.cpu_count(),
        "cpu": _cpu_model(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "slurm": slurm,
        "torch": version("torch"),
        "ftslurm": version("ftslurm"),
        "date": datetime.now(UTC).date().isoformat(),
    }


def limits() -> str:
    """The sentence that stands beside every number from the lab."""
    return LIMITS.format(cpus=os.cpu_count())


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def slurm_version(lab: Cluster) -> str:
    """As in 24.11.5; Slurm's commands tell it only where they find a cluster."""
    return lab.login(["sinfo", "--version"]).stdout.split()[-1]


def version(package: str) -> str:
    """Of an installed package, without what is said of its build."""
    try:
        return metadata.version(package).split("+")[0]
    except metadata.PackageNotFoundError:
        return "not installed"


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - JSON
    """Replace a result file as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def described(facts: dict[str, Any]) -> str:
    """The machine in one line of Markdown."""
    slurm = f" Slurm {facts['slurm']}," if facts["slurm"] else ""
    return (
        f"Measured on {facts['date']}: {facts['cpus']} cores ({facts['cpu']}), {facts['memory_gib']} GiB,"
        f" Linux {facts['kernel']},{slurm} torch {facts['torch']}, Python {facts['python']}.\n"
    )

"""Rules that check a configuration against the site: would this run start here, and could it recover?"""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from ftslurm.config import Config
from ftslurm.doctor.facts import Facts, Value
from ftslurm.doctor.rules import Rule, Severity
from ftslurm.doctor.slurm_rules import best_mpi
from ftslurm.quantities import format_slurm_time
from ftslurm.slurm import site

UNLIMITED = float("inf")


def facts(config: Config, partitions: Mapping[str, Mapping[str, str]] | None) -> dict[str, Value]:
    """What the configuration asks for, and the limits of its partition; without partitions these stay unknown."""
    resources = config.resources
    known: dict[str, Value] = {
        "config.nodes": float(resources.nodes[0]),
        "config.min_nodes": float(config.recovery.min_nodes),
        "config.asks_time": resources.time is not None,
        "config.time_s": resources.time,
        "config.launcher": config.launch.launcher,
        "config.has_launcher": bool(shutil.which("mpirun" if config.launch.launcher == "mpirun" else "srun")),
        "config.brings_launcher": bool(config.launch.modules or config.launch.setup),
        "config.mpi": config.launch.mpi if config.launch.launcher == "srun" else "none",
        "config.ntasks": float(config.world_size),
        "config.names_nodes": "nodelist" in resources.sbatch,
        "config.fabric": config.heartbeat.fabric,
        "config.scratch": config.checkpoint.scratch,
        "config.watches_files": config.checkpoint.is_watched,
    }
    if partitions is None:
        return known
    name = resources.partition or default_partition(partitions)
    fields = partitions.get(name)
    known["config.partition"] = name
    known["config.partition_known"] = fields is not None
    if fields is not None:
        known |= _limits(fields)
    return known


def default_partition(partitions: Mapping[str, Mapping[str, str]]) -> str:
    """The partition of a job that names none; empty: there is no default."""
    return next((name for name, fields in partitions.items() if fields.get("Default") == "YES"), "")


def _limits(fields: Mapping[str, str]) -> dict[str, Value]:
    state = fields.get("State", "")
    return {
        "config.partition_state": state or None,
        "config.partition_nodes": _count(fields.get("TotalNodes", "")),
        "config.partition_max_nodes": _count(fields.get("MaxNodes", "")),
        "config.partition_min_nodes": _count(fields.get("MinNodes", "")),
        "config.partition_max_time_s": _seconds(fields.get("MaxTime", "")),
        "config.partition_default_time_s": _seconds(fields.get("DefaultTime", "")),
    }


def _count(text: str) -> float | None:
    return float(text) if text.isdigit() else UNLIMITED if text == "UNLIMITED" else None


def _seconds(text: str) -> float | None:
    return UNLIMITED if text == "UNLIMITED" else site.seconds(text)


def _limit(facts: Facts) -> str:
    limit = facts.number("config.partition_max_time_s")
    return f"resources.time: {format_slurm_time(limit)} at most; a requeue or `ftslurm resume` goes on after it"


CONFIG_RULES = (
    Rule(
        traps=("K1",),
        severity=Severity.STOPS,
        what="the partition does not exist, or there is no default one",
        applies=lambda facts: not facts.flag("config.partition_known"),
        shows=("config.partition", "slurm.partitions"),
        consequence="sbatch refuses the job",
        setting="resources.partition: one of the site's",
    ),
    Rule(
        traps=("K2",),
        severity=Severity.STOPS,
        what="the partition does not take or start jobs now",
        applies=lambda facts: facts.text("config.partition_state") != "UP",
        shows=("config.partition", "config.partition_state"),
        consequence="the job waits, or sbatch refuses it",
        setting="resources.partition: another one",
    ),
    Rule(
        traps=("K3",),
        severity=Severity.STOPS,
        what="more nodes are asked for than the partition has or allows",
        applies=lambda facts: (
            facts.number("config.nodes")
            > min(facts.number("config.partition_nodes"), facts.number("config.partition_max_nodes"))
        ),
        shows=("config.nodes", "config.partition_nodes", "config.partition_max_nodes"),
        consequence="the job never starts",
        setting="resources.nodes: fewer",
    ),
    Rule(
        traps=("M8", "K4"),
        severity=Severity.WARNING,
        what="the run needs every node of its partition",
        applies=lambda facts: facts.number("config.nodes") == facts.number("config.partition_nodes"),
        shows=("config.nodes", "config.partition_nodes"),
        consequence="after a lost node a requeued job of the same size waits until that node is back, and no node can"
        " be excluded",
        setting="resources.nodes: a range, with recovery.min_nodes below it",
    ),
    Rule(
        traps=("K5",),
        severity=Severity.STOPS,
        what="the time limit is longer than the partition's",
        applies=lambda facts: (
            facts.flag("config.asks_time")
            and facts.number("config.time_s") > facts.number("config.partition_max_time_s")
        ),
        shows=("config.time_s", "config.partition_max_time_s"),
        consequence="sbatch refuses the job, or it waits for ever (PartitionTimeLimit)",
        setting=_limit,
    ),
    Rule(
        traps=("K5",),
        severity=Severity.WARNING,
        what="no time limit is asked for, and the partition's default is short",
        applies=lambda facts: (
            not facts.flag("config.asks_time") and facts.number("config.partition_default_time_s") < 3600
        ),
        shows=("config.partition_default_time_s",),
        consequence="the run is stopped and requeued after the default time",
        setting="resources.time: as long as the partition allows",
    ),
    Rule(
        traps=("K6",),
        severity=Severity.STOPS,
        what="the launcher is not on PATH here, and no module or set-up line brings it",
        applies=lambda facts: not facts.flag("config.has_launcher") and not facts.flag("config.brings_launcher"),
        shows=("config.launcher",),
        consequence="no attempt can start",
        setting="launch.modules: [the module that brings it], or launch.launcher: srun",
    ),
    Rule(
        traps=("E3", "M13", "K7"),
        severity=Severity.STOPS,
        what="srun does not offer the kind of MPI that is asked for",
        applies=lambda facts: facts.text("config.mpi") not in ("none", *facts.words("slurm.mpi_types")),
        shows=("config.mpi", "slurm.mpi_types"),
        consequence="srun refuses every attempt",
        setting=lambda facts: f"launch.mpi: {best_mpi(facts)}",
    ),
    Rule(
        traps=("K11",),
        severity=Severity.STOPS,
        what="Slurm would refuse this job (sbatch --test-only)",
        applies=lambda facts: facts.flag("config.refused"),
        shows=("config.slurm_says",),
        consequence="`ftslurm submit` fails with the same words",
        setting="what Slurm's words name: account, QOS, partition, limits",
    ),
    Rule(
        traps=("E1", "E2", "M26"),
        severity=Severity.NOTE,
        what="mpirun starts the ranks",
        applies=lambda facts: facts.text("config.launcher") == "mpirun",
        consequence="one lost node ends the whole step at once, and fencing by cgroup is off: ranks of the batch host"
        " live in the batch step",
        setting="launch.launcher: srun, where the MPI supports it",
    ),
    Rule(
        traps=("B8",),
        severity=Severity.WARNING,
        what="nodes are named (resources.sbatch.nodelist)",
        applies=lambda facts: facts.flag("config.names_nodes"),
        shows=("config.names_nodes",),
        consequence="a requeued job waits for just these nodes, also for a broken one",
        setting="resources.sbatch.exclude is not needed either: ftslurm excludes bad nodes itself",
    ),
    Rule(
        traps=("K8",),
        severity=Severity.NOTE,
        what="the run cannot shrink (recovery.min_nodes equals resources.nodes)",
        applies=lambda facts: facts.number("config.min_nodes") == facts.number("config.nodes") > 1,
        shows=("config.nodes", "config.min_nodes"),
        consequence="every lost node costs a requeue",
        setting="recovery.min_nodes: fewer, if the program can go on with fewer ranks",
    ),
    Rule(
        traps=("E4", "K10"),
        severity=Severity.WARNING,
        what="heartbeats over MPI are asked for, and what is installed here cannot make them",
        applies=lambda facts: facts.text("config.fabric") == "mpi" and bool(facts.text("host.ring_problem")),
        shows=("host.ring_problem",),
        consequence="the run goes on without this witness",
        setting="heartbeat.fabric: none, or pip install 'ftslurm[mpi]' against the site's MPI",
    ),
    Rule(
        traps=("M30", "K9"),
        severity=Severity.WARNING,
        what="no checkpoint files are watched",
        applies=lambda facts: not facts.flag("config.watches_files"),
        consequence="every restart begins from the start, or trusts what the program finds by itself",
        setting="checkpoint.files: the patterns of its checkpoints; or checkpoint.layout: library",
    ),
)

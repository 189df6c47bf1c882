"""Environment-variable names of Slurm, MPI and torch, and the few rules about them. No other module spells one.

Rules:

- *Reading*: `job_from_env` turns what Slurm says about the allocation into one record; `rank_identity` answers "which
  rank am I" under srun and under every mpirun.
- *Commands*: `clean` is the environment of sbatch, scontrol, sacct, … (inherited SBATCH_* would change what is
  submitted, SQUEUE_FORMAT breaks parsers), but the ways to find the cluster (SLURM_CONF and friends) stay.
- *Steps*: `step_env` is for ftslurm's own steps: srun reads some hundred variables as options (srun(1), INPUT
  ENVIRONMENT VARIABLES), and the list grows with each release, so everything of Slurm's is dropped except names that
  are known to be facts about the job. `training_env` is for the user's ranks: the site's and user's taste (MPI type,
  hint, profile) stays; counts, node lists and the identity of another step go, because the launcher states them.

After a lost node Slurm leaves the names in `STALE_AFTER_LOSS` wrong in every later step (measured on 22.05.8 and
24.11.5); the rank wrapper rewrites them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftslurm.errors import UsageError
from ftslurm.slurm import nodeset

if TYPE_CHECKING:
    from collections.abc import Mapping

SLURM_CONF = "SLURM_CONF"
JOB_ID = "SLURM_JOB_ID"
JOB_ID_OLD = "SLURM_JOBID"
ARRAY_JOB_ID = "SLURM_ARRAY_JOB_ID"
ARRAY_TASK_ID = "SLURM_ARRAY_TASK_ID"
RESTART_COUNT = "SLURM_RESTART_COUNT"
JOB_NODELIST = "SLURM_JOB_NODELIST"
NODELIST_OLD = "SLURM_NODELIST"
JOB_NUM_NODES = "SLURM_JOB_NUM_NODES"
STEP_NODELIST = "SLURM_STEP_NODELIST"
STEP_ID = "SLURM_STEP_ID"
STEP_NUM_TASKS = "SLURM_STEP_NUM_TASKS"
NTASKS = "SLURM_NTASKS"
PROCID = "SLURM_PROCID"
LOCALID = "SLURM_LOCALID"
NODE_NAME = "SLURMD_NODENAME"
TIME_FORMAT = "SLURM_TIME_FORMAT"

RANK = "RANK"
WORLD_SIZE = "WORLD_SIZE"
LOCAL_RANK = "LOCAL_RANK"
LOCAL_WORLD_SIZE = "LOCAL_WORLD_SIZE"
GROUP_RANK = "GROUP_RANK"
NODE_RANK = "NODE_RANK"
MASTER_ADDR = "MASTER_ADDR"
MASTER_PORT = "MASTER_PORT"
TORCHELASTIC_RUN_ID = "TORCHELASTIC_RUN_ID"
TORCHELASTIC_RESTART_COUNT = "TORCHELASTIC_RESTART_COUNT"

NO_KILL_MARKER = "FTSLURM_NO_KILL"
"""Set to 1 by the submitted script: Slurm cannot be asked whether a job has `--no-kill`."""

CHAIN = "FTSLURM_CHAIN"
"""What the jobs of a chain have in common: a text that stands in their comments, or 1 for the tasks of an array."""

STALE_AFTER_LOSS = (NODELIST_OLD, JOB_NODELIST, JOB_NUM_NODES)
"""Still name the lost node in every later step of the job."""

FINDS_CLUSTER = frozenset({SLURM_CONF, "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTER_NAME", "SLURM_WORKING_CLUSTER"})
"""How a command finds slurmctld and proves who it is; kept everywhere."""

JOB_FACTS = frozenset(
    {
        JOB_ID,
        JOB_ID_OLD,
        RESTART_COUNT,
        ARRAY_JOB_ID,
        ARRAY_TASK_ID,
        "SLURM_ARRAY_TASK_COUNT",
        "SLURM_ARRAY_TASK_MAX",
        "SLURM_ARRAY_TASK_MIN",
        "SLURM_ARRAY_TASK_STEP",
        "SLURM_JOB_ACCOUNT",
        "SLURM_JOB_END_TIME",
        "SLURM_JOB_GID",
        "SLURM_JOB_GROUP",
        "SLURM_JOB_NAME",
        "SLURM_JOB_PARTITION",
        "SLURM_JOB_QOS",
        "SLURM_JOB_RESERVATION",
        "SLURM_JOB_START_TIME",
        "SLURM_JOB_UID",
        "SLURM_JOB_USER",
        "SLURM_SUBMIT_DIR",
        "SLURM_SUBMIT_HOST",
    }
)
"""Facts about the job that srun inside the job does not take for an option; users' programs read them."""

SRUN_TASTE = frozenset(
    {
        "SLURM_ACCTG_FREQ",
        "SLURM_BCAST",
        "SLURM_BCAST_EXCLUDE",
        "SLURM_COMPRESS",
        "SLURM_CPU_FREQ_REQ",
        "SLURM_DEBUG",
        "SLURM_DEBUG_FLAGS",
        "SLURM_HINT",
        "SLURM_MPI_TYPE",
        "SLURM_NETWORK",
        "SLURM_PMI_KVS_NO_DUP_KEYS",
        "SLURM_PROFILE",
        "SLURM_SEND_LIBS",
        "SLURM_TASK_EPILOG",
        "SLURM_TASK_PROLOG",
        "SLURM_THREADS",
        "SLURM_UMASK",
        "SLURM_WCKEY",
    }
)
"""Options given through the environment that say *how* ranks run, never where or how many."""

_SLURM_PREFIXES = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SALLOC_")
_COMMAND_PREFIXES = ("SQUEUE_", "SACCT_", "SINFO_", "SCONTROL_", "SCANCEL_", "SPRIO_", "SSTAT_")
_MPI_IDENTITY = re.compile(
    r"PMIX_(?!MCA_)|PMI2?_|PRTE_(?!MCA_)|(PRTE|OMPI)_MCA_(ess|orte|pmix|prte)_|OMPI_COMM_WORLD_|OMPI_UNIVERSE_SIZE|"
    r"HYDI?_|HYDRA_|MPI_LOCAL(RANKID|NRANKS)|MV2_COMM_WORLD_|PALS_"
)
_RANK_SOURCES = (
    ("PMIX_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK"),
    (PROCID, STEP_NUM_TASKS, LOCALID),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnv:
    """What Slurm put into the environment of a batch script (or salloc shell) about its allocation.

    Counts that were not asked for are None, never guessed. `nodelist` keeps Slurm's order. `restart_count` is 0 where
    Slurm leaves it out (it does so until the first requeue). `batch_host` is None outside a batch or interactive step.
    `chain` is what the jobs of its chain have in common (their array's id, or a text in their comments); empty: it is
    in none. `end_time` is in epoch seconds (Slurm 23.02 and later). `gpus_per_node` is the number alone; types are
    dropped.
    """

    job_id: str
    array_job_id: str | None
    array_task_id: str | None
    restart_count: int
    nodelist: tuple[str, ...]
    num_nodes: int
    ntasks: int | None
    ntasks_per_node: int | None
    tasks_per_node: tuple[int, ...]
    cpus_per_task: int | None
    cpus_per_node: tuple[int, ...]
    gpus_per_node: int | None
    gpus_on_node: int | None
    batch_host: str | None
    submit_dir: str | None
    end_time: float | None
    job_name: str
    partition: str
    user: str
    no_kill: bool
    chain: str = ""

    @property
    def requeue_id(self) -> str:
        """The id that `scontrol requeue` must get: by SLURM_JOB_ID it would requeue a whole array."""
        if self.array_job_id and self.array_task_id:
            return f"{self.array_job_id}_{self.array_task_id}"
        return self.job_id

    @property
    def calls_of(self) -> str:
        """Whose calls of `ftslurm run` those in this job are: its own, or those of its chain."""
        return f"chain-{self.chain}" if self.chain else self.requeue_id


def job_from_env(environ: Mapping[str, str]) -> JobEnv:
    """Read the allocation from `environ`.

    Raises:
        UsageError: not inside a job, or a value that Slurm cannot have written.
    """
    job_id = environ.get(JOB_ID) or environ.get(JOB_ID_OLD) or ""
    if not re.fullmatch(r"[0-9]+", job_id):
        raise UsageError(
            f"this is not inside a Slurm job: {JOB_ID} is {job_id!r}" if job_id else "this is not inside a Slurm job",
            hint="start it from an sbatch script or a salloc shell, or use `ftslurm submit`",
        )
    nodelist = nodeset.expand(environ.get(JOB_NODELIST) or environ.get(NODELIST_OLD) or "")
    return JobEnv(
        job_id=job_id,
        array_job_id=environ.get(ARRAY_JOB_ID) or None,
        array_task_id=environ.get(ARRAY_TASK_ID) or None,
        restart_count=_number(environ, RESTART_COUNT) or 0,
        nodelist=nodelist,
        num_nodes=_number(environ, JOB_NUM_NODES, "SLURM_NNODES") or len(nodelist),
        ntasks=_number(environ, NTASKS, "SLURM_NPROCS"),
        ntasks_per_node=_number(environ, "SLURM_NTASKS_PER_NODE"),
        tasks_per_node=_repeated(environ.get("SLURM_TASKS_PER_NODE", "")),
        cpus_per_task=_number(environ, "SLURM_CPUS_PER_TASK"),
        cpus_per_node=_repeated(environ.get("SLURM_JOB_CPUS_PER_NODE", "")),
        gpus_per_node=_gpu_count(environ.get("SLURM_GPUS_PER_NODE", "")),
        gpus_on_node=_gpu_count(environ.get("SLURM_GPUS_ON_NODE", "")),
        batch_host=environ.get(NODE_NAME) or None,
        submit_dir=environ.get("SLURM_SUBMIT_DIR") or None,
        end_time=_number(environ, "SLURM_JOB_END_TIME"),
        job_name=environ.get("SLURM_JOB_NAME", ""),
        partition=environ.get("SLURM_JOB_PARTITION", ""),
        user=environ.get("SLURM_JOB_USER", ""),
        no_kill=environ.get(NO_KILL_MARKER) == "1",
        chain=_chain(environ),
    )


def _chain(environ: Mapping[str, str]) -> str:
    text = environ.get(CHAIN, "")
    if text == "1":
        return environ.get(ARRAY_JOB_ID, "")
    if text and not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", text):
        raise UsageError(f"{CHAIN}={text[:80]!r} cannot be the name of a chain")
    return text


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for sbatch, squeue, scontrol, …: nothing inherited that changes a request or an answer."""
    prefixes = _SLURM_PREFIXES + _COMMAND_PREFIXES
    return {name: value for name, value in environ.items() if name in FINDS_CLUSTER or not name.startswith(prefixes)}


def step_env(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for srun of ftslurm's own steps: no option for srun in it, no identity of another step."""
    keep = FINDS_CLUSTER | JOB_FACTS
    prefixes = _SLURM_PREFIXES + _COMMAND_PREFIXES
    return {name: value for name, value in environ.items() if name in keep or _is_foreign(name, prefixes)}


def training_env(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for srun of the user's ranks: as `step_env`, but the user's and site's taste stays."""
    keep = FINDS_CLUSTER | JOB_FACTS | SRUN_TASTE
    return {name: value for name, value in environ.items() if name in keep or _is_foreign(name, _SLURM_PREFIXES)}


def rank_identity(environ: Mapping[str, str]) -> tuple[int, int, int]:
    """(rank, world size, local rank) of this process.

    The MPI launchers' names go first: under mpirun every rank has SLURM_PROCID=0 (one daemon a node was started by
    Slurm, the ranks by the daemon). Under `srun --mpi=pmix` both agree.

    Raises:
        UsageError: no launcher left its mark.
    """
    for rank_name, world_name, local_name in _RANK_SOURCES:
        rank = _number(environ, rank_name)
        if rank is None:
            continue
        world = _number(environ, world_name, STEP_NUM_TASKS, NTASKS)
        local = _number(environ, local_name, LOCALID)
        if world is None or local is None or not 0 <= rank < world:
            raise UsageError(f"{rank_name}={rank} but the world size is {world} and the local rank {local}")
        return rank, world, local
    names = ", ".join(source[0] for source in _RANK_SOURCES)
    raise UsageError(f"this process is no rank: none of {names} is set", hint="start it through srun or mpirun")


def _is_foreign(name: str, prefixes: tuple[str, ...]) -> bool:
    """True for a variable that is neither Slurm's nor the mark of an MPI launcher."""
    return not name.startswith(prefixes) and not _MPI_IDENTITY.match(name)


def _number(environ: Mapping[str, str], *names: str) -> int | None:
    """The first of `names` that is set, as a whole number."""
    for name in names:
        text = environ.get(name, "")
        if text:
            if not re.fullmatch(r"[0-9]{1,18}", text):
                raise UsageError(f"{name}={text!r} is not a whole number")
            return int(text)
    return None


def _repeated(text: str) -> tuple[int, ...]:
    """Slurm's short form of counts per node: `2(x3),1` is (2, 2, 2, 1)."""
    counts: list[int] = []
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"([0-9]{1,9})(?:\(x([0-9]{1,6})\))?", part)
        if not match or int(match[2] or 1) > nodeset.MAX_NODES:
            raise UsageError(f"{text!r} is not a list of counts per node")
        counts += [int(match[1])] * int(match[2] or 1)
    return tuple(counts)


def _gpu_count(text: str) -> int | None:
    """`8`, `gpu:8`, `a100:4`, `a100:2,h100:2(S:0)` as a number; None where none was asked for."""
    if not text:
        return None
    total = 0
    for part in re.sub(r"\([^)]*\)", "", text).split(","):
        match = re.fullmatch(r"(?:[^:,]+:){0,2}([0-9]{1,6})", part)
        if not match:
            raise UsageError(f"{text!r} is not a number of GPUs")
        total += int(match[1])
    return total

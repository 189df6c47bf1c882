"""All file names of ftslurm, in one place.

A run has one folder on shared storage (`RunPaths`) and, on every node, one folder on node-local storage
(`LocalPaths`). Nothing else in the package joins path components that belong to these two.

Layout of the run's folder::

    <run_root>/<run_id>/
      config.yaml  config.resolved.json  site.json  job.sbatch  submitted.json  STOP
      journal.<epoch>.jsonl
      lease/<n>
      key
      logs/<attempt>/rank-00042.log  rank-00042.ndjson  supervisor-<node>.ndjson  agent-<node>.ndjson ...
      logs/current -> <attempt>
      checkpoints/   samples/<node>.<epoch>.jsonl   report/
      metrics.prom  metrics.sd.json  faults.jsonl  faults.d/
    <run_root>/by-job/<job_id> -> ../<run_id>
    <run_root>/submissions/<name>/script.sbatch  submission.json
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LEDGER = "FTSLURM_LEDGER"
RUN_ROOT = "FTSLURM_RUN_ROOT"
RUNS = "ftslurm-runs"
"""The run root in the folder of a script."""

OWN_FOLDERS = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/run"))  # noqa: S108 - never used, only recognised
PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the user's ftslurm folder: FTSLURM_HOME, or ~/.ftslurm (home folders are shared on Slurm sites)."""
    chosen = environ.get("FTSLURM_HOME")
    return Path(chosen) if chosen else Path.home() / ".ftslurm"


def campaigns(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of fault campaigns (`faults.book`)."""
    return home(environ) / "campaigns"


def default_run_root(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where runs are kept unless the configuration says otherwise: FTSLURM_RUN_ROOT, or <home>/runs."""
    chosen = environ.get(RUN_ROOT)
    return Path(chosen) if chosen else home(environ) / "runs"


def memory_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where is kept what was read of journals, so that it need not be read again (`insight.remembered`)."""
    return home(environ) / "cache"


def host_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the user's folder on this host, for what its processes share: below XDG_RUNTIME_DIR, or in /tmp."""
    given = environ.get("XDG_RUNTIME_DIR")
    if given and Path(given).is_dir():
        return Path(given) / "ftslurm"
    return Path("/tmp") / f"ftslurm-{os.getuid()}" / "shared"  # noqa: S108 - a 0700 folder that is checked on use


def is_hosts_own(folder: Path) -> bool:
    """Tell whether a folder is one that every host has for itself: what lies in it is seen by no other host."""
    real = folder.resolve()
    return any(real.is_relative_to(own) for own in OWN_FOLDERS)


def site_profiles(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of site profiles, one for each cluster, among the user's configuration files."""
    chosen = environ.get("XDG_CONFIG_HOME")
    return (Path(chosen) if chosen else Path.home() / ".config") / "ftslurm" / "sites"


def templates() -> Path:
    """Return the folder of the templates, in an installed wheel or in a source checkout."""
    installed = Path(__file__).parent / "templates"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "templates"


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The run's folder on shared storage."""

    root: Path

    @property
    def run_id(self) -> str:
        return self.root.name

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def resolved(self) -> Path:
        return self.root / "config.resolved.json"

    @property
    def site(self) -> Path:
        return self.root / "site.json"

    @property
    def submitted(self) -> Path:
        """How the newest job of the run was submitted (`submission.write_script`)."""
        return self.root / "submitted.json"

    @property
    def script(self) -> Path:
        return self.root / "job.sbatch"

    @property
    def own_script(self) -> Path:
        """The user's own script, of a run that began with `submit --from` (`ownjob`)."""
        return self.root / "own.sbatch"

    @property
    def own_job(self) -> Path:
        return self.root / "own.json"

    def journal(self, epoch: int) -> Path:
        return self.root / f"journal.{epoch}.jsonl"

    @property
    def summary(self) -> Path:
        """What is known of a run that has ended, for who shows many (`insight.filed`)."""
        return self.root / "summary.json"

    def settled(self, epoch: int) -> Path:
        """What a supervisor that had taken over leaves when nothing of the run is left on the nodes."""
        return self.root / f"settled.{epoch}"

    @property
    def lease(self) -> Path:
        return self.root / "lease"

    @property
    def key(self) -> Path:
        return self.root / "key"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def attempt_logs(self, attempt: int) -> Path:
        return self.logs / str(attempt)

    def autopsy(self, attempt: int, node: str) -> Path:
        return self.attempt_logs(attempt) / "autopsy" / f"{node}.json"

    def rank_log(self, attempt: int, rank: int) -> Path:
        return self.attempt_logs(attempt) / rank_log_name(rank)

    @property
    def requests(self) -> Path:
        """What people ask of a run that is alive (`runtime.requests`)."""
        return self.root / "requests"

    @property
    def stops(self) -> tuple[Path, ...]:
        """Files by which somebody, also a colleague, asks the run to stop (`runtime.stopfile`)."""
        return self.requests / "STOP", self.root / "STOP"

    @property
    def faults(self) -> Path:
        """What was broken on purpose (`faults.truth`)."""
        return self.root / "faults.jsonl"

    @property
    def orders(self) -> Path:
        """What a willing program is asked to do to itself (`faults.willing`)."""
        return self.root / "faults.d"

    @property
    def history(self) -> Path:
        """Every checkpoint that there was (`runtime.history`)."""
        return self.root / "history"

    @property
    def current_logs(self) -> Path:
        return self.logs / "current"

    def process_log(self, attempt: int | str, role: str, node: str) -> Path:
        """The log of one of ftslurm's own processes (`runtime.logs`); roles: see `cli.ownlogs`."""
        return self.logs / str(attempt) / f"{role}-{node}.ndjson"

    def rank_notes(self, attempt: int, rank: int) -> Path:
        """The log of a rank's wrapper, beside what the rank prints."""
        return self.rank_log(attempt, rank).with_suffix(".ndjson")

    @property
    def metrics(self) -> Path:
        """The metrics of a run that is alive, for node_exporter's textfile collector (`observer`)."""
        return self.root / "metrics.prom"

    @property
    def metrics_address(self) -> Path:
        """Where else they are to be had, for Prometheus' file_sd."""
        return self.root / "metrics.sd.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def samples(self) -> Path:
        """What the nodes used of themselves (`runtime.sampler`)."""
        return self.root / "samples"

    def sample_file(self, node: str, epoch: int) -> Path:
        return self.samples / f"{node}.{epoch}.jsonl"

    @property
    def report(self) -> Path:
        """What `ftslurm report` makes of the run."""
        return self.root / "report"


@dataclass(frozen=True, slots=True)
class LocalPaths:
    """What a run keeps on one node: sockets' addresses, log spool, journal tail.

    Private to the user, outlives a step.
    """

    root: Path

    @classmethod
    def of(cls, run_id: str, base: str = "/tmp") -> LocalPaths:  # noqa: S108 - a 0700 folder that is checked on use
        return cls(Path(base) / f"ftslurm-{os.getuid()}" / run_id)

    def agent_file(self, node: str) -> Path:
        return self.root / f"agent-{node}.json"

    def spool(self, attempt: int) -> Path:
        return self.root / "logs" / str(attempt)

    def progress(self, attempt: int) -> Path:
        return self.spool(attempt) / "progress"

    def flight(self, attempt: int) -> Path:
        return self.spool(attempt) / "flight"

    def journal_tail(self, node: str) -> Path:
        return self.root / f"journal-tail-{node}.jsonl"


def ledger_of(run_root: Path, configured: str | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the node ledger's folder: the configuration's, FTSLURM_LEDGER's, or the one beside the runs.

    Runs that lie beside their scripts share the one in the user's home: bad nodes are bad for all scripts.
    """
    beside = home(environ) / "runs" if run_root.name == RUNS else run_root
    return Path(configured or environ.get(LEDGER) or beside / "ledger")


def rank_log_name(rank: int) -> str:
    """Return the name of a rank's output file."""
    return f"rank-{rank:05d}.log"


def by_job(run_root: Path, job_id: str) -> Path:
    """Return the link that leads from a job to its run."""
    return run_root / "by-job" / job_id


def submissions(run_root: Path) -> Path:
    """Return the folder of the submissions of users' own scripts (`ownjob`)."""
    return run_root / "submissions"


def probe_file(folder: Path, run_id: str, node: str) -> Path:
    """Return the small file that an agent writes, to learn whether it can, and deletes."""
    return folder / f".ftslurm-probe-{run_id}-{node}"

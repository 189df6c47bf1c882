"""Traps that every site has, and what ftslurm does about each; and the numbers that no site can be checked for."""

from __future__ import annotations

from collections.abc import Callable

from ftslurm.doctor.facts import Facts
from ftslurm.doctor.rules import Rule, Severity


def _everywhere(_: Facts) -> bool:
    return True


def _gpus(facts: Facts) -> bool:
    return "gpu" in facts.words("conf.GresTypes")


def _pmix(facts: Facts) -> bool:
    return "pmix" in facts.words("slurm.mpi_types")


def _memory(facts: Facts) -> bool:
    return "memory" in facts.text("conf.SelectTypeParameters").lower()


def _handled(traps: str, what: str, done: str, applies: Callable[[Facts], bool] = _everywhere) -> Rule:
    return Rule(
        traps=tuple(traps.split()),
        severity=Severity.HANDLED,
        what=what,
        applies=applies,
        consequence=done,
        setting="none",
    )


HANDLED_RULES = (
    _handled("M2 C3", "scancel of a step with a lost node blocks for 12 s", "agents kill local ranks; nothing waits"),
    _handled("M3 A5", "a step without srun --no-kill dies with one node", "every step of ftslurm's has it"),
    _handled(
        "M4 A2", "the batch host lost under --no-kill leaves a job without a script", "a surviving agent takes over"
    ),
    _handled("M5", "an MPI world ends as a whole with one of its processes", "agents hold no MPI", _pmix),
    _handled("M6 E4", "repair of an MPI world in place (ULFM) is not dependable", "ranks are started anew"),
    _handled(
        "M7 A1",
        "nodes can be excluded only while a job is pending",
        "excluded inside the job, then at a requeue",
    ),
    _handled("M12", "steps get their numbers in any order", "a step's number is read inside it"),
    _handled("M15", "restarting by a rendezvous of the survivors is slow and may fail", "ranks are started anew"),
    _handled("M18", "memory is shared out among steps", "steps overlap; agents ask for none", _memory),
    _handled("M20", "after a lost node SLURM_NODELIST and others name it still", "the rank wrapper rewrites them"),
    _handled("M21 M24", "steps with and without GPUs side by side", "each step says what it wants", _gpus),
    _handled("M22", "Slurm may lower a requeued job's size by itself", "the size is written and read back"),
    _handled("M23", "a returning script cancels a takeover's steps", "the script never returns before the run's end"),
    _handled("M25", "a rank that prints through a lost srun stops in write()", "ranks print into files"),
    _handled("M26", "under mpirun every rank has SLURM_PROCID=0", "the rank comes from the MPI's own variables"),
    _handled("M27", "ranks on a cut node may write for minutes after a requeue", "only the newest epoch may commit"),
    _handled("M28 B1 B2", "a requeued job with too many tasks never starts", "tasks, nodes, exclusions; read back"),
    _handled("M30", "files of a killed writer look complete", "a save counts when its writer has let go; then digests"),
    _handled("M34", "a second node may be lost soon after the first", "every decision starts from the nodes left"),
    _handled("A8", "an ordinary user may not drain a node", "excluded per run, and in the user's own ledger"),
    _handled("B7", "a crash loop may requeue for ever", "budgets: attempts, attempts without progress"),
    _handled("C2", "a probe step waits behind the training step", "--overlap, no memory, a deadline"),
    _handled("C4", "by default one dead rank leaves the rest running", "agents report every end and stop the rest"),
    _handled("C5", "srun takes counts from the environment", "every count is given"),
    _handled("D1", "--signal may come a minute early, or to the steps only", "asked a minute ahead, with B:"),
    _handled("D2", "scancel --signal skips the batch script", "ranks are told by their agents"),
    _handled("D4 D5", "a save in a signal handler; a copy that takes longer than the save", "time is kept for both"),
    _handled("E1", "mpirun's inner srun kills the step with one node", "that counts as the end of the attempt"),
    _handled("E7", "the order of nodes asked for is not the order of ranks", "hosts are read back before the go"),
    _handled("F1", "heartbeats stop during start, save and load", "limits depend on the phase"),
    _handled("F2", "an observer that is cut off finds everybody silent", "it suspects itself and excludes nobody"),
    _handled("F3", "wall clocks jump", "monotonic clocks only"),
    _handled("F6", "a broken check must not exclude every node", "a cap, and hard evidence beyond it"),
)

NOT_OF_A_SITE = {
    "M14": "how the lab is built",
    "M16": "the least time that a cold start takes",
    "M33": "a way to end a job that ftslurm does not use",
    "F7": "what the lab cannot show",
}

"""How the incidents of the corpus are made on the lab, and what each of them is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftslurm.lab.cluster import Cluster
from tests.lab.training import LabRun, await_that, patient, program, submit

ENDLESS = {"max_attempts": 1000, "no_progress_limit": 1000, "min_nodes": 1}
PATIENCE_S = 240.0
FOLDER = Path(__file__).resolve().parents[2] / "tests" / "data" / "incidents"
"""Misfortunes that are there already are not made again: delete a file to record it anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What was done in one attempt; `where` is the rank or node that it was done to, empty where it was to many."""

    name: str
    title: str
    failure_class: str
    scope: str
    where: str
    attempt: int


Recording = Iterator[tuple[LabRun, Told]]

ALONE = {
    "sigkill": ("application", "a rank is killed with SIGKILL"),
    "sigterm": ("application", "a rank is killed with SIGTERM"),
    "sigsegv": ("application", "a rank ends with a segmentation fault"),
    "sigabrt": ("application", "a rank aborts"),
    "sigbus": ("application", "a rank ends with a bus error"),
    "sigfpe": ("application", "a rank ends with an arithmetic fault"),
    "sigill": ("application", "a rank meets an illegal instruction"),
    "sigint": ("application", "a rank is interrupted"),
    "sighup": ("application", "a rank loses its terminal"),
    "sigxcpu": ("application", "a rank is over its limit on processor time"),
    "exit1": ("application", "os._exit(1) without a word"),
    "exit3": ("application", "os._exit(3) without a word"),
    "exit127": ("application", "a launcher script exits with 127"),
    "exit137": ("application", "a script passes 137 on"),
    "exception": ("application", "an exception"),
    "chained": ("application", "an exception in the handling of another one"),
    "own_exception": ("application", "an exception with a name of its own"),
    "assertion": ("application", "a failed assertion"),
    "nan": ("application", "the program stops at a loss that is no number"),
    "module": ("application", "a module is not installed, on all ranks"),
    "missing_file": ("application", "a data file is missing, on all ranks"),
    "permission": ("application", "a program may not be run"),
    "bad_json": ("application", "the program's configuration does not parse, on all ranks"),
    "recursion": ("application", "a recursion without an end"),
    "many_files": ("application", "too many open files"),
    "no_command": ("application", "a shell does not find its command"),
    "child_failed": ("application", "a helper program fails"),
    "port_in_use": ("application", "a port is in use"),
    "shapes": ("application", "two matrices do not fit"),
    "no_gpu": ("application", "torch without a CUDA driver"),
    "loader_bug": ("application", "an exception in a data loader's worker"),
    "loader_killed": ("application", "a data loader's worker is killed with SIGKILL"),
    "native_abort": ("application", "a C library calls abort()"),
    "memory_error": ("oom_host", "MemoryError under a limit on address space"),
    "torch_allocation": ("oom_host", "torch cannot allocate host memory"),
    "memory_killer": ("oom_host", "the kernel's memory killer, in a memory cgroup"),
    "full_device": ("storage", "a write without room (ENOSPC)"),
    "torch_save_full": ("storage", "torch.save without room"),
    "read_error": ("storage", "a read that ends with EIO"),
    "torn_checkpoint": ("storage", "torch.load of a checkpoint of which half is missing"),
    "no_such_checkpoint": ("application", "the program's own checkpoint is not there"),
}
ILL = {
    "quota": ("EDQUOT", "a write over quota (EDQUOT)"),
    "stale": ("ESTALE", "a stale file handle (ESTALE)"),
    "broken": ("EIO", "a write that ends with EIO"),
    "read-only": ("EROFS", "a file system that has become read-only (EROFS)"),
    "full": ("ENOSPC", "a file system without room (ENOSPC)"),
}
TOGETHER = {
    "sigkill": ("application", "a rank is killed; the others lose their gloo peer"),
    "exception": ("application", "a rank fails; the others lose their gloo peer"),
    "sigsegv": ("application", "a rank crashes; the others lose their gloo peer"),
    "full_device": ("storage", "a rank has no room to write; the others lose their gloo peer"),
    "skip_collective": ("program_hang", "a rank skips an all_reduce; the others run into gloo's time-out"),
    "leave_early": ("application", "a rank ends with success while the others go on"),
}
EVERYWHERE = frozenset({"module", "missing_file", "bad_json", "skip_collective", "leave_early"})


def _ways(lab: Cluster, name: str, deeds: dict[str, tuple[str, str]], shape: dict[str, Any]) -> Recording:
    """One run that meets a misfortune in each attempt. Rank 1 is the one, and what it does is done on its node."""
    deeds = {way: deed for way, deed in deeds.items() if not (FOLDER / f"recorded-{name}-{way}.json").exists()}
    collective, nodes, per_node = shape["collective"], shape["nodes"], shape["per_node"]
    options = ["--collective"] if collective else []
    command = program("misfortune", "--ways", ",".join(deeds), *options, *shape.get("options", ()))
    run = submit(
        lab,
        command,
        name=name,
        nodes=nodes,
        resources={"ranks_per_node": per_node, "time": "30:00"},
        recovery=ENDLESS,
        **shape.get("more", {}),
    )
    for done, (way, (failure_class, title)) in enumerate(deeds.items()):
        run.wait(f"end of {way}", lambda after=done: len(run.launches()) > after + 1, 90)
        where = "" if way in EVERYWHERE else f"1@{'n2' if per_node == 1 else 'n1'}"
        told = Told(
            name=f"{name}-{way}",
            title=title,
            failure_class=failure_class,
            scope="rank" if where else "",
            where=where,
            attempt=done,
        )
        yield run, told
    run.wait_end(PATIENCE_S)


def alone(lab: Cluster) -> Recording:
    """Ranks that fail while the others notice nothing."""
    return _ways(lab, "alone", ALONE, {"collective": False, "nodes": 2, "per_node": 2})


def together(lab: Cluster) -> Recording:
    """Ranks that fail in a collective operation."""
    return _ways(lab, "gloo", TOGETHER, {"collective": True, "nodes": 4, "per_node": 1})


def ill_storage(lab: Cluster) -> Recording:
    """Ranks that write to a file system which fails in one way after another, while ftslurm's own is well."""
    from ftslurm.lab.passthrough import Fault

    storage = lab.storage
    storage.attach()
    ways = ",".join(["write_until_it_fails"] * len(ILL))
    command = program("misfortune", "--ways", ways, "--place", storage.path)
    run = submit(lab, command, name="ill", nodes=2, recovery=ENDLESS)
    for done, (name, (fault, title)) in enumerate(ILL.items()):
        run.wait("training", lambda count=done + 1: len(run.restored_steps()) == count)
        time.sleep(1.5)
        storage.fail(Fault(fault))
        run.wait("the next attempt", lambda count=done + 1: len(run.launches()) > count)
        storage.fail(Fault.NONE)
        place = {"failure_class": "storage", "scope": "rank", "where": "1@n2"}
        yield run, Told(name=f"ill-{name}", title=title, attempt=done, **place)
    run.wait_end(PATIENCE_S)


def under_mpirun(lab: Cluster) -> Recording:
    """The same under mpirun, which ends the whole world when one of it fails."""
    from tests.lab.training import MPI_ENV

    deeds = {
        "mpi_abort": ("application", "a program calls MPI_Abort"),
        "sigkill": ("application", "a rank of an MPI world is killed"),
        "exception": ("application", "a rank of an MPI world raises an exception"),
    }
    more = {"launch": {"launcher": "mpirun", "env": {"OMP_NUM_THREADS": "1", **MPI_ENV}}}
    shape = {"collective": False, "nodes": 2, "per_node": 1, "options": ["--mpi"], "more": more}
    return _ways(lab, "mpirun", deeds, shape)


def _node_fault(lab: Cluster, name: str, title: str, failure_class: str, deed: Callable[[], object]) -> Recording:
    run = patient(lab, name=name, nodes=4, recovery=ENDLESS)
    deed()
    run.wait("the next attempt", lambda: len(run.restored_steps()) > 1, PATIENCE_S)
    yield run, Told(name=name, title=title, failure_class=failure_class, scope="node", where="n4", attempt=0)
    run.enough()
    run.wait_end(PATIENCE_S)
    lab.restore()


def nodes(lab: Cluster) -> Recording:
    """Nodes that are lost in one way or another."""
    yield from _node_fault(lab, "node-cut", "a node's network is cut", "node_unreachable", lambda: lab.cut("n4"))
    yield from _node_fault(lab, "node-killed", "a node is switched off", "node_unreachable", lambda: lab.kill("n4"))
    yield from _node_fault(lab, "node-frozen", "a node stands still", "node_unreachable", lambda: lab.freeze("n4"))
    down = ["scontrol", "update", "nodename=n4", "state=down", "reason=broken"]
    yield from _node_fault(
        lab, "node-down", "an administrator sets a node down", "scheduler", lambda: lab.login(down, timeout=30)
    )


def node_with_peers(lab: Cluster) -> Recording:
    """A node is lost under a collective operation: the others' errors are its consequences."""
    run = submit(
        lab,
        program("misfortune", "--ways", "skip_collective", "--collective", "--settle", 600, "--rank", 99),
        name="gloo-cut",
        nodes=4,
        recovery=ENDLESS,
    )
    run.wait("training", lambda: len(run.restored_steps()) == 1)
    time.sleep(4)
    lab.cut("n4")
    run.wait("the next attempt", lambda: len(run.restored_steps()) > 1, PATIENCE_S)
    title = "a node is cut off under a collective operation"
    yield (
        run,
        Told(name="gloo-cut", title=title, failure_class="node_unreachable", scope="node", where="n4", attempt=0),
    )
    lab.login(["scancel", run.job], timeout=30)


def two_nodes(lab: Cluster) -> Recording:
    """Two nodes at once."""
    run = patient(lab, name="two-cut", nodes=4, recovery=ENDLESS)
    lab.cut("n3")
    lab.cut("n4")
    run.wait("the next attempt", lambda: len(run.restored_steps()) > 1, PATIENCE_S)
    title = "two nodes are cut off at once"
    yield run, Told(name="two-cut", title=title, failure_class="node_unreachable", scope="node", where="n3", attempt=0)
    lab.login(["scancel", run.job], timeout=30)


def stops(lab: Cluster) -> Recording:
    """Jobs that somebody ends."""
    run = patient(lab, name="scancel", nodes=2)
    lab.login(["scancel", run.job], timeout=30)
    run.wait_end(PATIENCE_S)
    yield run, Told(name="scancel", title="scancel", failure_class="cancel", scope="job", where="", attempt=0)
    run = patient(
        lab,
        name="time-limit",
        nodes=2,
        resources={"time": "1:00"},
        recovery={"continue": "none"},
        checkpoint={"grace": "25s"},
    )
    run.wait_end(PATIENCE_S)
    title = "the time limit is near"
    yield run, Told(name="time-limit", title=title, failure_class="time_limit", scope="job", where="", attempt=0)


def launches(lab: Cluster) -> Recording:
    """Steps that cannot be started."""
    options = {
        "option": (["--no-such-option"], "an unknown option for srun", "application"),
        "constraint": (["--constraint=h900"], "a constraint that no node has", "scheduler"),
        "memory": (["--mem=900G"], "more memory for the step than the job has", "scheduler"),
    }
    for name, (words, title, failure_class) in options.items():
        run = submit(lab, program("until_told", "--until", "/x"), name=f"srun-{name}", nodes=2, launch={"srun": words})
        run.wait("a failed launch", lambda seen=run: seen.events("LaunchEnded"), 90)
        yield (
            run,
            Told(name=f"srun-{name}", title=title, failure_class=failure_class, scope="job", where="", attempt=0),
        )
        lab.login(["scancel", run.job], timeout=30)
    run = submit(lab, ["/opt/nowhere/train"], name="no-program", nodes=2, recovery={"max_attempts": 1})
    run.wait_end(PATIENCE_S)
    title = "the command does not exist"
    yield run, Told(name="no-program", title=title, failure_class="application", scope="", where="", attempt=0)


def agent_killed(lab: Cluster) -> Recording:
    """A rank's wrapper is killed, and nobody can say how its program ended."""
    import signal

    run = patient(lab, name="wrapper", nodes=2, recovery=ENDLESS)
    (wrapper,) = run.processes("wrapper", "n2")
    wrapper.send(signal.SIGKILL)
    run.wait("the next attempt", lambda: len(run.restored_steps()) > 1)
    title = "a rank's wrapper is killed"
    yield run, Told(name="wrapper", title=title, failure_class="application", scope="rank", where="1@n2", attempt=0)
    run.enough()
    run.wait_end()
    await_that("nothing is left", lambda: not run.processes(), 30)


RECIPES: dict[str, Callable[[Cluster], Recording]] = {
    "alone": alone,
    "together": together,
    "ill_storage": ill_storage,
    "under_mpirun": under_mpirun,
    "nodes": nodes,
    "node_with_peers": node_with_peers,
    "two_nodes": two_nodes,
    "stops": stops,
    "launches": launches,
    "agent_killed": agent_killed,
}

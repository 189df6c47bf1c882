from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from ftslurm import journal
from ftslurm.core.actions import LaunchAttempt, ReleaseRanks
from ftslurm.core.events import AllocationGranted
from ftslurm.errors import Refused, ServiceUnavailable, StorageError, TryAgain, UsageError
from ftslurm.faults.catalogue import by_name, double_at
from ftslurm.faults.choosing import Wish, choose, placing
from ftslurm.faults.deeds import Moment
from ftslurm.faults.fault import Need
from ftslurm.faults.inject import inject, undo
from ftslurm.faults.means import Placing, Struck, Target
from ftslurm.faults.truth import Outcome, Truth
from ftslurm.paths import RunPaths

NOW = Placing(placement=("n1", "n1", "n2", "n3"), host="n1", attempt=0, allocation=("n1", "n2", "n3", "n4"))


@dataclass
class FakeMeans:
    """Writes down what it is to do, and what the truth said then."""

    truth: Truth
    offers: frozenset[Need] = frozenset(Need)
    fails: str = ""
    done: list[str] = field(default_factory=list)

    def strike(self, fault, injection, lasts_s):
        """Do it, unless it is to fail."""
        assert self.truth.read()[-1] == injection
        if fault.name == self.fails:
            raise ServiceUnavailable("it does not work")
        self.done.append(f"{fault.name} {injection.node} {lasts_s}")
        return Struck(at=injection.at + 1.0, note="well done")

    def undo(self, fault, injection):
        """Undo it."""
        self.done.append(f"undo {fault.name} {injection.node}")
        return injection.at + 5.0


@pytest.fixture
def truth(tmp_path):
    """The truth of a run whose first attempt trains on three nodes."""
    return Truth(RunPaths(tmp_path))


@pytest.fixture
def target(tmp_path):
    """A rank of it."""
    return Target(paths=RunPaths(tmp_path), node="n2", rank=2, attempt=0, draw={"seed": 5})


def release(attempt):
    """The ranks of an attempt are let go."""
    return ReleaseRanks(attempt=attempt, placement=("n1", "n2"), master_addr="n1", master_port=1)


def write(paths, number, phase, *actions):
    """Add an entry to the run's journal."""
    event = AllocationGranted(job_id="7", restart=0, nodes=("n1", "n2", "n3"), batch_host="n1", epoch=1, no_kill=True)
    entry = journal.Entry(number=number, epoch=1, t=1.0, phase=phase, event=event, actions=actions)
    with paths.journal(1).open("a") as file:
        file.write(entry.line() + "\n")


def test_intent_stands_before_the_act_and_the_act_before_its_end(truth, target):
    """Four things are known in turn: that it will be, that it was and when, that it is over and when."""
    means = FakeMeans(truth)
    done = inject(by_name("stop"), target, means, truth, 10.0)
    assert (done.outcome, done.note, done.rank, done.draw) == (Outcome.DONE, "well done", 2, {"seed": 5})
    mended = undo(done, means, truth)
    assert mended.undone_at == done.at + 5.0
    assert truth.read() == [mended]
    assert undo(mended, means, truth) == mended
    assert means.done == ["stop n2 10.0", "undo stop n2"]


def test_what_needs_no_undoing_is_left_alone(truth, target):
    """A process that was killed stays dead."""
    means = FakeMeans(truth)
    done = inject(by_name("kill"), target, means, truth)
    assert undo(done, means, truth) == done
    assert means.done == ["kill n2 None"]


def test_what_failed_is_true_as_well(truth, target):
    """The record says that nothing was done, and why."""
    with pytest.raises(ServiceUnavailable):
        inject(by_name("kill"), target, FakeMeans(truth, fails="kill"), truth)
    (only,) = truth.read()
    assert (only.outcome, only.note) == (Outcome.FAILED, "it does not work")


def test_without_truth_nothing_is_done(truth, target):
    """Where the intent cannot be written, nothing is broken."""
    truth.path.mkdir()
    means = FakeMeans(truth)
    with pytest.raises(StorageError):
        inject(by_name("kill"), target, means, truth)
    assert means.done == []


def test_what_is_lacking_is_said_before_anything_is_written(truth, target):
    """All of it, and what comes next to it."""
    means = FakeMeans(truth, offers=frozenset())
    with pytest.raises(Refused, match=r"memory-cgroup needs root") as caught:
        inject(by_name("memory-cgroup"), target, means, truth)
    assert "memory comes next to it" in caught.value.hint
    with pytest.raises(Refused, match=r"gpu-reset needs root; a run with GPUs .*; your word: .*--yes"):
        inject(by_name("gpu-reset"), target, means, truth)
    assert truth.read() == []


def test_a_double_fault_is_one_record_and_its_parts(truth, target):
    """The second waits for the next attempt, hits another node, and both are undone, the last first."""
    write(target.paths, 0, "training", release(0))
    write(target.paths, 1, "relaunching", LaunchAttempt(attempt=1, nodes=("n1", "n3"), world_size=2))
    means = FakeMeans(truth)
    whole = inject(by_name("kill-cut"), target, means, truth)
    mended = undo(whole, means, truth)
    first, second = (each for each in truth.read() if each.part_of == whole.id)
    assert (first.fault, second.fault, second.node) == ("kill", "node-cut", "n1")
    assert mended.undone_at == second.undone_at
    assert means.done == ["kill n2 None", "node-cut n1 600.0", "undo node-cut n1"]


def test_a_second_fault_may_wait_for_the_ranks_to_load(truth, target):
    """Not for the relaunch alone: the attempt's ranks are let go. What was done says when."""
    write(target.paths, 0, "training", release(0))
    write(target.paths, 1, "relaunching", LaunchAttempt(attempt=1, nodes=("n1", "n3"), world_size=2))
    fault, means = double_at(by_name("kill-kill"), Moment.LOAD), FakeMeans(truth)
    later = threading.Timer(0.3, write, (target.paths, 2, "training", release(1)))
    later.start()
    whole = inject(fault, target, means, truth)
    later.join()
    assert (whole.note, whole.fault) == ("kill, then kill at load", "kill-kill")
    assert [each.attempt for each in truth.read() if each.part_of] == [0, 1]


def test_a_second_fault_that_fails_undoes_the_first(truth, target):
    """The whole is recorded as failed."""
    means = FakeMeans(truth, fails="supervisor-kill")
    write(target.paths, 0, "training", release(0))
    with pytest.raises(ServiceUnavailable):
        inject(by_name("kill-supervisor"), target, means, truth)
    whole, first, second = truth.read()
    assert [each.outcome for each in (whole, first, second)] == [Outcome.FAILED, Outcome.DONE, Outcome.FAILED]


def test_a_draw_can_be_repeated(target):
    """The same seed hits the same rank, and says among which it was drawn."""
    for fault in map(by_name, ("kill", "node-cut")):
        again = [choose(fault, target.paths, NOW, Wish(seed=4)) for _ in range(3)]
        assert again[0] == again[1] == again[2]
    ranks = {choose(by_name("kill"), target.paths, NOW, Wish(seed=seed)).rank for seed in range(60)}
    assert ranks == {0, 1, 2, 3}
    drawn = choose(by_name("node-cut"), target.paths, NOW, Wish()).draw
    assert drawn["of"] == ["n2", "n3"]
    assert drawn["drawn"] in drawn["of"]


@pytest.mark.parametrize(
    ("fault", "wish", "words"),
    [
        ("kill", Wish(rank=4), "no rank 4"),
        ("kill", Wish(rank=0, node="n3"), "no rank 0"),
        ("kill", Wish(node="n4"), "no rank for kill runs on n4"),
        ("node-cut", Wish(node="n9"), "no rank on n9"),
        ("node-cut", Wish(rank=1), "not to a rank"),
        ("supervisor-kill", Wish(node="n2"), "not to a node"),
        ("node-stop", Wish(avoid=("n1", "n2", "n3")), "no node is left"),
    ],
)
def test_a_wish_that_cannot_be_is_refused(target, fault, wish, words):
    """With what there is."""
    with pytest.raises(UsageError, match=words):
        choose(by_name(fault), target.paths, NOW, wish)


def test_the_supervisors_node_is_spared_unless_it_is_meant(target):
    """The host is hit by faults of the host, or by name."""
    assert choose(by_name("host-cut"), target.paths, NOW, Wish()).node == "n1"
    assert choose(by_name("node-stop"), target.paths, NOW, Wish(node="n1")).node == "n1"


def test_only_a_run_that_trains_is_broken(target):
    """Where it is is read from its journal."""
    with pytest.raises(TryAgain, match="is submitted"):
        placing(target.paths)
    write(target.paths, 0, "training", release(0))
    assert placing(target.paths).placement == ("n1", "n2")
    write(target.paths, 1, "finished")
    with pytest.raises(TryAgain, match="is finished"):
        placing(target.paths)

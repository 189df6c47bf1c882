from __future__ import annotations

import fcntl
import json
from dataclasses import replace

import pytest

from ftslurm.errors import ConfigError, RunStopped, ServiceUnavailable, TryAgain, UsageError
from ftslurm.faults import campaign as campaigns
from ftslurm.faults import schedule as schedules
from ftslurm.faults.arrivals import Draw
from ftslurm.faults.book import Book, books
from ftslurm.faults.campaign import Request
from ftslurm.faults.catalogue import by_name
from ftslurm.faults.course import END_S
from ftslurm.faults.fault import Need
from ftslurm.faults.schedule import Leg, Schedule
from ftslurm.faults.session import Session
from tests.faults.ground import ToyGround

PLAN = """name: toy
config: train.yaml
seed: 7
mtbf: 1s
duration: 4s
settle: 5s
faults: {kill: 1, node-cut: 1}
pace: wall
targets: {lab: {}}
"""


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A plan whose faults come as fast as they are taken."""
    monkeypatch.setenv("FTSLURM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FTSLURM_RUN_ROOT", str(tmp_path / "runs"))
    monkeypatch.setattr("ftslurm.faults.session.POLL_S", 0.001)
    monkeypatch.setattr("ftslurm.faults.course.POLL_S", 0.001)
    monkeypatch.setattr("ftslurm.faults.course.START_S", 5.0)
    monkeypatch.setattr("ftslurm.faults.course.Course._until", lambda course, due: course._ready())
    (tmp_path / "train.yaml").write_text("name: x\n")
    file = tmp_path / "plan.yaml"
    file.write_text(PLAN)
    return file


@pytest.fixture
def ground(tmp_path, monkeypatch):
    """Where it takes place; a run whose end is waited for comes to it."""
    toys, wait = ToyGround(tmp_path / "runs"), Session.wait

    def ending(session, patience_s, test):
        if patience_s == END_S:
            toys.end(session.paths)
        return wait(session, patience_s, test)

    monkeypatch.setattr(Session, "wait", ending)
    return toys


def run(plan, ground, **request):
    """One call of the command."""
    return campaigns.run(plan, Request(**request), lambda plan, config: ground, lambda text: None)


def drawn_of(book):
    """What was drawn, as it stands in the file."""
    (leg,) = json.loads(book.schedule.read_text())["legs"]
    return leg["draws"]


def test_what_was_drawn_is_what_is_done(plan, ground):
    """Every injection is the fault, the number and the choice of the schedule that was written before anything was done."""
    result = run(plan, ground)
    drawn = drawn_of(result.book)
    assert len(drawn) == len(ground.struck) > 3
    for draw, injection in zip(drawn, ground.struck, strict=True):
        told = injection.draw
        assert {key: told[key] for key in draw} == draw
        assert injection.fault == draw["fault"]
        assert (told["seed"], told["leg"]) == (7, 0)
        chosen = Draw(**draw).choose(told["candidates"])
        assert chosen == (f"{injection.rank:05d}" if injection.rank is not None else injection.node)


def test_a_schedule_that_is_changed_changes_what_is_done(plan, ground, tmp_path):
    """Nothing is drawn while faults are made: an edited schedule is followed to the letter."""
    fake = Schedule(seed=7, weights={"kill": 1.0}, legs=(Leg(mtbf_s=1.0, draws=(
        Draw(number=0, at=0.5, fault="segv", pick=0.99), Draw(number=1, at=0.6, fault="segv", pick=0.0))),))  # fmt: skip
    folder = tmp_path / "home" / "campaigns" / "toy" / "mine"
    folder.mkdir(parents=True)
    (folder / "plan.yaml").write_text(PLAN)
    (folder / "config.yaml").write_text("name: x\n")
    (folder / "schedule.json").write_bytes(schedules.encoded(fake))
    run(plan, ground, wanted="mine")
    assert [(each.fault, each.rank) for each in ground.struck] == [("segv", 7), ("segv", 0)]


def test_the_same_seed_gives_the_same_campaign(plan, ground):
    """The schedule depends on the seed alone; the caller's beats the plan's."""
    first, second = run(plan, ground, wanted="a"), run(plan, ground, wanted="b")
    other = run(plan, ground, wanted="c", seed=8)
    assert drawn_of(first.book) == drawn_of(second.book) != drawn_of(other.book)


def test_the_score_of_a_good_campaign(plan, ground):
    """Everything is noticed rightly, every run ends with the weights of the undisturbed one: exit code 0."""
    counted = []
    result = run(plan, ground, count=lambda *done: counted.append(done))
    assert result.good, result.line()
    assert counted == [(number + 1, result.size) for number in range(result.size)]
    assert result.score.recall == result.score.right == 1.0
    assert result.score.weights == {"equal": result.score.runs, "different": 0, "unknown": 0}
    assert "recall 100%, right 100%, 0 wrong exclusions" in result.line()
    assert "\n" not in result.line()


def test_other_weights_are_found(plan, ground):
    """A run that ends with other weights than the undisturbed one makes the campaign a bad one."""
    ground.weights = ["a" * 16, "a" * 16, "b" * 16, *["a" * 16] * 20]
    result = run(plan, ground)
    assert result.score.weights["different"] == 1
    assert not result.good


def test_a_campaign_that_was_cut_short_is_gone_on_with(plan, ground, monkeypatch):
    """The next call does what is left, once each, and measures no second undisturbed run."""
    strike, seen = type(ground).means, []

    def mortal(self, paths):
        if len(self.struck) == 2 and not seen:
            seen.append(1)
            raise KeyboardInterrupt
        return strike(self, paths)

    monkeypatch.setattr(type(ground), "means", mortal)
    ground.faults_each = 2
    with pytest.raises(KeyboardInterrupt):
        run(plan, ground)
    before = len(ground.struck)
    result = run(plan, ground)
    numbers = [each.draw["number"] for each in ground.struck]
    assert (before, numbers) == (2, list(range(len(drawn_of(result.book)))))
    assert result.book.count("undisturbed") == 1
    assert len(books(result.book.folder.parent)) == 1


def test_a_fault_whose_note_was_lost_is_not_made_again(plan, ground, monkeypatch):
    """The run's own truth knows what was done when the campaign was killed before it could write it down."""
    note, lost = Book.note, []

    def torn(self, what, **facts):
        if what == "injected" and not lost:
            lost.append(facts["draw"])
            raise KeyboardInterrupt
        note(self, what, **facts)

    monkeypatch.setattr(Book, "note", torn)
    with pytest.raises(KeyboardInterrupt):
        run(plan, ground)
    run(plan, ground)
    numbers = [each.draw["number"] for each in ground.struck]
    assert lost == [0]
    assert numbers == sorted(set(numbers))


def test_a_campaign_that_is_over_is_left_alone(plan, ground):
    """By its id it is only reported again; without an id a new one begins."""
    first = run(plan, ground, wanted="today")
    struck = len(ground.struck)
    again = run(plan, ground, wanted="today")
    assert (again.again, len(ground.struck), again.score) == (True, struck, first.score)
    assert "over already" in again.line()
    assert run(plan, ground).book != first.book


def test_one_at_a_time(plan, ground, tmp_path):
    """While one process works on the campaigns of a name another one is told to try again."""
    folder = tmp_path / "home" / "campaigns" / "toy"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TryAgain, match="is running already"):
            run(plan, ground)
    assert ground.struck == []


def test_the_stop_file(plan, ground, tmp_path):
    """While it is there nothing is injected; without it the same campaign goes on."""
    stop = tmp_path / "home" / "campaigns" / "toy" / "STOP"
    stop.parent.mkdir(parents=True)
    stop.touch()
    with pytest.raises(RunStopped, match="STOP is there"):
        run(plan, ground)
    assert ground.struck == []
    stop.unlink()
    assert run(plan, ground).good


@pytest.mark.parametrize(("budget", "count"), [("{injections: 2}", 2), ("{node_losses: 0}", None)])
def test_the_budget(plan, ground, budget, count):
    """A campaign ends when its injections, or its lost nodes, are used up."""
    plan.write_text(f"{PLAN}budget: {budget}\n")
    result = run(plan, ground)
    assert "is used up" in result.line()
    if count is None:
        assert all(each.fault == "kill" for each in ground.struck)
    else:
        assert len(ground.struck) == count


def test_a_fault_that_hits_nobody_is_void(plan, ground):
    """It is written down with its reason, and is not judged."""
    ground.fails = ["no process of rank 3"]
    result = run(plan, ground)
    assert result.book.last("void")["why"] == "no process of rank 3"
    assert result.score.injected == len(ground.struck) - 1


def test_a_run_that_does_without_no_node_more_is_seen_off(plan, ground):
    """Where a fault would cost a node too many, the run comes to its end and the next one is hit."""
    plan.write_text(PLAN.replace("{kill: 1, node-cut: 1}", "{node-cut: 1}"))
    ground.least, ground.faults_each = 3, 1
    result = run(plan, ground)
    assert result.good, result.line()
    assert len({each.draw["number"] for each in ground.struck}) == len(drawn_of(result.book))


def test_a_fault_that_the_ground_cannot_make_is_refused(plan, ground):
    """A plan that names it is wrong; where the mix is the usual one it is left out."""
    ground.offers = frozenset()
    with pytest.raises(ConfigError, match="node-cut needs lab"):
        run(plan, ground)
    assert not ground.begun
    plan.write_text(PLAN.replace("faults: {kill: 1, node-cut: 1}\n", ""))
    weights = campaigns.drawn(plan, campaigns.planfile.load(plan, campaigns.known()), frozenset(), 1).weights
    assert "kill" in weights
    assert "node-cut" not in weights
    assert campaigns.drawn(plan, campaigns.planfile.load(plan, campaigns.known()), frozenset(Need), 1).seed == 1


def test_without_weights_to_compare_with_nothing_is_broken(plan, ground):
    """The undisturbed run has to say what its weights are, else the campaign ends before its first fault."""
    plan.write_text(f"{PLAN}weights: 'never (?P<digest>x)'\n")
    with pytest.raises(ServiceUnavailable, match="has not printed"):
        run(plan, ground)
    assert ground.struck == []


def test_an_id_is_a_name(plan, ground):
    """It becomes a folder's name, and can be no path."""
    with pytest.raises(UsageError, match="cannot have the id"):
        run(plan, ground, wanted="../x")


def test_nobody_is_made_slow_where_nobody_could_tell(ground):
    """A run with too few ranks for a fault is not hit by it; another one is begun, or the fault is skipped."""
    session = Session(paths=ground.begin(), means_of=ground.means, least=1, settle_s=1.0, tell=lambda _: None)
    draw = Draw(number=0, at=1.0, fault="slow", pick=0.5)
    assert session.aim(replace(by_name("slow"), ranks=8), draw, {}).rank == 4
    assert session.aim(replace(by_name("slow"), ranks=9), draw, {}) is None

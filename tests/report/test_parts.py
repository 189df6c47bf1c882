"""What a report is made of, part by part: nodes in order, the ideal, checkpoints, many nodes, long journals."""

from __future__ import annotations

from ftslurm.core.events import RankExited
from ftslurm.insight.checkpoints import checkpoints
from ftslurm.insight.walltime import Category, Interval
from ftslurm.report import canvas, draw_nodes
from ftslurm.report.contents import gather
from ftslurm.report.draw_nodes import quantity
from ftslurm.report.draw_time import coarse
from ftslurm.report.progress import Point, _rate, progress
from ftslurm.report.recovery import spread
from ftslurm.report.samples import Samples
from ftslurm.report.timeline import Mark, Role, Stretch, marks, order, stretches
from tests.insight.journals import NODES, START, Tale, config_policy, make_run
from tests.report.scenes import sampled


def test_a_lost_node_works_until_it_is_given_up():
    """From then on it is lost, and the others work on."""
    tale = Tale(config_policy()).start().save(100, after=10).wait(3).lose("n3").launched()
    found = stretches(tale.entries, tale.now)
    assert [each.role for each in found if each.node == "n3"] == [Role.WORKS, Role.LOST]
    assert [each.role for each in found if each.node == "n1"] == [Role.WORKS]
    (works, lost) = [each for each in found if each.node == "n3"]
    assert (works.start, lost.end, works.end) == (tale.entries[0].t, tale.now, lost.start)


def test_a_failed_rank_is_marked_once():
    """The incident names it; that other ranks ended when the attempt was stopped is no failure."""
    tale = Tale(config_policy()).start().save(100, after=10).crash(2)
    tale.happen(RankExited(attempt=0, rank=0, node="n1", code=1), after=0.1)
    told = gather_marks(tale)
    assert [(mark.node, mark.label) for mark in told] == [("n2", "application_error")]


def gather_marks(tale: Tale) -> list[Mark]:
    """The marks of a tale."""
    from ftslurm.insight.story import story

    return marks(tale.entries, story(tale.entries).incidents)


def test_of_many_nodes_those_with_a_fate_are_shown():
    """The others are counted; n2 comes before n10."""
    found = [Stretch(f"n{number}", 0.0, 9.0, Role.WORKS) for number in range(1, 101)]
    found += [Stretch("n77", 9.0, 10.0, Role.LOST)]
    shown, others = order(found, [Mark(5.0, "n50", "x")], 6)
    assert shown == ["n1", "n2", "n3", "n4", "n50", "n77"]
    assert others == 94


def test_the_rate_is_that_of_the_training_and_not_of_its_pauses():
    """The median by time within attempts; what lies between two attempts does not count."""
    points = [Point(10.0 * k, 0, 100 * k) for k in range(6)] + [Point(60.0, 0, 510)]
    points += [Point(1000.0 + 10.0 * k, 1, 300 + 100 * k) for k in range(6)]
    assert _rate(points) == 10.0
    assert _rate(points[:1]) is None


def test_progress_is_known_from_checkpoints_alone():
    """A program that shows no step still saves."""
    tale = Tale(config_policy()).start().save(100, after=10).save(200, after=10)
    told = progress(tale.entries, Samples())
    assert [point.step for point in told.points if point.saved] == [100, 200]
    assert told.rate is not None
    assert told.ideal(tale.now) > 199


def test_checkpoints_know_when_they_were_whole_safe_and_needed():
    """Times are those of the journal; the one that was gone back to says so."""
    tale = Tale(config_policy()).start().save(100, after=10).save(200, durable=False, after=10).crash(1).launched()
    first, second = checkpoints(tale.entries)
    assert (first.step, second.step, second.durable) == (100, 200, None)
    assert first.save_s == 2.0
    assert first.durable_s > first.save_s
    assert first.restored + second.restored == 1


def test_short_and_telling_times_show_in_a_long_picture():
    """In ten thousand intervals one recovery is still seen, and the whole time is covered."""
    found = []
    for number in range(5000):
        start = 20.0 * number
        found += [Interval(start, start + 19, Category.PRODUCTIVE), Interval(start + 19, start + 20, Category.SAVING)]
    found[4000] = Interval(found[4000].start, found[4000].end, Category.RECOVERING)
    shown = coarse(found, 300)
    assert len(shown) < 10
    assert Category.RECOVERING in {each.category for each in shown}
    assert (shown[0].start, round(shown[-1].end)) == (0.0, round(found[-1].end))


def test_many_nodes_are_shown_as_a_spread(tmp_path):
    """There are no lines for hundreds of nodes; the picture is drawn from percentiles, the most unusual nodes by name."""
    tale = Tale(config_policy()).start().wait(60)
    tale.save(100)
    paths = make_run(tmp_path, tale)
    sampled(paths, [f"n{number}" for number in range(1, 31)], 60.0, odd="n7", only=("cpu",))
    told = gather(paths)
    assert draw_nodes.unusual(told, 1) == ["n7"]
    with canvas.style():
        assert b"median of 30 nodes" in canvas.svg(draw_nodes.system_resources(told, canvas.NARROW), "x")
        assert b"n7" in canvas.svg(draw_nodes.anomaly_heatmap(told, canvas.NARROW), "x")


def test_samples_of_another_time_are_none(tmp_path):
    """A clock that is years off does not stretch the axis."""
    paths = make_run(tmp_path, Tale(config_policy()).start())
    sampled(paths, NODES[:1], 10.0)
    with paths.sample_file("n1", 1).open("a") as file:
        file.write(f'{{"t": {START + 1e7}, "cpu": 1}}\n{{"t": 1e300, "cpu": 1}}\n')
    assert gather(paths).samples.unreadable == 2


def test_numbers_for_people():
    """Units have prefixes, percentiles exist from one value on."""
    assert quantity("net_in", 1.234e9) == "1.23 GB/s"
    assert quantity("load", 0.5) == "0.5"
    assert spread([]) is None
    assert spread([3.0]) == (3.0, 3.0, 3.0)
    assert spread([float(number) for number in range(11)]) == (1.0, 5.0, 9.0)

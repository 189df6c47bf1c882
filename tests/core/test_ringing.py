"""The ring: who beats to whom, what is said of a silent neighbour, what the supervisor makes of it, when it starts anew."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.events import Finding, Outcome, Witness
from ftslurm.core.ringing import (
    Heard,
    Member,
    Patience,
    Report,
    Ring,
    due,
    failed,
    launched,
    limit_s,
    on_beat,
    says,
    wants,
    without,
    word_on,
)

FOUR = ("n1", "n2", "n3", "n4")


def member(rank: int = 1, size: int = 4, **more: object) -> Member:
    """A member that began at 100 and is patient for 2 s."""
    return replace(Member(rank=rank, size=size, limit_s=2.0, since=100.0), **more)


def report(by: str, watched: str, heard: Heard = Heard.OK, *, silent_s: float = 0.3, at: float = 100.0) -> Report:
    """What a member said, at 100."""
    return Report(by=by, watched=watched, heard=heard, silent_s=silent_s, at=at)


def ring_of(silent: str = "", nodes: tuple[str, ...] = FOUR) -> list[Report]:
    """The reports of a whole ring in which one node is not heard, and says nothing itself."""
    rows = [(node, nodes[index - 1]) for index, node in enumerate(nodes) if node != silent]
    return [
        report(by, watched, Heard.SILENT if watched == silent else Heard.OK, silent_s=3.0 if watched == silent else 0.3)
        for by, watched in rows
    ]


@given(st.integers(1, 40), st.data())
def test_living_members_make_one_ring(size, data):
    """Whoever is lost, each living member beats to exactly one other, and is watched by it."""
    dead = data.draw(st.frozensets(st.integers(0, size - 1)))
    members = {rank: without(member(rank, size), dead, 100.0) for rank in range(size) if rank not in dead}
    for rank, each in members.items():
        assert members[each.successor].watched == rank
    if members:
        rank, seen = min(members), set()
        while rank not in seen:
            seen.add(rank)
            rank = members[rank].successor
        assert seen == set(members)


def test_a_neighbour_is_new_then_heard_then_silent():
    """What is said of the watched member, with the seconds since it was heard."""
    one = member()
    assert says(one, 101.0) == (Heard.NEW, 1.0)
    one = on_beat(one, 0, math.inf, 101.0)
    assert says(one, 103.0) == (Heard.OK, 2.0)
    assert says(one, 103.5) == (Heard.SILENT, 2.5)
    assert says(on_beat(one, 3, math.inf, 103.4), 103.5) == (Heard.SILENT, 2.5), "another one does not speak for it"


def test_a_member_that_stood_still_forgives():
    """Silence that was not listened to proves nothing: it is counted from `since` on."""
    one = on_beat(member(), 0, math.inf, 101.0)
    assert says(replace(one, since=120.0), 121.0) == (Heard.OK, 1.0)


def test_who_comes_to_be_watched_has_a_moment_to_be_heard():
    """The ring closes over a lost member; losing somebody elsewhere changes nothing."""
    one = on_beat(member(), 0, math.inf, 101.0)
    assert without(one, {3}, 110.0).since == 100.0
    closed = without(one, {0}, 110.0)
    assert (closed.watched, closed.since) == (3, 110.0)
    assert says(closed, 111.0) == (Heard.NEW, 1.0)
    assert without(one, {1}, 110.0).dead == frozenset(), "nobody is lost to himself"
    alone = without(one, {0, 2, 3}, 110.0)
    assert (alone.watched, alone.successor) == (1, 1)


def test_news_travel_with_beats_and_age_on_the_way():
    """The newest word of the supervisor counts; a member that is left out brings none."""
    one = on_beat(member(), 0, 0.5, 101.0)
    assert one.anchor == 100.5
    assert on_beat(one, 3, 4.0, 102.0).anchor == 100.5
    assert on_beat(one, 0, math.inf, 102.0).anchor == 100.5
    left_out = without(one, {0}, 101.0)
    assert on_beat(left_out, 0, 0.0, 105.0) is left_out


def test_patience_is_shorter_than_that_of_tcp():
    """So the ring can testify when it is asked; a slow beat needs more."""
    assert limit_s(0.5, 3.0) == 2.0
    assert limit_s(0.2, 1.0) == pytest.approx(0.7)
    assert limit_s(1.0, 3.0) == 3.5


@pytest.mark.parametrize(
    ("reports", "outcome", "words"),
    [
        (ring_of(), Outcome.OK, "n4 hears it over MPI"),
        (ring_of("n3"), Outcome.UNREACHABLE, "n4 has not heard it over MPI for 4.0 s, 2 of 2 others are heard"),
        (ring_of("n3", FOUR[1:]), Outcome.UNREACHABLE, "1 of 1 others are heard"),
        (ring_of("n3", ("n3", "n4")), Outcome.UNKNOWN, "0 of 0 others are heard: the ring itself may be at fault"),
        ([], Outcome.UNKNOWN, "no member of a ring watches it"),
        ([report("n4", "n3", Heard.NEW)], Outcome.UNKNOWN, "n4 has not heard it yet"),
        ([replace(each, at=90.0) for each in ring_of("n3")], Outcome.UNKNOWN, "no member of a ring watches it"),
        ([report("n3", "n3")], Outcome.UNKNOWN, "no member of a ring watches it"),
        (
            [report("n4", "n3", Heard.SILENT), report("n2", "n1", Heard.SILENT), report("n1", "n4")],
            Outcome.UNKNOWN,
            "1 of 2 others are heard: the ring itself may be at fault",
        ),
        (
            [
                report("n4", "n3", Heard.SILENT),
                report("n5", "n4", Heard.SILENT),
                *(report(by, watched) for by, watched in (("n1", "n5"), ("n2", "n1"), ("n6", "n2"))),
            ],
            Outcome.UNKNOWN,
            "3 of 4 others are heard, but n4 is not heard itself",
        ),
    ],
)
def test_what_the_ring_says_of_a_node(reports, outcome, words):
    """OK, or silent while most of the others are heard; anything else is unknown, and blames nobody."""
    found = word_on("n3", reports, now=101.0, fresh_s=5.0)
    assert isinstance(found, Finding)
    assert (found.witness, found.outcome) == (Witness.RING, outcome)
    assert words in found.detail


PATIENCE = Patience(pauses_s=(2.0, 5.0), proven_s=60.0, settle_s=4.0)


def test_a_ring_is_started_when_the_nodes_are_settled():
    """Once, and again when a node has been left out; one node alone needs none."""
    ring = wants(Ring(), FOUR, 10.0)
    assert wants(ring, FOUR, 12.0) is ring
    assert not due(ring, 13.9, PATIENCE)
    assert due(ring, 14.0, PATIENCE)
    ring = launched(ring, 14.0)
    assert not due(ring, 20.0, PATIENCE)
    ring = wants(ring, FOUR[:3], 30.0)
    assert not due(ring, 33.0, PATIENCE)
    assert due(ring, 34.0, PATIENCE)
    assert not due(wants(ring, FOUR[:1], 40.0), 50.0, PATIENCE)


def test_a_ring_that_ends_is_tried_again_a_few_times():
    """With growing pauses; one that was up for long has nothing behind it."""
    ring = launched(wants(Ring(), FOUR, 0.0), 10.0)
    once = failed(ring, 20.0, PATIENCE)
    assert (once.failures, once.retry, once.nodes) == (1, 22.0, ())
    assert not due(once, 21.0, PATIENCE)
    assert due(once, 22.0, PATIENCE)
    twice = failed(launched(once, 22.0), 30.0, PATIENCE)
    assert (twice.failures, twice.retry) == (2, 35.0)
    proven = failed(replace(launched(twice, 35.0), up=36.0), 96.0, PATIENCE)
    assert (proven.failures, proven.retry) == (1, 98.0)
    over = failed(replace(launched(twice, 35.0), up=36.0), 95.0, PATIENCE)
    assert over.given_up
    assert not due(over, 1e6, PATIENCE)

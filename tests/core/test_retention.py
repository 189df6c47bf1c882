from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.manifest import generation_name
from ftslurm.core.retention import Kept, Rules, best, stay

DAY_S = 86400.0


@st.composite
def stores(draw: st.DrawFn) -> list[Kept]:
    """Durable generations, some of them differential, some abandoned; the base of each is a full one before it."""
    keys = draw(st.sets(st.tuples(st.integers(0, 60), st.integers(0, 3)), min_size=1, max_size=15))
    found: list[Kept] = []
    for step, attempt in sorted(keys):
        full = [each.generation for each in found if not each.base]
        found.append(
            Kept(
                generation=generation_name(step, attempt),
                at=draw(st.floats(0, 10 * DAY_S)),
                metrics=draw(st.just({}) | st.fixed_dictionaries({"loss": st.floats()})),
                base=draw(st.sampled_from(["", *full])),
                live=draw(st.booleans()),
            )
        )
    return draw(st.permutations(found))


rules_of = st.builds(
    Rules,
    last=st.integers(-1, 6),
    best=st.integers(0, 3),
    metric=st.sampled_from(["", "loss"]),
    mode=st.sampled_from(["min", "max"]),
    every_steps=st.integers(0, 30),
    max_age_s=st.floats(0, 10 * DAY_S),
    abandoned=st.booleans(),
)


@given(durable=stores(), rules=rules_of, now=st.floats(0, 20 * DAY_S))
def test_what_always_stays(durable: list[Kept], rules: Rules, now: float) -> None:
    """The newest live one, the protected and every base of what stays; with differential ones two full ones."""
    protected = {durable[0].generation: "tagged x", generation_name(999, 9): "in use"}
    reasons = stay(durable, rules, protected, now)
    live = sorted((each for each in durable if each.live), key=lambda each: each.order)
    assert durable[0].generation in reasons
    assert set(reasons) <= {each.generation for each in durable}
    if live:
        assert live[-1].generation in reasons
    assert all(each.base in reasons for each in durable if each.generation in reasons and each.base)
    if any(each.base for each in live):
        assert {each.generation for each in [each for each in live if not each.base][-2:]} <= set(reasons)
    if rules.abandoned:
        assert {each.generation for each in durable if not each.live} <= set(reasons)


@given(durable=stores(), rules=rules_of, now=st.floats(0, 20 * DAY_S))
def test_deleting_settles(durable: list[Kept], rules: Rules, now: float) -> None:
    """What stays after a deletion stays after the next one too, as long as nothing new comes and no time passes."""
    reasons = stay(durable, replace(rules, every_steps=0), {}, now)
    left = [each for each in durable if each.generation in reasons]
    assert set(stay(left, replace(rules, every_steps=0), {}, now)) == set(reasons)


@given(durable=stores(), rules=rules_of, extra=rules_of, now=st.floats(0, 20 * DAY_S))
def test_more_rules_keep_more(durable: list[Kept], rules: Rules, extra: Rules, now: float) -> None:
    """Any rule keeps: a larger number or age never lets go what a smaller one keeps."""
    more = replace(
        rules,
        last=max(rules.last, extra.last),
        best=max(rules.best, extra.best),
        max_age_s=max(rules.max_age_s, extra.max_age_s),
    )
    assert set(stay(durable, rules, {}, now)) <= set(stay(durable, more, {}, now))


def chain(*steps: int, every_loss: float = 0.0) -> list[Kept]:
    """Full generations, a day apart; the loss is the step's last digit."""
    return [
        Kept(generation=generation_name(step, 0), at=day * DAY_S, metrics={"loss": float(step % 10) + every_loss})
        for day, step in enumerate(steps)
    ]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (Rules(last=2), {98: "one of the last 2", 105: "the newest"}),
        (Rules(last=1, best=2, metric="loss"), {40: "one of the best 2 by loss", 31: "one of the best 2 by loss", 105: "the newest"}),
        (Rules(last=1, best=1, metric="loss", mode="max"), {59: "one of the best 1 by loss", 105: "the newest"}),
        (Rules(last=1, best=1, metric="accuracy"), {105: "the newest"}),
        (Rules(last=1, every_steps=50), {59: "the first of 50 steps", 105: "the newest"}),
        (Rules(last=1, every_steps=30), {31: "the first of 30 steps", 67: "the first of 30 steps", 98: "the first of 30 steps", 105: "the newest"}),
        (Rules(last=1, max_age_s=3 * DAY_S), {67: "younger than 259200 s", 98: "younger than 259200 s", 105: "the newest"}),
        (Rules(last=0), {105: "the newest"}),
    ],
)  # fmt: skip
def test_rules(rules: Rules, expected: dict[int, str]) -> None:
    """Each rule by itself, with the reason that is shown."""
    durable = chain(31, 40, 59, 67, 98, 105)
    assert stay(durable, rules, {}, 5.5 * DAY_S) == {generation_name(step, 0): why for step, why in expected.items()}


def test_every_is_stable() -> None:
    """The first at or after a multiple is the same one, however many of the others are gone."""
    durable = chain(*range(7, 300, 7))
    rules = Rules(last=1, every_steps=50)
    seen: set[str] = set()
    known: list[Kept] = []
    for each in durable:
        known.append(each)
        reasons = stay(known, rules, {}, 0.0)
        known = [one for one in known if one.generation in reasons]
        seen |= {name for name, why in reasons.items() if why.startswith("the first")}
    steps = sorted(int(name.partition("-")[0]) for name in seen)
    assert steps == [56, 105, 154, 203, 252]


def test_numbers_not_text() -> None:
    """Step 1,000,000,000 is newer than 999,999,999."""
    durable = chain(999_999_999, 1_000_000_000)
    assert list(stay(durable, Rules(last=1), {}, 0.0)) == ["1000000000-0000"]


def test_best_of_equals_is_the_newer() -> None:
    """A metric that is not finite is never the best; of equal ones the newer generation is."""
    values = {1: 2.0, 2: 1.0, 3: 1.0, 4: math.nan, 5: -math.inf}
    durable = [Kept(generation=generation_name(step, 0), metrics={"loss": value}) for step, value in values.items()]
    assert [each.order[0] for each in best(durable, Rules(best=2, metric="loss"))] == [3, 2]


def test_bases() -> None:
    """A differential generation keeps its base, and there are always two full ones."""
    full = chain(10, 20, 30)
    diff = Kept(generation=generation_name(35, 0), base=full[2].generation)
    old = Kept(generation=generation_name(15, 0), base=full[0].generation)
    reasons = stay([*full, diff, old], Rules(last=1), {old.generation: "tagged x"}, 0.0)
    assert reasons == {
        diff.generation: "the newest",
        old.generation: "tagged x",
        full[2].generation: "one of the newest 2 full ones",
        full[1].generation: "one of the newest 2 full ones",
        full[0].generation: f"the base of {old.generation}",
    }

from __future__ import annotations

import pytest

from ftslurm.core.deltas import Account, Packed, Rules, Sent, Trial, break_even, choose, drained, is_hopeless
from ftslurm.core.rankindex import Encoding
from ftslurm.errors import UsageError

MB = 10**6
GB = 10**9
XOR, ZSTD = Encoding.XOR_ZSTD, Encoding.ZSTD
RULES = Rules(margin=1.2, samples=3, retry_after=4)


def link(rate):
    """A link that was measured once, with a sample that outweighs what follows."""
    return Account(sent=(Sent(sent_bytes=int(rate), took_s=1.0),))


def packed(rate=0.45 * GB, ratio=1.64):
    """A part of a gigabyte."""
    return Packed(raw_bytes=GB, stored_bytes=int(GB / ratio), took_s=GB / rate)


def after(account, *parts, way=XOR, rules=RULES):
    """The account after generations, each of which was packed so, or not (None)."""
    for part in parts:
        account = drained(account, way, None, part, rules)
    return account


@pytest.mark.parametrize(
    ("rate", "ratio", "limit"),
    [
        (0.48 * GB, 1.19, 76 * MB),  # weights, grouped
        (0.45 * GB, 1.19, 72 * MB),
        (0.436 * GB, 1.64, 170 * MB),  # weights against one step before
        (0.45 * GB, 4.45, 349 * MB),  # bfloat16
        (0.45 * GB, 1.0, 0),
        (0.45 * GB, 0.98, 0),
    ],
)
def test_break_even(rate, ratio, limit):
    """The link below which packing pays is what was measured for the checkpoint store; without a gain there is none."""
    assert break_even(rate, ratio) == pytest.approx(limit, rel=0.01)


@pytest.mark.parametrize(
    ("rate", "ratio"), [(60 * MB, 1.19), (76 * MB, 1.19), (170 * MB, 1.64), (300 * MB, 1.64), (100 * MB, 1.64)]
)
def test_break_even_is_where_both_take_the_same_time(rate, ratio):
    """On a slower link than that, packing and then sending is quicker than sending, and on a faster one slower."""
    part = packed(ratio=ratio)
    plain_s = part.raw_bytes / rate
    packed_s = part.took_s + part.stored_bytes / rate
    assert (packed_s < plain_s) == (rate < break_even(part.rate, part.ratio))


def test_the_first_part_measures_the_link():
    """Nothing is packed before the link is known."""
    choice = choose(Account(), XOR, RULES)
    assert (choice.pack, choice.reason) == (False, "the link has not been measured yet")
    account = drained(Account(), XOR, Sent(sent_bytes=50 * MB, took_s=1), None, RULES)
    choice = choose(account, XOR, RULES)
    assert (choice.pack, choice.reason) == (True, "xor+zstd is being measured: 0 of 3 parts so far")


def test_what_pays_goes_on():
    """A link well below the break-even: every part is packed, and the reason has the numbers."""
    account = after(link(100 * MB), *[packed()] * 5)
    choice = choose(account, XOR, RULES)
    assert choice.pack
    assert choice.reason == (
        "xor+zstd pays: the link takes 100 MB/s, the break-even is 176 MB/s (450 MB/s packed, ratio 1.64)"
    )
    assert len(account.trial(XOR).packed) == RULES.samples


def test_a_clear_loss_ends_it_at_once():
    """One part that loses by more than the margin is enough, and is remembered for `retry_after` generations."""
    account = after(link(1 * GB), packed())
    told = "xor+zstd did not pay: the link takes 1000 MB/s, the break-even is 176 MB/s (450 MB/s packed, ratio 1.64)"
    for left in (4, 3, 2, 1):
        choice = choose(account, XOR, RULES)
        assert (choice.pack, choice.reason) == (False, f"{told}; to be tried again in {left} generations")
        account = after(account, None)
    choice = choose(account, XOR, RULES)
    assert choice.pack
    assert "0 of 3" in choice.reason


@pytest.mark.parametrize(
    ("rate", "after_one", "after_all"),
    [
        (140 * MB, True, True),  # 176 / 1.2 = 146
        (155 * MB, True, False),  # it would pay, but by less than the margin
        (200 * MB, True, False),  # it loses, but by less than the margin
        (220 * MB, False, False),  # 176 * 1.2 = 211
    ],
)
def test_margin(rate, after_one, after_all):
    """Near the break-even it takes all samples; to go on, packing must pay by the margin."""
    account = after(link(rate), packed())
    assert choose(account, XOR, RULES).pack == after_one
    account = after(link(rate), packed(), packed(), packed())
    assert choose(account, XOR, RULES).pack == after_all


def test_a_link_that_becomes_fast_ends_it():
    """The last `samples` parts decide: what was slow long ago does not count."""
    account = after(link(100 * MB), *[packed()] * 3)
    for _ in range(RULES.samples):
        account = drained(account, XOR, Sent(sent_bytes=GB, took_s=1.0), packed(), RULES)
    assert account.link_rate == GB
    assert account.trial(XOR).rest > 0


def test_a_link_that_becomes_slow_is_used_after_the_rest():
    """A loss is not for ever."""
    account = after(link(1 * GB), packed())
    for _ in range(RULES.retry_after):
        account = drained(account, XOR, Sent(sent_bytes=50 * MB, took_s=1.0), None, RULES)
    account = after(account, packed(), packed(), packed())
    assert choose(account, XOR, RULES).reason.startswith("xor+zstd pays: the link takes 50 MB/s")


def test_ways_are_judged_apart():
    """That packing without a base does not pay says nothing about differences."""
    account = after(link(100 * MB), packed(ratio=1.1), way=ZSTD)
    assert not choose(account, ZSTD, RULES).pack
    assert choose(account, XOR, RULES).pack


def test_what_was_not_sent_measures_nothing():
    """A part that was there already took no time on the link."""
    account = drained(link(100 * MB), XOR, Sent(sent_bytes=0, took_s=0.01), None, RULES)
    assert account.link_rate == 100 * MB


@pytest.mark.parametrize(("done", "rate", "hopeless"), [(63, 400, False), (64, 400, True), (64, 600, False)])
def test_hopeless(done, rate, hopeless):
    """A part is given up after the probe if packing alone takes as long as sending it."""
    begun = Packed(raw_bytes=done << 20, stored_bytes=done << 20, took_s=(done << 20) / (rate * MB))
    assert is_hopeless(link(500 * MB), begun, Rules()) == hopeless


def test_what_was_given_up_is_a_loss():
    """It counts as a part without any gain."""
    given_up = Packed(raw_bytes=64 << 20, stored_bytes=64 << 20, took_s=1.0)
    account = after(link(100 * MB), given_up)
    assert account.trial(XOR) == Trial(rest=4, loss=account.trial(XOR).loss)
    assert "ratio 1.00" in account.trial(XOR).loss


@pytest.mark.parametrize("wrong", [{"margin": 0.9}, {"samples": 0}, {"retry_after": 0}])
def test_rules_that_cannot_be(wrong):
    """They are refused where they are made."""
    with pytest.raises(UsageError, match="at least 1"):
        Rules(**wrong)

"""Whether packing a part before it leaves the node pays, from what was measured on this node and this link.

Packing costs processor time and saves bytes. One after the other, packing R bytes at the rate e and sending R / ratio
of them over a link of the rate l is quicker than sending R as they are where

    l < e x (1 - 1 / ratio)

which is the *break-even*. Dense float32 states reach a ratio of 1.2 to 1.7 at some 0.45 GB/s a core: 80 to 170 MB/s. On
a faster link packing only makes a checkpoint durable later. So every packed and every sent part is measured, a loss is
remembered, and packing is tried again only some generations later, when the network or the state may be another.

Nothing is touched here; `ftslurm.checkpoint.deltadrain` measures and asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from ftslurm.core.rankindex import Encoding
from ftslurm.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When packing is worth it.

    `margin`: by what factor the break-even must be above the link's rate (too low: it goes on and off with the noise;
    too high: gains are left lying). `samples`: how many parts make a measurement, and how far back it looks.
    `retry_after`: for how many generations a loss is remembered (too low: time is lost again and again; too high: a
    link that has become slow is noticed late). `probe_bytes`: so much of a part is packed before it can be given up
    (too low: the start counts for the whole; too high: more time is lost).
    """

    margin: float = 1.2
    samples: int = 3
    retry_after: int = 20
    probe_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        """Raise UsageError for rules that cannot be followed."""
        if not (self.margin >= 1 and self.samples >= 1 and self.retry_after >= 1):
            raise UsageError(f"{self} cannot be: margin, samples and retry_after are at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A part that was packed: bytes that it had before and has now, and wall-clock seconds.

    A part that was given up has as many as before.
    """

    raw_bytes: int
    stored_bytes: int
    took_s: float

    @property
    def ratio(self) -> float:
        """How many bytes one stored byte stands for."""
        return self.raw_bytes / max(self.stored_bytes, 1)

    @property
    def rate(self) -> float:
        """Bytes a second that were dealt with."""
        return self.raw_bytes / max(self.took_s, 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Bytes that were brought to shared storage, verified and fsynced, and the seconds that it took."""

    sent_bytes: int
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is known of one way to pack. `rest`: for so many generations it is not tried, after a loss."""

    packed: tuple[Packed, ...] = ()
    rest: int = 0
    loss: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What one node has measured: the link, and each way to pack. Kept in memory: who begins anew measures anew."""

    sent: tuple[Sent, ...] = ()
    trials: Mapping[Encoding, Trial] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    def trial(self, way: Encoding) -> Trial:
        """What is known of a way to pack."""
        return self.trials.get(way, Trial())

    @property
    def link_rate(self) -> float:
        """Bytes a second over the last parts together; 0 where nothing was sent yet."""
        took_s = sum(each.took_s for each in self.sent)
        return sum(each.sent_bytes for each in self.sent) / took_s if took_s > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Whether to pack, and why."""

    pack: bool
    reason: str


def break_even(pack_rate: float, ratio: float) -> float:
    """The rate of a link, in bytes a second, below which packing pays; 0 where it never does."""
    return pack_rate * (1 - 1 / ratio) if ratio > 1 else 0.0


def choose(account: Account, way: Encoding, rules: Rules) -> Choice:
    """Whether the next part is to be packed in this way.

    The first part is sent as it is, to measure the link; then packing is tried, and goes on for as long as it pays.
    """
    link = account.link_rate
    if not link:
        return Choice(pack=False, reason="the link has not been measured yet")
    trial = account.trial(way)
    if trial.rest:
        return Choice(pack=False, reason=f"{trial.loss}; to be tried again in {trial.rest} generations")
    known = len(trial.packed)
    if known < rules.samples:
        return Choice(pack=True, reason=f"{way} is being measured: {known} of {rules.samples} parts so far")
    return Choice(pack=True, reason=f"{way} pays: {_told(link, trial.packed)}")


def is_hopeless(account: Account, begun: Packed, rules: Rules) -> bool:
    """Whether a part need not be packed to its end: the link is as fast, so that it cannot pay whatever the ratio."""
    return begun.raw_bytes >= rules.probe_bytes and account.link_rate >= begun.rate


def drained(account: Account, way: Encoding, sent: Sent | None, packed: Packed | None, rules: Rules) -> Account:
    """The account after one more generation: `packed` in this `way` (None: as it was), and `sent` (None: not measured).

    What packing has lost by more than the margin counts at once, a smaller loss after `samples` parts.
    """
    if sent is not None and sent.sent_bytes > 0 and sent.took_s > 0:
        account = replace(account, sent=(*account.sent, sent)[-rules.samples :])
    trial = account.trial(way)
    if packed is None:
        trial = replace(trial, rest=max(trial.rest - 1, 0))
    else:
        trial = Trial(packed=(*trial.packed, packed)[-rules.samples :])
    if trial.packed and not trial.rest and _is_lost(account.link_rate, trial, rules):
        loss = f"{way} did not pay: {_told(account.link_rate, trial.packed)}"
        trial = Trial(rest=rules.retry_after, loss=loss)
    return replace(account, trials=MappingProxyType({**account.trials, way: trial}))


def _is_lost(link: float, trial: Trial, rules: Rules) -> bool:
    limit = break_even(*_measured(trial.packed))
    if len(trial.packed) < rules.samples:
        return link > limit * rules.margin
    return link * rules.margin > limit


def _measured(packed: Sequence[Packed]) -> tuple[float, float]:
    """(rate, ratio) over several parts together."""
    whole = Packed(
        raw_bytes=sum(each.raw_bytes for each in packed),
        stored_bytes=sum(each.stored_bytes for each in packed),
        took_s=sum(each.took_s for each in packed),
    )
    return whole.rate, whole.ratio


def _told(link: float, packed: Sequence[Packed]) -> str:
    rate, ratio = _measured(packed)
    limit = break_even(rate, ratio)
    return (
        f"the link takes {link / 1e6:.0f} MB/s, the break-even is {limit / 1e6:.0f} MB/s "
        f"({rate / 1e6:.0f} MB/s packed, ratio {ratio:.2f})"
    )

"""A training run as its program sees it: restore, step, save, stop. `ftslurm.training.attach` makes it."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from ftslurm.beats import beat, phase
from ftslurm.checkpoint.handover import Handover, OrderReader, end_time
from ftslurm.checkpoint.reader import Counters, Generation
from ftslurm.core.manifest import parse_generation
from ftslurm.core.savepolicy import SavePolicy
from ftslurm.core.strictjson import refuse
from ftslurm.errors import UsageError
from ftslurm.library.deciding import Answer, Decider, Outside, Told
from ftslurm.library.places import AgentPlace, CannotRestore, Place, StorePlace
from ftslurm.library.ranks import Ranks, ranks_of
from ftslurm.library.saving import Room, Saving, say
from ftslurm.library.signals import SignalWatch
from ftslurm.library.state import Parts, Position, ProgramState
from ftslurm.quantities import parse_duration
from ftslurm.sampling import check_shares

PARTNER_GENERATIONS = 2
Metrics = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What `attach` was given besides the state."""

    folder: Path
    every: int | str | Mapping[str, Any] | SavePolicy | None = None
    keep_last: int = 3
    seed: int = 0
    comm: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore has found. `exact`: every rank goes on with its own random numbers."""

    generation: str
    step: int
    took_s: float
    bytes_read: Mapping[str, int]
    exact: bool

    def __str__(self) -> str:
        sources = ", ".join(f"{size / 1e6:,.1f} MB {name}" for name, size in sorted(self.bytes_read.items()))
        anew = "" if self.exact else "; another number of ranks: random numbers begin anew, PerRank values are left out"
        return f"restored step {self.step} from {self.generation} in {self.took_s:.2f} s ({sources or 'nothing'}){anew}"


class Run:
    """What survives of a program, and how. All ranks call the same methods in the same order.

    As a context manager it closes itself.
    """

    def __init__(self, parts: Parts, setup: Setup, environ: Mapping[str, str]) -> None:
        """See `ftslurm.training.attach`."""
        self._ranks = ranks_of(setup.comm, environ)
        self._parts = parts
        rank, size = self._ranks.rank, self._ranks.size
        if hasattr(parts.sampler, "place"):
            parts.sampler.place(rank, size)
        self._state = ProgramState(parts, rank, size)
        _check_alike(self._ranks, self._state.layout())
        handover = Handover.of(environ)
        self._place = self._place_of(handover, setup)
        policy = SavePolicy.from_json(handover.policy) if handover and handover.policy else policy_of(setup.every)
        self._saving = Saving(self._state, self._place, policy, (rank, size))
        self._signals = SignalWatch()
        if handover is None:
            self._signals.install()
        outside = Outside(
            orders=OrderReader(handover.write, handover.attempt) if handover else None,
            signals=self._signals,
            end_time=end_time(environ),
            mtbf_s=handover.mtbf_s if handover else 0.0,
            busy=lambda: self._saving.busy,
            base=self._saving.full_base,
        )
        self._decider = Decider(policy, self._ranks, outside)
        self._room = _room(self._place, handover, setup, environ, size)
        self._position = Position(seed=setup.seed)
        self._epoch: float | None = None
        self._asked: tuple[Told, str] | None = None
        self._advanced = self._saved = 0
        self._stop = False
        self.restored: Restored | None = None
        # atexit is too late: no thread can be started then, and a save in flight may have to.
        threading._register_atexit(partial(_close, weakref.ref(self._saving)))  # type: ignore[attr-defined] # noqa: SLF001

    @property
    def extra(self) -> dict[str, Any]:
        """The values of `extra`: change them here, so that the next save has them."""
        return self._parts.extra

    @property
    def rank(self) -> int:
        """This rank."""
        return self._ranks.rank

    @property
    def world_size(self) -> int:
        """How many ranks there are."""
        return self._ranks.size

    # --------------------------------------------------------------------------------------------------- restoring

    def restore(self) -> int | None:
        """Bring back the newest checkpoint that is sound; returns its step, None where there is none at all.

        Raises:
            CannotRestore: there are checkpoints, but none can be loaded. Uncaught, the program ends with exit code 65.
            UsageError: the checkpoint is that of another program.
        """
        began = time.monotonic()
        with phase("load"):
            try:
                found = self._place.restore(self._load)
            except CannotRestore as error:
                say(f"{error}{f' ({error.hint})' if error.hint else ''}")
                raise
        if found is None:
            return None
        generation, (position, counters, exact) = found
        self._position = position
        self._advanced = self._saved = position.step
        self._decider.begin(position.step, position.best)
        self._saving.parent = generation
        took_s = time.monotonic() - began
        self.restored = Restored(
            generation=generation,
            step=position.step,
            took_s=took_s,
            bytes_read=counters.bytes_read,
            exact=exact,
        )
        if self.rank == 0:
            say(str(self.restored))
        return position.step

    def _load(self, saved: Generation) -> tuple[Position, Counters, bool]:
        position, counters = self._state.restore(saved)
        if position.step != parse_generation(saved.commit.generation)[0]:
            refuse(f"{saved.commit.generation} holds the state of step {position.step}")
        return position, counters, saved.whole.world_size == self.world_size

    # ------------------------------------------------------------------------------------------------------ saving

    def step(
        self,
        step: int,
        *,
        loss: float | None = None,
        epoch: float | None = None,
        metrics: Metrics | None = None,
    ) -> bool:
        """Say that a step is done: beats, decides, saves. Returns whether a save was begun.

        Args:
            step: how many steps are done; the same on every rank.
            loss: a number; told to ftslurm and kept with the checkpoint.
            epoch: passes over the data; that it grows by one tells the end of an epoch, where the sampler does not.
            metrics: further numbers, for `every={"metric": ...}` and for people.
        """
        told, answer = self._decide(step, loss, epoch, metrics)
        done = bool(answer.reason) and self._save(told, answer.reason)
        self._stop = self._stop or answer.stop
        return done

    def should_save(
        self,
        step: int,
        *,
        loss: float | None = None,
        epoch: float | None = None,
        metrics: Metrics | None = None,
    ) -> bool:
        """As `step`, but leave the save itself to the program, which calls `save` where this says so."""
        told, answer = self._decide(step, loss, epoch, metrics)
        self._asked = (told, answer.reason) if answer.reason and step > self._saved else None
        self._stop = self._stop or answer.stop
        return self._asked is not None

    def save(self, step: int | None = None, *, reason: str = "the program asked for it") -> bool:
        """Save now, on all ranks; returns whether it was begun. After `should_save` the step is known."""
        told, why = self._asked or (None, reason)
        self._asked = None
        if told is None or (step is not None and step != told.step):
            if step is None:
                raise UsageError("save() needs the step, where should_save() has not just been asked")
            told, why = Told(step=step, epoch=self._epoch), reason
        return self._save(told, why)

    def should_stop(self) -> bool:
        """Whether the program shall end now: it was asked to, and its last save is made. The same on all ranks."""
        return self._stop

    def grad_accumulation(self, global_batch: int, micro_batch: int) -> int:
        """Return how many micro-batches each rank takes for one step of so many samples on all ranks together.

        Raises:
            UsageError: it is no whole number; the message has the nearest sizes that fit.
        """
        if micro_batch < 1:
            raise UsageError(f"micro-batches of {micro_batch} samples cannot be")
        what = f"({self.world_size} ranks in micro-batches of {micro_batch})"
        check_shares(global_batch, self.world_size * micro_batch, what)
        return global_batch // (self.world_size * micro_batch)

    def close(self) -> None:
        """Wait for the save in flight; the end of the program does it too."""
        self._saving.close()
        self._signals.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decide(
        self, step: int, loss: float | None, epoch: float | None, metrics: Metrics | None
    ) -> tuple[Told, Answer]:
        beat(step, loss=loss)
        self._saving.prepare(self._room, self._position)
        ended = self._advance(step, epoch)
        values = {name: float(value) for name, value in (metrics or {}).items()}
        if loss is not None:
            values.setdefault("loss", float(loss))
        told = Told(step=step, epoch=epoch, epoch_ended=ended, metrics=values)
        self._decider.cost_s, self._decider.drain_s = self._saving.blocked_s, self._saving.took_s
        return told, self._decider.step(told)

    def _advance(self, step: int, epoch: float | None) -> bool:
        """The sampler's samples of this step are done; returns whether an epoch ended with it."""
        sampler, before, self._epoch = self._parts.sampler, self._epoch, epoch
        if step > self._advanced and hasattr(sampler, "advance"):
            sampler.advance()
        self._advanced = max(step, self._advanced)
        if hasattr(sampler, "epoch_ended"):
            return bool(sampler.epoch_ended)
        return epoch is not None and before is not None and int(epoch) > int(before)

    def _save(self, told: Told, reason: str) -> bool:
        if told.step <= self._saved:
            return False
        self._saving.prepare(self._room, self._position)
        self._saved = told.step
        self._decider.saved(told.step, told.metrics)
        self._position.step, self._position.best = told.step, self._decider.best
        return self._saving.save(told, self._position, reason, self._decider.base)

    def _place_of(self, handover: Handover | None, setup: Setup) -> Place:
        if handover is not None:
            return AgentPlace(handover)
        return StorePlace(setup.folder, self._ranks, setup.keep_last, policy_of(setup.every).best_by)


def policy_of(every: int | str | Mapping[str, Any] | SavePolicy | None) -> SavePolicy:
    """Return the policy that `every` of `attach` means. Raises UsageError."""
    if isinstance(every, SavePolicy):
        return every
    if isinstance(every, int) and not isinstance(every, bool) and every > 0:
        return SavePolicy(every_steps=every)
    if every is None or isinstance(every, str):
        return SavePolicy(every_s=_seconds(every or "auto"))
    if not isinstance(every, Mapping) or not every or set(every) - {"steps", "time", "epoch", "metric"}:
        raise UsageError(
            f"every={every!r} does not say when to save",
            hint='1000, "10m", "auto", or some of {"steps": 1000, "time": "30m", "epoch": True, "metric": {...}}',
        )
    metric = every.get("metric") or {}
    return SavePolicy(
        every_steps=int(every.get("steps", 0)),
        every_s=_seconds(every["time"]) if "time" in every else None,
        epoch_end=bool(every.get("epoch", False)),
        metric=str(metric.get("name", "")),
        metric_mode=metric.get("mode", "min"),
    )


def _seconds(text: str) -> Any:  # noqa: ANN401 - a number, or "auto"
    if text == "auto":
        return text
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"every={text!r}: {error}") from error


def _close(saving: weakref.ref[Saving]) -> None:
    """The program ends; a save in flight keeps what it needs alive."""
    found = saving()
    if found is not None:
        found.close()


def _check_alike(ranks: Ranks, layout: str) -> None:
    """Each rank plans its part alone: that only works where all have the same model."""
    layouts = ranks.gather("layout", layout)
    other = next((rank for rank, each in enumerate(layouts) if each != layouts[0]), None)
    if other is not None:
        raise UsageError(
            f"rank {other} has other tensors in its model than rank 0",
            hint="parts of a model that differ between ranks must be DTensors, or a Shard or PerRank value in `extra`",
        )


def _room(place: Place, handover: Handover | None, setup: Setup, environ: Mapping[str, str], size: int) -> Room | None:
    """What must fit where; None where earlier generations, which go away in time, lie there already."""
    if handover is None:
        return Room(folder=setup.folder.absolute(), ranks=size, copies=0) if place.attempt == 0 else None
    if handover.attempt > 0 or handover.restored:
        return None
    local = int(environ.get("LOCAL_WORLD_SIZE") or 1)
    return Room(folder=handover.write, ranks=local, copies=PARTNER_GENERATIONS if size > local else 0)

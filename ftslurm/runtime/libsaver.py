"""An agent's watch over the library layout: what the ranks of this node have written is a checkpoint's part.

The ranks write into `write/<generation>/`, each its index last (`checkpoint.adopt`). What an attempt leaves unfinished
is dropped when it ends. In this layout a restored generation is a folder with links to what this node has of it; the
rest is fetched when a rank asks for it (`runtime.storesocket`).
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.handover import Op, Order, write_order
from ftslurm.checkpoint.layout import GenerationPaths
from ftslurm.core.actions import Whereabouts
from ftslurm.core.events import PartSaved
from ftslurm.core.manifest import is_generation, parse_generation
from ftslurm.errors import DataDamaged, FtslurmError, StorageError
from ftslurm.runtime.keeper import Keeper, Post

if TYPE_CHECKING:
    from ftslurm.checkpoint.places import Gatherer, Tally
    from ftslurm.core.manifest import Commit

log = logging.getLogger(__name__)

SCAN_S = 0.1
RETRY_S = 1.0
FETCH_PATIENCE_S = 60.0
"""How long a file is asked for again where nobody who has it answers: nodes come and go in a recovery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A generation as it is wanted: as the nodes have it, who are named in `where`, or as it is committed."""

    commit: Commit
    where: Whereabouts | None = None

    @property
    def is_packed_elsewhere(self) -> bool:
        """Whether shared storage has other files of it: then what no node has is not damaged."""
        return self.where is not None and self.where.packed


class LibSaver(Keeper):
    """The checkpoints of one node, of programs that save through `ftslurm.training`."""

    def __init__(self, post: Post) -> None:
        super().__init__(post)
        self._attempt = -1
        self._world = 0
        self._here: frozenset[int] = frozenset()
        self._seen: set[str] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="libsaver", daemon=True)
        self._fetches: dict[tuple[str, str], threading.Lock] = {}
        self._forms: dict[str, Form] = {}
        self._out_of_reach: set[str] = set()

    def start(self) -> None:
        """Begin to watch."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop watching and moving."""
        super().stop(timeout_s)
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    # ---------------------------------------------------------------------------------------------- the attempt

    def begin(self, attempt: int, world_size: int) -> None:
        """Watch for an attempt's generations; those of older ones are finished, or never will be."""
        with self._lock:
            if attempt <= self._attempt:
                return
            self._attempt, self._world, self._here, self._seen = attempt, world_size, frozenset(), set()
            self._drop_unfinished(lambda number: number < attempt)

    def expect(self, attempt: int, ranks: frozenset[int]) -> None:
        """Say which ranks run here."""
        with self._lock:
            if attempt == self._attempt:
                self._here = ranks

    def end(self, attempt: int, *, clean: bool) -> None:
        """No process of the attempt is left here: take what is finished, drop what is not."""
        del clean
        with self._lock:
            if attempt == self._attempt:
                self._scan()
                self._here = frozenset()
            self._drop_unfinished(lambda number: number <= attempt)

    def _drop_unfinished(self, over: Callable[[int], bool]) -> None:
        for name in self._written():
            if over(parse_generation(name)[1]) and not disk.is_there(self._generations / name, f"m/{self._node}.json"):
                log.warning("checkpoint %s was not finished here, and is dropped", name)
                shutil.rmtree(self.folder / name, ignore_errors=True)
                shutil.rmtree(self._generations / name, ignore_errors=True)

    def _written(self) -> list[str]:
        return [name for name in disk.entries_of(self.folder) if is_generation(name)]

    def _watch(self) -> None:
        while not self._stop.wait(SCAN_S):
            with self._lock:
                try:
                    self._scan()
                except OSError as error:
                    log.warning("the checkpoint folder %s cannot be read: %s", self.folder, error)

    def _scan(self) -> None:
        from ftslurm.checkpoint.adopt import finished

        for name in self._written():
            mine = name not in self._seen and parse_generation(name)[1] == self._attempt
            if mine and finished(self.folder / name, self._here):
                self._seen.add(name)
                self._adopt(name)

    def _adopt(self, name: str) -> None:
        from ftslurm.checkpoint.adopt import Writer, adopt

        writer = Writer(run_id=self._spec.run_id, node=self._node, ranks=self._here, world_size=self._world)
        try:
            done = adopt(self.folder / name, GenerationPaths(self._generations / name), writer)
        except FtslurmError as error:
            log.warning("checkpoint %s cannot be kept: %s", name, error)
            return
        step, attempt = parse_generation(name)
        part = done.manifest.part(done.digest)
        self._report(PartSaved(attempt=attempt, step=step, world_size=self._world, part=part, about=done.about))

    # ------------------------------------------------------------------------------------------------- coming back

    def _restore(self, wanted: Sequence[Whereabouts], generation: str) -> tuple[Path, str]:
        from ftslurm.checkpoint.places import Tally
        from ftslurm.checkpoint.restore import clean_restores

        if self._scratch is None:
            commit = self.commit_of(wanted, generation)
            return self._store.generation(commit.generation).root, "in place"
        tally, names, forms = Tally(), [generation], {}
        for name in names:
            forms[name] = form = self._prepare(name, wanted, tally, self._scratch.restores)
            about = form.commit.about
            names += [about.base] if about and about.base and len(names) == 1 else []
        self._forms = forms
        clean_restores(self._scratch.restores, names)
        for reason in tally.wrong:
            log.error("checkpoint %s: a copy was wrong and is repaired: %s", generation, reason)
        return self._scratch.restore(generation), str(tally)

    def _prepare(self, name: str, wanted: Sequence[Whereabouts], tally: Tally, restores: Path) -> Form:
        """Make a generation ready as the nodes have it; one that was packed on its way, else as it is committed."""
        from ftslurm.checkpoint.prepare import prepare

        where = next((each for each in wanted if each.generation == name), None)
        if where and where.packed and name in self._out_of_reach:
            where = None
        form = Form(commit=self.commit_of((where,) if where else (), name), where=where)
        try:
            prepare(form.commit, self._gatherer_of(form, tally), restores)
        except (DataDamaged, StorageError) as error:
            if not form.is_packed_elsewhere:
                raise
            log.warning("checkpoint %s cannot be had from the nodes: %s", name, error)
            form = Form(commit=self.commit_of((), name))
            self._prepare_committed(form, error, tally, restores)
        return form

    def _prepare_committed(self, form: Form, before: FtslurmError, tally: Tally, restores: Path) -> None:
        """As it is committed; where that is damaged, nodes that did not answer may have it nevertheless."""
        from ftslurm.checkpoint.prepare import prepare

        try:
            prepare(form.commit, self._gatherer_of(form, tally), restores)
        except DataDamaged:
            if isinstance(before, StorageError):
                raise before from None
            raise

    def _gatherer_of(self, form: Form, tally: Tally | None = None) -> Gatherer:
        if form.where is None:
            return self.gatherer((), form.commit, tally)
        return self.gatherer((form.where,), tally=tally)

    def fetch(self, generation: str, name: str) -> tuple[Path, str]:
        """Bring a data file of a restored generation to this node, once for all its ranks; where from is told.

        Raises:
            DataDamaged: no copy of it is right, or the generation is not one that was restored here.
            StorageError: it cannot be had now.
        """
        from ftslurm.checkpoint.prepare import fetch

        form = self._forms.get(generation)
        if form is None or self._scratch is None:
            raise DataDamaged(f"{generation} was not restored on this node")
        folder = GenerationPaths(self._scratch.restore(generation))
        with self._lock:
            once = self._fetches.setdefault((generation, name), threading.Lock())
        with once:
            if disk.is_there(folder.data, name):
                return folder.data / name, "own"
            gatherer = self._gatherer_of(form)
            deadline = time.monotonic() + FETCH_PATIENCE_S
            while True:
                try:
                    path, kind = fetch(folder, name, form.commit, gatherer)
                except (DataDamaged, StorageError) as error:
                    if isinstance(error, DataDamaged) and not form.is_packed_elsewhere:
                        raise
                    if time.monotonic() > deadline:
                        self._out_of_reach.add(generation)
                        raise StorageError(str(error)) from error
                    log.info("%s of checkpoint %s cannot be had yet: %s", name, generation, error)
                    self._stop.wait(RETRY_S)
                    continue
                log.info("%s of checkpoint %s was fetched: %s", name, generation, gatherer.tally)
                return path, str(kind)

    def told(self, op: Op, generation: str, reason: str) -> None:
        """Pass on what a rank says: it could not load what was restored, or could not save.

        Where a file could not be had in time the checkpoint may be sound.
        """
        if op is Op.REFUSED:
            damaged = generation not in self._out_of_reach
            self._report(self._refused(generation, self._attempt, reason, damaged=damaged))
        else:
            log.error("checkpoint %s could not be saved by a rank: %s", generation, reason)

    def order(self, message: Mapping[str, Any]) -> None:
        """Let the ranks of this node know that a checkpoint is wanted."""
        order = Order(
            attempt=int(message["attempt"]),
            number=int(message["number"]),
            stop=bool(message["stop"]),
            why=str(message["why"]),
        )
        write_order(self.folder, order)

    # ------------------------------------------------------------------------------------------------- cleaning up

    def clean(self, watermark: str, keep: Sequence[str]) -> None:
        """Let generations leave scratch, and with them the ranks' own names of their files, and their records."""
        super().clean(watermark, keep)
        if self._scratch is None:
            return
        there = {*disk.entries_of(self._generations)}
        limit = parse_generation(watermark)
        for name in self._written():
            if name not in there and parse_generation(name) <= limit:
                shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in disk.entries_of(self._scratch.local_records):
            if name.removesuffix(".json") not in there:
                (self._scratch.local_records / name).unlink(missing_ok=True)

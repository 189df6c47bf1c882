"""The words of scenarios for what becomes of checkpoints once nodes hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftslurm.core.actions import Replicate
from ftslurm.core.events import (
    GenerationDurable,
    Part,
    PartDrained,
    PartReplicated,
    RestoreReady,
    RestoreRefused,
    SaveRequested,
    StoreDiffers,
)
from ftslurm.core.manifest import generation_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from ftslurm.core.events import Event
    from ftslurm.core.state import Run
    from ftslurm.journal import Entry
    from tests.core.story import Words


PACKED = "9" * 32
"""The digest of packed parts."""


def generation_of(text: str) -> str:
    """Return the full name of `20@0`."""
    step, _, attempt = text.partition("@")
    return generation_name(int(step), int(attempt))


class SavingWords:
    """A part of `tests.core.story.Story`."""

    run: Run
    entries: list[Entry]
    happen: Callable[[Event], None]

    def do_copied(self, words: Words) -> None:
        """`copied 20@0 [n1>n3 ...] [error=...]`: by default every copy that was asked for last."""
        text, *pairs = words.plain
        name = generation_of(text)
        asked = [action for entry in self.entries for action in entry.actions if isinstance(action, Replicate)]
        last = [ask for ask in asked if ask.generation == name][-1:]
        wanted = [pair.split(">") for pair in pairs] or [
            (each.owner, each.holder) for ask in last for each in ask.pairs
        ]
        for owner, holder in wanted:
            error = words.named.get("error", "")
            self.happen(PartReplicated(generation=name, owner=owner, holder=holder, error=error))

    def do_wanted(self, words: Words) -> None:
        """`wanted`: the operator wants a checkpoint now."""
        self.happen(SaveRequested())

    def do_differs(self, words: Words) -> None:
        """`differs 20@0 [reason=...]`: shared storage was read again."""
        reason = words.named.get("reason", "00003.bin: chunk 7: wrong bytes")
        self.happen(StoreDiffers(generation=generation_of(words.plain[0]), reason=reason))

    def do_ready(self, words: Words) -> None:
        """`ready [20@0 [n1 ...]]`: nodes have the checkpoint at hand, by default the one that the attempt waits for."""
        attempt = self.run.attempt
        assert attempt is not None
        text, *nodes = words.plain or [""]
        name = generation_of(text) if text else attempt.generation
        number = words.whole("attempt", attempt.number)
        for node in nodes or attempt.nodes:
            path = f"/scratch/{node}/{name}"
            self.happen(RestoreReady(generation=name, node=node, attempt=number, path=path))

    def do_refused(self, words: Words) -> None:
        """`refused 20@0 n2 [damaged] [reason=...]`."""
        damaged, attempt = words.flag("damaged"), self.run.attempt
        text, node = words.plain
        self.happen(
            RestoreRefused(
                generation=generation_of(text),
                node=node,
                attempt=words.whole("attempt", attempt.number if attempt else 0),
                reason=words.named.get("reason", "step_20.pt, chunk 3 differs"),
                damaged=damaged,
            )
        )

    def do_drained(self, words: Words) -> None:
        """`drained 20@0 [n1 ...] [packed] [damaged] [reason=...] [error=...]`: by default who has not drained yet."""
        packed, damaged = words.flag("packed"), words.flag("damaged")
        text, *nodes = words.plain
        saved = self.run.find_saved(generation_of(text))
        holders = sorted(saved.holders - saved.drained) if saved else []
        for node in nodes or holders:
            part = Part(node=node, manifest_digest=PACKED, files=1, size_bytes=1) if packed else None
            told = {name: words.named.get(name, "") for name in ("error", "reason")}
            self.happen(PartDrained(generation=generation_of(text), node=node, part=part, damaged=damaged, **told))

    def do_durable(self, words: Words) -> None:
        gone = words.flag("gone")
        dropped = tuple(generation_of(text) for text in words.named.get("dropped", "").split(",") if text)
        name = generation_of(words.plain[0])
        error = words.named.get("error", "")
        self.happen(GenerationDurable(generation=name, digest="d" * 32, dropped=dropped, error=error, gone=gone))

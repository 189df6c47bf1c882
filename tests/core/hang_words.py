"""Words of scenarios about the program: stalls, autopsies, slow ranks, losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftslurm.core.symptoms import (
    AutopsyTaken,
    LossAlarm,
    ProgressSignal,
    RanksResumed,
    RanksStalled,
    Stack,
    StragglerSeen,
)
from ftslurm.core.working import WorkBegun, WorkPaced, WorkPaused, WorkRegained

if TYPE_CHECKING:
    from ftslurm.core.events import Event
    from ftslurm.core.state import Run
    from tests.core.story import Words


def _ranks(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in text.split(",") if each)


class HangWords:
    """Mixed into `Story`."""

    run: Run

    def happen(self, event: Event) -> None:
        """Take one step."""
        raise NotImplementedError

    def _attempt(self, words: Words) -> int:
        return words.whole("attempt", self.run.attempt.number if self.run.attempt else 0)

    def do_progress(self, words: Words) -> None:
        """`progress [beat]`: by what the progress is seen."""
        self.happen(ProgressSignal(attempt=self._attempt(words), source=words.plain[0] if words.plain else ""))

    def do_work(self, words: Words) -> None:
        """`work begun [step=21] [until=30]`, `work regained step=30`, `work paused took=2`, `work paced took=0.5`."""
        attempt, ago_s, step = self._attempt(words), words.number("ago", 0.0), words.whole("step", -1)
        if words.flag("begun"):
            self.happen(WorkBegun(attempt=attempt, step=step, until=words.whole("until", -1), ago_s=ago_s))
        elif words.flag("regained"):
            self.happen(WorkRegained(attempt=attempt, step=step, ago_s=ago_s))
        elif words.flag("paused"):
            self.happen(WorkPaused(attempt=attempt, took_s=words.number("took", 1.0), ago_s=ago_s))
        elif words.flag("paced"):
            self.happen(WorkPaced(attempt=attempt, steps=words.whole("steps", 40), step_s=words.number("took", 1.0)))

    def do_stalled_ranks(self, words: Words) -> None:
        """`stalled_ranks 0,1,2,3 [behind=2] [phase=step] [silent=25] [limit=20] [step=42] [early]`."""
        early = words.flag("early")
        ranks = _ranks(words.plain[0])
        self.happen(
            RanksStalled(
                attempt=self._attempt(words),
                ranks=ranks,
                count=len(ranks),
                phase=words.named.get("phase", "step"),
                silent_s=words.number("silent", 25.0),
                limit_s=words.number("limit", 20.0),
                step=words.whole("step", 42),
                behind=_ranks(words.named.get("behind", "")),
                early=early,
            )
        )

    def do_resumed_ranks(self, words: Words) -> None:
        """`resumed_ranks`: those that were looked at early go on."""
        self.happen(RanksResumed(attempt=self._attempt(words)))

    def do_autopsy(self, words: Words) -> None:
        """`autopsy running:0,1,3:all_reduce<main stopped:2:main [resumed] [note=...]`: state, ranks, frames."""
        resumed = words.flag("resumed")
        pieces = [text.split(":", 2) for text in words.plain]
        stacks = tuple(
            Stack(state=state, frames=tuple(frames.split("<")) if frames else (), ranks=_ranks(ranks))
            for state, ranks, frames in pieces
        )
        notes = (words.named["note"],) if "note" in words.named else ()
        self.happen(AutopsyTaken(attempt=self._attempt(words), stacks=stacks, notes=notes, resumed=resumed))

    def do_straggler(self, words: Words) -> None:
        """`straggler 2 n3 [own=0.5] [median=0.2]`."""
        rank, node = words.plain
        self.happen(
            StragglerSeen(
                attempt=self._attempt(words),
                rank=int(rank),
                node=node,
                own_s=words.number("own", 0.5),
                median_s=words.number("median", 0.2),
                score=9.5,
                windows=5,
            )
        )

    def do_loss(self, words: Words) -> None:
        """`loss nan [rank=1] [step=42]`, `loss spike`."""
        kind = words.plain[0]
        value = "nan" if kind == "nan" else "9.5"
        rank, step = words.whole("rank", 0), words.whole("step", 42)
        self.happen(
            LossAlarm(attempt=self._attempt(words), kind=kind, rank=rank, step=step, value=value, median=1.5, score=8.0)
        )

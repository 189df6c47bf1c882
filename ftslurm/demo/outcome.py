"""What a demonstration has shown, in numbers and in words."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ftslurm.demo import program
from ftslurm.insight.text import took

if TYPE_CHECKING:
    from ftslurm.demo.course import Killed
    from ftslurm.insight.records import Story
    from ftslurm.paths import RunPaths

FINAL = re.compile(r"^final step (\d{1,6}) digest ([0-9a-f]{16})$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The times are seconds since the kill, by the clocks of the nodes; None where the journal does not tell.

    `weights_equal`: the final weights are those of a training that nothing happened to.
    """

    killed: Killed
    noticed_s: float | None
    training_again_s: float | None
    resumed_from: int | None
    final_step: int | None
    weights_equal: bool

    @property
    def survived(self) -> bool:
        """Whether the run went on and came to the right result."""
        return self.training_again_s is not None and self.weights_equal

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "survived": self.survived}


def outcome(killed: Killed, story: Story, paths: RunPaths) -> Outcome:
    """What came of it."""
    hit = next((each for each in story.incidents if each.attempt == 0), None)
    released = hit.released if hit else None
    saved = hit.restored_from if hit else None
    step, digest = _final(paths)
    return Outcome(
        killed=killed,
        noticed_s=_since(killed, hit.noticed if hit else None),
        training_again_s=_since(killed, released),
        resumed_from=saved.step if saved else None,
        final_step=step,
        weights_equal=step is not None and program.digest(program.trained(step)) == digest,
    )


def _since(killed: Killed, moment: float | None) -> float | None:
    return None if moment is None else round(max(moment - killed.at, 0.0), 3)


def _final(paths: RunPaths) -> tuple[int | None, str]:
    """The last step, and the digest of the weights after it, as rank 0 has printed them."""
    for path in sorted(paths.logs.glob("*/rank-00000.log"), reverse=True):
        found = FINAL.findall(path.read_text(encoding="utf-8", errors="replace"))
        if found and int(found[-1][0]) <= program.MOST + program.AFTER:
            return int(found[-1][0]), found[-1][1]
    return None, ""


def words(found: Outcome) -> str:
    """A few lines for people."""
    killed = found.killed
    pid = f", pid {killed.pid}" if killed.pid is not None else ""
    lines = [f"rank {killed.rank} on {killed.node}{pid} was killed (SIGKILL, by {killed.by})"]
    if found.noticed_s is not None and found.training_again_s is not None:
        place = f"step {found.resumed_from}" if found.resumed_from is not None else "the beginning"
        lines.append(f"noticed after {took(found.noticed_s)}, training again after {took(found.training_again_s)}")
        lines.append(f"it went on from the checkpoint of {place}")
    if found.final_step is not None:
        verdict = "are" if found.weights_equal else "are NOT"
        lines.append(
            f"after step {found.final_step} its weights {verdict} those of a training that nothing happened to"
        )
    return "".join(f"  {line}\n" for line in lines)

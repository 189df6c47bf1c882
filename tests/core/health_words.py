"""The words of scenarios for what agents find out about their nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftslurm.core.conditions import MemoryKilled, NodeChecked, NodeHealth, XidSeen
from ftslurm.core.health import METRICS, Consequence, Level

if TYPE_CHECKING:
    from collections.abc import Callable

    from ftslurm.core.events import Event
    from ftslurm.core.state import Run
    from tests.core.story import Words


class HealthWords:
    """A part of `tests.core.story.Story`."""

    run: Run
    happen: Callable[[Event], None]

    def do_health(self, words: Words) -> None:
        """`health n1 METRIC LEVEL [ACTION] [value=3] [device=gpu3]`."""
        node, metric, level, *action = words.plain
        device, value = words.named.get("device", ""), words.number("value", 1)
        what = f"{metric} of {device}" if device else metric
        self.happen(
            NodeHealth(
                node=node,
                level=Level(level),
                metric=metric,
                device=device,
                value=value,
                unit=METRICS[metric].unit,
                reason=f"{what} is {value:g}",
                action=Consequence(action[0] if action else "none"),
            )
        )

    def do_checked(self, words: Words) -> None:
        """`checked n1 [bad=METRIC,...] [unknown=nvml:why]`."""
        bad = tuple(text for text in words.named.get("bad", "").split(",") if text)
        probe, _, why = words.named.get("unknown", "").partition(":")
        for node in words.plain:
            self.happen(NodeChecked(node=node, bad=bad, unknown=((probe, why),) if probe else ()))

    def do_xid(self, words: Words) -> None:
        """`xid n1 79 [gpu=0000:3b:00.0]`."""
        node, code = words.plain
        self.happen(XidSeen(node=node, gpu=words.named.get("gpu", "0000:3b:00.0"), xid=int(code)))

    def do_memory_killed(self, words: Words) -> None:
        """`memory_killed n1 [kills=1] [attempt=0]`."""
        current = self.run.attempt.number if self.run.attempt else -1
        number = words.whole("attempt", current)
        self.happen(MemoryKilled(node=words.plain[0], kills=words.whole("kills", 1), attempt=number))

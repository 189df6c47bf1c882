"""Recorded runs for the tests of replays: saves come at equal distances, so that a model can know when."""

from __future__ import annotations

from dataclasses import replace

from ftslurm.core.recovery import Policy
from ftslurm.plan.otherpolicy import Rules
from tests.insight.journals import Tale, config_policy, policy_for

EVERY_S = 60.0


def trained(tale: Tale, saves: int, *, first: int = 1) -> Tale:
    """So many checkpoints, one a minute from the release on; a save takes no time away from training."""
    for number in range(first, first + saves):
        tale.save(100 * number, after=EVERY_S - 0.5 * len(tale.run.current.nodes) - 0.1 * _extra(tale))
    return tale


def _extra(tale: Tale) -> int:
    """How many further events of a tenth of a second a save consists of: the drains, and the commit."""
    return len(tale.run.current.nodes) + 1


def lost_node(policy: Policy | None = None) -> Tale:
    """Five minutes, n3 is lost, and ten minutes on what is left."""
    tale = trained(Tale(policy).start(), 5).wait(20).lose("n3").launched()
    return trained(tale, 10, first=6).wait(20)


def rules(policy: Policy | None = None, **changes: object) -> Rules:
    """Rules whose policy differs so from the tests' own."""
    return Rules(policy=replace(policy or policy_for(), **changes))


def of_the_page() -> Tale:
    """The run of docs/how-to/replay.md: forty minutes, after ten a node is lost, after twenty the program fails."""
    tale = trained(Tale(config_policy()).start(), 10).wait(25).lose("n3").launched()
    tale = trained(tale, 10, first=11).wait(40).crash(0).launched()
    return trained(tale, 18, first=21).finish()

"""What a node of a smaller world does: as the configuration says, an earlier run's steps tell, or the model predicts.

The order is that of live recovery (`core.recovery`), which cannot predict: it has its own run's steps, or assumes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftslurm.core.scaling import WORK, Worth, fit, middles, reaches, worth
from ftslurm.plan import steptime, table

if TYPE_CHECKING:
    from ftslurm.model_section import ModelSection
    from ftslurm.plan.inputs import Inputs
    from ftslurm.plan.table import Row


AS_BEFORE = Worth(share=1.0, reason="each of them is assumed to do as much as before")


def worth_of(inputs: Inputs, nodes: int) -> Worth:
    """Return what a node does among so many, as a share of what it does among all, and how that is known."""
    given = inputs.config.recovery.efficiency
    if given is not None:
        return Worth(share=given, reason=f"each of them does {given:g} of what it did (recovery.efficiency)")
    ranks = inputs.config.resources.ranks_per_node
    learnt = worth(inputs.stepped, nodes * ranks, inputs.nodes * ranks)
    if learnt is not None:
        return learnt
    model = inputs.config.plan.model
    if model is None:
        return AS_BEFORE
    return _predicted(model, nodes * ranks, inputs.nodes * ranks) or AS_BEFORE


def _predicted(model: ModelSection, smaller: int, full: int) -> Worth | None:
    """What the model says: ranks beside the whole copies do nothing. None where it does not say it."""
    copies = smaller // model.model_ranks
    used = copies * model.model_ranks / smaller
    whole = copies and full % model.model_ranks == 0
    speed = steptime.efficiency(model, copies * model.model_ranks, full) if whole else None
    if speed is not None:
        used *= speed
    elif used == 1:
        return None
    how = f"each of them does {used:.3f} times as much on the mean, as plan.model predicts"
    return Worth(share=used, reason=f"{how}: {copies} of its copies are whole then")


def scaling(inputs: Inputs) -> Iterator[Row]:
    """How an earlier run's steps depend on its ranks; nothing where it has had one size, or none."""
    steps_s = middles(inputs.stepped)
    law = fit(steps_s)
    if law is None:
        return
    for ranks, step_s in steps_s.items():
        why = f"median, measured; the law says {law.step_s(ranks):.3g} s"
        yield table.seconds(f"step_of_{ranks}_ranks", f"a step of {ranks} ranks", step_s, why)
    yield table.words("law", "law", law.kind.title(), f"{WORK[law.kind]}: their times are nearer to that")
    yield table.share("serial", "does not get shorter", law.serial_share, "with more ranks, of one rank's time")
    yield table.share("missed", "the law is off by", law.misses(steps_s), "at the size that it fits worst")
    ranks = inputs.nodes * inputs.config.resources.ranks_per_node
    label = f"a step of {ranks} ranks"
    if reaches(steps_s, ranks):
        yield table.seconds("step", label, law.step_s(ranks), "as many as this run has; by the law")
    else:
        why = "as many as this run has: further from the measured sizes than these are apart"
        yield table.seconds("step", label, None, why)

from __future__ import annotations

import pytest

from ftslurm.core.recovery import Policy
from ftslurm.core.worlds import announced, changed, smaller

KEEPS = "run.grad_accumulation(global_batch, micro_batch) of ftslurm.training keeps it"


@pytest.mark.parametrize(
    ("nodes", "policy", "counts"),
    [
        (1, Policy(), ()),
        (4, Policy(), (3, 2, 1)),
        (4, Policy(min_nodes=3), (3,)),
        (4, Policy(min_nodes=4), ()),
        (4, Policy(ranks_per_node=8, world_multiple_of=16), (2,)),
        (4, Policy(ranks_per_node=2, world_sizes=(8, 4, 2)), (2, 1)),
        (4, Policy(ranks_per_node=2, world_sizes=(8, 4, 2), min_nodes=2), (2,)),
        (4, Policy(world_multiple_of=4), ()),
        (1000, Policy(min_nodes=999), (999,)),
    ],
)
def test_which_smaller_worlds_there_can_be(nodes, policy, counts):
    """Fewer nodes, not below the minimum, in the sizes that are allowed."""
    assert smaller(nodes, policy) == counts


@pytest.mark.parametrize(
    ("nodes", "policy", "sentences"),
    [
        (1, Policy(), ()),
        (
            4, Policy(min_nodes=4, continue_by="chain"),
            ("recovery.min_nodes: 4 forbids a smaller world: always 4 ranks and the same global batch; the next job goes on",),
        ),
        (
            2, Policy(),
            (
                "when nodes are lost, the run goes on with 1 of 2 nodes, that is 1 rank instead of 2; recovery.min_nodes: 2 forbids that",
                f"without gradient accumulation the global batch is then 1/2 (0.5) of what it was; {KEEPS}: each rank takes 2 times as many micro-batches, and a multiple of 2 micro-batches fits all",
            ),
        ),
        (
            4, Policy(ranks_per_node=8, min_nodes=2),
            (
                "when nodes are lost, the run goes on with 3 or 2 of 4 nodes, that is 24 or 16 ranks instead of 32; recovery.min_nodes: 4 forbids that",
                f"without gradient accumulation the global batch is then 3/4 (0.75) or 1/2 (0.5) of what it was; {KEEPS}: each rank takes 4/3 (1.33) or 2 times as many micro-batches, and a multiple of 96 micro-batches fits all",
            ),
        ),
        (
            4, Policy(ranks_per_node=8, world_multiple_of=16),
            (
                "when nodes are lost, the run goes on with 2 of 4 nodes, that is 16 ranks instead of 32 (recovery.world_multiple_of: 16 allows no others); recovery.min_nodes: 4 forbids that",
                f"without gradient accumulation the global batch is then 1/2 (0.5) of what it was; {KEEPS}: each rank takes 2 times as many micro-batches, and a multiple of 32 micro-batches fits all",
            ),
        ),
        (
            4, Policy(world_sizes=(4, 2, 1)),
            (
                "when nodes are lost, the run goes on with 2 or 1 of 4 nodes, that is 2 or 1 ranks instead of 4 (recovery.world_sizes: [4, 2, 1] allows no others); recovery.min_nodes: 4 forbids that",
                f"without gradient accumulation the global batch is then 1/2 (0.5) or 1/4 (0.25) of what it was; {KEEPS}: each rank takes 2 or 4 times as many micro-batches, and a multiple of 4 micro-batches fits all",
            ),
        ),
        (
            64, Policy(ranks_per_node=8, min_nodes=32),
            (
                "when nodes are lost, the run goes on with 63 to 32 of 64 nodes, that is 504 to 256 ranks instead of 512; recovery.min_nodes: 64 forbids that",
                f"without gradient accumulation the global batch is then 63/64 (0.984) to 1/2 (0.5) of what it was; {KEEPS}: each rank takes 64/63 (1.02) to 2 times as many micro-batches",
            ),
        ),
        (4, Policy(min_nodes=4), ("recovery.min_nodes: 4 forbids a smaller world: always 4 ranks and the same global batch; the job is requeued",)),
        (
            4, Policy(min_nodes=4, spares=2),
            ("recovery.min_nodes: 4 forbids a smaller world: always 4 ranks and the same global batch; one of 2 spare nodes replaces a lost one, or the job is requeued",),
        ),
        (
            4, Policy(min_nodes=4, continue_by="none"),
            ("recovery.min_nodes: 4 forbids a smaller world: always 4 ranks and the same global batch; a lost node ends the run",),
        ),
        (
            4, Policy(world_multiple_of=4),
            ("recovery.world_multiple_of: 4 allows no smaller world: always 4 ranks and the same global batch; the job is requeued",),
        ),
        (
            4, Policy(reshards=False),
            ("checkpoint.reshards is no: only as many ranks as wrote a checkpoint can load it; so always 4 ranks and the same global batch; the job is requeued",),
        ),
        (
            4, Policy(world_sizes=(4,)),
            ("recovery.world_sizes: [4] allows no smaller world: always 4 ranks and the same global batch; the job is requeued",),
        ),
    ],
)  # fmt: skip
def test_what_is_said_before_a_run(nodes, policy, sentences):
    """Sizes, shares of the global batch, what keeps it, and what forbids a smaller world."""
    assert announced(nodes, policy) == sentences


@pytest.mark.parametrize(
    ("before", "after", "share", "more"),
    [(32, 24, "3/4 (0.75)", "4/3 (1.33)"), (4, 2, "1/2 (0.5)", "2"), (2, 4, "2", "1/2 (0.5)")],
)
def test_what_is_said_of_a_change(before, after, share, more):
    """The numbers before and after, and what follows for the global batch."""
    assert changed(before, after) == (
        f"{after} ranks instead of {before}: without gradient accumulation the global batch is {share} of what it was; {KEEPS}: each rank takes {more} times as many micro-batches"
    )

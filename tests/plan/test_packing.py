"""On which nodes a model fits, and which of them are chosen."""

from __future__ import annotations

import pytest

from ftslurm.plan.packing import GIB, Fit, Rule, chosen, fit, gpu_bytes
from ftslurm.slurm.inventory import NodeGroup
from tests.plan.models import GPT3, ZERO_7B, model

CUT = {**GPT3, "tensor": 8, "pipeline": 8, "recompute": "selective", "zero": 1, "micro_batches": 64}


def nodes(partition="main", gpu="h100", gpus=8, idle=64, total=64):
    """A kind of nodes."""
    return NodeGroup(partition=partition, gpu=gpu, gpus=gpus, idle=idle, total=total)


@pytest.mark.parametrize(
    ("kind", "gib"),
    [
        ("a100", 40),
        ("A100_80GB", 80),
        ("nvidia_a100-sxm4-80gb", 80),
        ("h100", 80),
        ("nvidia_h100_nvl_94g", 94),
        ("a100_1g.10gb", 10),
        ("a10g", 24),
        ("tesla_t4", 16),
        ("v100s32", None),
        ("gfx90a", None),
        ("", None),
        ("fast", None),
    ],
)
def test_memory_by_the_name_of_a_gpu(kind, gib):
    """What a name says counts, then what its type is known to have; else nobody knows. The configuration beats both."""
    assert gpu_bytes(model(), kind) == (None if gib is None else gib * GIB)
    assert gpu_bytes(model(gpu_memory="64G"), kind) == 64 * GIB


def test_fewest_nodes():
    """ZeRO needs as many copies as make the shards small enough: whole nodes of whole copies, and they do fit."""
    found = fit(model(ZERO_7B, zero=3, recompute="full"), nodes(gpu="v100", gpus=4), 4)
    assert (found.fewest, found.reason) == (3, "11 GiB a rank then")
    cut = fit(model(CUT), nodes(), 8)
    assert (cut.fewest, cut.reason) == (8, "70 GiB a rank then")


@pytest.mark.parametrize(
    ("changed", "group", "ranks", "reason"),
    [
        ({}, nodes(gpus=4), 8, "4 GPUs for 8 ranks on a node"),
        ({}, nodes(gpu="", gpus=0), 8, "0 GPUs for 8 ranks on a node"),
        ({}, nodes(gpu="new"), 8, "how much a GPU holds is not known: give plan.model.gpu_memory"),
        ({"tensor": 16}, nodes(), 8, "8 ranks on a node cannot be cut into tensor: 16"),
        ({"pipeline": 1, "recompute": "none"}, nodes(), 8, "137 GiB a rank even with all 64 nodes"),
        ({}, nodes(total=7), 8, "too few nodes for one copy"),
        ({}, nodes(total=0), 8, "too few nodes for one copy"),
    ],
)
def test_why_a_model_does_not_fit(changed, group, ranks, reason):
    """Each kind of nodes on which it does not fit has its reason."""
    found = fit(model(CUT, **changed), group, ranks)
    assert found.fewest is None
    assert found.reason == reason


FITS = [
    Fit(group=nodes("busy", idle=20, total=64), gpu_bytes=1.0, ranks=8, fewest=8),
    Fit(group=nodes("tight", idle=16, total=20), gpu_bytes=1.0, ranks=8, fewest=8),
    Fit(group=nodes("empty", idle=600, total=600), gpu_bytes=1.0, ranks=8, fewest=16),
    Fit(group=nodes("small", idle=600, total=600), gpu_bytes=1.0, ranks=8),
]


@pytest.mark.parametrize(
    ("rule", "wanted", "partition"),
    [
        (Rule.FIRST_FIT, 16, "busy"),
        (Rule.BEST_FIT, 16, "tight"),
        (Rule.LOAD_BALANCE, 16, "empty"),
        (Rule.BEST_FIT, 8, "tight"),
        (Rule.LOAD_BALANCE, 8, "tight"),
        (Rule.FIRST_FIT, 18, "busy"),
        (Rule.FIRST_FIT, 100, "empty"),
        (Rule.BEST_FIT, 700, None),
        (Rule.FIRST_FIT, 7, None),
    ],
)
def test_rules_choose(rule, wanted, partition):
    """Among the kinds with enough idle nodes on which it fits: the first, the tightest, the least used."""
    best = chosen(rule, FITS, wanted)
    assert (best and best.group.partition) == partition

from __future__ import annotations

import pytest

from ftslurm.errors import ServiceUnavailable
from ftslurm.slurm.inventory import NodeGroup, groups, node_groups

LINE = "{}\x1fup\x1f{}\x1f64\x1f{}\x1f{}\n"
GIB = 2**30


def line(partition="main", counts="1/2/3/6", memory="1024", gres="(null)"):
    """What sinfo prints of one group."""
    return LINE.format(partition, counts, memory, gres)


def test_nodes_by_partition_and_equipment():
    """Nodes that are equipped alike are one group, whatever their state; two types of GPUs are two."""
    text = (
        line(gres="gpu:a100_80gb:8(S:0-1)")
        + line(counts="0/1/0/1", gres="gpu:a100_80gb:8(S:0,1)")
        + line("mixed", gres="gpu:v100:4,gpu:2,nvme:1")
        + line("cpu", "10/1.5K/0/1546", "2048+")
    )
    known = {"cpus": 64, "memory_bytes": GIB}
    assert groups(text) == (
        NodeGroup(partition="main", gpu="a100_80gb", gpus=8, idle=3, total=7, **known),
        NodeGroup(partition="mixed", gpu="v100", gpus=4, idle=2, total=6, **known),
        NodeGroup(partition="mixed", gpu="", gpus=2, idle=2, total=6, **known),
        NodeGroup(partition="cpu", cpus=64, memory_bytes=2 * GIB, idle=1536, total=1546),
    )
    assert [group.label for group in groups(text)] == [
        "main: 8 x a100_80gb",
        "mixed: 4 x v100",
        "mixed: 2 x GPU",
        "cpu: no GPU",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sinfo: error: something\n",
        line().replace("\x1fup\x1f", "\x1fdown\x1f"),
        line(counts="1/2/3"),
        line(counts="1/2/x/4"),
        line(memory="much"),
        line(partition="a\x1fb"),
    ],
)
def test_what_cannot_be_read_is_left_out(text):
    """No line of another form is guessed at, and none of a partition that takes no jobs is told."""
    assert groups(text) == ()


def test_client_asks_sinfo(client, fake):
    """One call, with its deadline; no answer is no empty site."""
    fake.change("inventory", value=line("gpu", gres="gpu:h100:8"))
    assert [group.partition for group in node_groups(client)] == ["gpu"]
    fake.fail("sinfo --noheader --exact", "down")
    with pytest.raises(ServiceUnavailable):
        node_groups(client)

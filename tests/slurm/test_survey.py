from __future__ import annotations

from ftslurm.slurm.survey import loads, switches

TREE = """SwitchName=s0 Level=0 LinkSpeed=1 Nodes=tux[0-1]
SwitchName=s1 Level=0 LinkSpeed=1 Nodes=tux2,gpu7
SwitchName=s9 Level=0 LinkSpeed=1 Nodes=tux[0-
SwitchName=top Level=1 LinkSpeed=1 Nodes=gpu7,tux[0-2] Switches=s[0-1]
"""


def test_every_node_has_its_leaf_switch():
    """Upper levels hold the same nodes again; what cannot be read is left out."""
    assert switches(TREE) == {"tux0": "s0", "tux1": "s0", "tux2": "s1", "gpu7": "s1"}
    assert switches("scontrol: no topology plugin\n") == {}


def test_load_is_per_cpu():
    """A node that has not reported says N/A, and is left out."""
    text = "NodeName=n1 CPUAlloc=0 CPUTot=4 CPULoad=2.00 State=IDLE\nNodeName=n2 CPUTot=4 CPULoad=N/A\n\nNodeName=n3\n"
    assert loads(text) == {"n1": 0.5}


def test_client_asks_slurm(client, fake):
    """Both questions go to scontrol."""
    fake.change("topology", value=TREE)
    fake.change("nodes", "n2", "load", value="8.00")
    assert client.switches()["tux2"] == "s1"
    assert client.loads() == {"n2": 2.0}

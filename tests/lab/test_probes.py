"""The witnesses on a real cluster: what they say of nodes that are well, cut, killed, frozen, or without sshd."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.oracles import wait_until

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
ASK = """
import json, sys
sys.path.insert(0, sys.argv[1])
from ftslurm.runtime.probes import ProbeTarget, SshClient, confirm
node, address, peer, job, client = sys.argv[2:]
target = ProbeTarget(node=node, address=address, port=9, job_id=job, peer=peer, ssh=SshClient(client))
print(json.dumps({each.witness: [each.outcome, each.detail, each.took_s] for each in confirm(target, 3.0)}))
"""
WELL = {"peer": "ok", "ping": "ok", "tcp": "ok", "ssh": "ok", "srun": "ok"}
GONE = {"peer": "ok", "ping": "unreachable", "tcp": "unreachable", "ssh": "unreachable", "srun": "unreachable"}
FROZEN = {**WELL, "ssh": "failed", "srun": "unreachable"}


@pytest.fixture
def job(lab: Cluster) -> Iterator[str]:
    """An ordinary user's job on all four nodes."""
    sent = lab.login(["sbatch", "--parsable", "--no-kill", "-N4", "-o", "/dev/null", "--wrap", "sleep 600"], lab.user)
    number = sent.stdout.strip()
    assert number.isdigit(), sent.stderr
    wait_until(lambda: "R" in lab.login(["squeue", "-h", "-o", "%t", "-j", number]).stdout, 60, "the job runs")
    yield number
    lab.login(["scancel", number])


def ask(lab: Cluster, job: str, node: str = "n3", *, observer: str = "n1", client: str = "openssh") -> dict[str, str]:
    """What the witnesses say of `node`, asked by an ordinary user on `observer`; n2 is the healthy peer."""
    argv = [sys.executable, "-c", ASK, str(ROOT), node, lab.spec.address(node), lab.spec.address("n2"), job, client]
    done = lab.exec(observer, argv, lab.user, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(json.dumps(found, indent=1))
    assert found.pop("slurm")[0] == "unknown"
    return {witness: outcome for witness, (outcome, _, _) in found.items()}


def heard(lab: Cluster, job: str, wanted: dict[str, str], **how: str) -> dict[str, str]:
    """What the witnesses say, asked again where they say otherwise: on a busy machine a healthy peer is late, too."""
    for _ in range(3):
        found = ask(lab, job, **how)
        if found == wanted:
            break
    return found


@pytest.mark.parametrize("client", ["openssh", "paramiko"])
def test_every_witness_speaks_for_a_healthy_node(lab: Cluster, job: str, client: str) -> None:
    """Ping, the kernel's TCP, ssh with known keys, and a step beside the training."""
    assert heard(lab, job, WELL, client=client) == WELL


@pytest.mark.parametrize("client", ["openssh", "paramiko"])
def test_no_witness_hears_a_cut_node(lab: Cluster, job: str, client: str) -> None:
    """Silence on every way, while another node answers."""
    lab.cut("n3")
    assert heard(lab, job, GONE, client=client) == GONE


def test_no_witness_hears_a_killed_node(lab: Cluster, job: str) -> None:
    """A node without power looks like a cut one."""
    lab.kill("n3")
    assert heard(lab, job, GONE) == GONE


@pytest.mark.parametrize("client", ["openssh", "paramiko"])
def test_a_frozen_nodes_kernel_answers_alone(lab: Cluster, job: str, client: str) -> None:
    """Ping and TCP are well; ssh's greeting and a step, which need a process, never come."""
    lab.freeze("n3")
    assert heard(lab, job, FROZEN, client=client) == FROZEN


@pytest.mark.parametrize("client", ["openssh", "paramiko"])
def test_a_dead_sshd_is_no_dead_node(lab: Cluster, job: str, client: str) -> None:
    """Refused is unknown; the step still runs."""
    (pid,) = lab.exec("n3", ["pgrep", "-x", "-o", "sshd"]).stdout.split()
    lab.exec("n3", ["kill", "-KILL", pid])
    try:
        assert heard(lab, job, {**WELL, "ssh": "unknown"}, client=client) == {**WELL, "ssh": "unknown"}
    finally:
        lab.kill("n3")
        lab.start("n3")


def test_a_cut_observer_accuses_nobody(lab: Cluster, job: str) -> None:
    """Asked from a node that is cut itself: no peer answers, and ping says nothing about others."""
    lab.cut("n1")
    found = ask(lab, job, "n3", observer="n1")
    assert (found["peer"], found["ping"]) == ("unreachable", "unknown")


def test_an_unknown_host_key_is_no_evidence(lab: Cluster, job: str) -> None:
    """A host that ssh does not know is not talked to, and not accused: here by its address instead of its name."""
    for client in ("openssh", "paramiko"):
        argv = [sys.executable, "-c", ASK, str(ROOT), "localhost", lab.spec.address("n3"), "", "", client]
        done = lab.exec("n3", argv, lab.user, timeout=60)
        assert json.loads(done.stdout)["ssh"][0] == "unknown", done.stdout

"""What each witness's answer is taken for. The programs that are asked are scripts that behave as the real ones do."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftslurm.core.events import Finding, Outcome, Witness
from ftslurm.runtime import probes
from ftslurm.runtime.probes import ProbeTarget, SshClient, confirm
from tests.runtime.stage import is_gone, wait_until

OK, FAILED, UNREACHABLE, UNKNOWN = Outcome.OK, Outcome.FAILED, Outcome.UNREACHABLE, Outcome.UNKNOWN
DEADLINE_S = 1.0
HANG = "sleep 600"


class Bin:
    """A folder with programs that stand in for ping, ssh and srun; each leaves its arguments and environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def put(self, name: str, body: str) -> None:
        """Make a program of this shell text."""
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "$*" >> {self.folder}/{name}.argv\nenv > {self.folder}/{name}.env\n{body}\n')
        path.chmod(0o755)

    def argv(self, name: str) -> str:
        """The arguments of the last call."""
        return (self.folder / f"{name}.argv").read_text().splitlines()[-1]

    def env(self, name: str) -> str:
        """The environment of the last call."""
        return (self.folder / f"{name}.env").read_text()


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bin:
    """Programs first on PATH; all of them answer well."""
    found = Bin(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{found.folder}:{os.environ['PATH']}")
    for name in ("ping", "ssh", "srun"):
        found.put(name, "exit 0")
    return found


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this host on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def ask(witness: Witness, **more: object) -> Finding:
    """One witness's word on node n1."""
    target = ProbeTarget(**{"node": "n1", "address": "127.0.0.1", "job_id": "7", **more})
    return next(finding for finding in confirm(target, DEADLINE_S) if finding.witness is witness)


def test_every_witness_is_asked_once(programs: Bin, port: int) -> None:
    """A healthy node: one finding each, all well, reported as they come."""
    heard: list[Finding] = []
    word = Finding(witness=Witness.SLURM, outcome=OK, detail="IDLE")
    target = ProbeTarget(node="n1", address="127.0.0.1", port=port, job_id="7", peer="127.0.0.1", slurm=lambda: word)
    found = confirm(target, DEADLINE_S, heard.append)
    assert tuple(heard) == found
    assert {finding.witness: finding.outcome for finding in found} == dict.fromkeys(
        (Witness.PEER, Witness.PING, Witness.TCP, Witness.SSH, Witness.SRUN, Witness.SLURM), OK
    )


def test_one_deadline_holds_for_all(programs: Bin, tmp_path: Path) -> None:
    """Everything hangs, also with SIGTERM ignored and with helpers: an answer comes, and no process is left."""
    for name in ("ping", "ssh", "srun"):
        programs.put(
            name, f"trap '' TERM; echo $$ >> {tmp_path}/pids; {HANG} & echo $! >> {tmp_path}/pids; wait; {HANG}"
        )
    word = Finding(witness=Witness.SLURM, outcome=OK)
    target = ProbeTarget(node="n1", address="n1.invalid", job_id="7", slurm=lambda: threading.Event().wait(5) and word)
    found = {finding.witness: finding.outcome for finding in confirm(target, DEADLINE_S)}
    assert set(found) == set(Witness) - {Witness.CONTROL, Witness.RING}
    assert (found[Witness.SRUN], found[Witness.SSH], found[Witness.SLURM]) == (UNREACHABLE, UNKNOWN, UNKNOWN)
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 6
    wait_until(lambda: all(is_gone(pid) for pid in pids), "no probe is left")


def test_a_witness_that_breaks_says_nothing_about_the_node(programs: Bin, caplog: pytest.LogCaptureFixture) -> None:
    """Our own mistake is logged, and is no sign of death."""

    def broken() -> Finding:
        raise RuntimeError("oops")

    finding = ask(Witness.SLURM, slurm=broken)
    assert (finding.outcome, "oops" in finding.detail) == (UNKNOWN, True)
    assert "oops" in caplog.text


@pytest.mark.parametrize("name", ["ping", "ssh", "srun"])
def test_a_missing_program_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Nothing can be said with what is not installed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = ask(Witness(name), ssh=SshClient.OPENSSH)
    assert finding.outcome is UNKNOWN
    assert f"{name} cannot be run: No such file or directory" in finding.detail


@pytest.mark.parametrize("name", ["-oProxyCommand=id", "a b", "n1;id", "n1\n", "", "$(id)", "n" * 300])
def test_what_is_no_host_name_reaches_no_program(programs: Bin, name: str) -> None:
    """Names come from Slurm, but a name that could be an option or a command is never passed on."""
    target = ProbeTarget(node=name, address=name, job_id="7")
    assert {finding.outcome for finding in confirm(target, DEADLINE_S)} == {UNKNOWN}
    assert list(programs.folder.glob("*.argv")) == []


# ------------------------------------------------------------------------------------------------------ ping and peer

NO_REPLY = "echo 'PING n1'; echo '5 packets transmitted, 0 received, 100% packet loss'; exit 1"


@pytest.mark.parametrize(
    ("body", "outcome", "words"),
    [
        (NO_REPLY, UNREACHABLE, "no answer to ping in 1 s"),
        ("echo 'From 10.0.0.1 icmp_seq=1 Destination Host Unreachable'; exit 1", UNREACHABLE, "Host Unreachable"),
        ("echo 'From 10.0.0.1 icmp_seq=1 Packet filtered'; exit 1", UNKNOWN, "Packet filtered"),
        ("echo 'From 10.0.0.1 icmp_seq=1 Destination Port Unreachable'; exit 1", UNKNOWN, "Port Unreachable"),
        ("echo 'From 10.0.0.1 icmp_seq=1 Destination Host Prohibited'; exit 1", UNKNOWN, "Prohibited"),
        ("echo 'ping: socktype: Operation not permitted' >&2; exit 2", UNKNOWN, "Operation not permitted"),
        ("echo 'ping: n1: Name or service not known' >&2; exit 2", UNKNOWN, "not known"),
        ("echo 'ping: connect: Network is unreachable' >&2; exit 2", UNKNOWN, "Network is unreachable"),
        (HANG, UNKNOWN, "ping did not end"),
    ],
)
def test_ping(programs: Bin, body: str, outcome: Outcome, words: str) -> None:
    """Silence and an unreachable host speak against the node; filters and our own troubles do not."""
    programs.put("ping", body)
    finding = ask(Witness.PING)
    assert (finding.outcome, words in finding.detail) == (outcome, True), finding


@pytest.mark.parametrize(("peer_answers", "node", "peer"), [(True, UNREACHABLE, OK), (False, UNKNOWN, UNREACHABLE)])
def test_ping_counts_only_where_others_answer(programs: Bin, peer_answers: bool, node: Outcome, peer: Outcome) -> None:
    """Where a healthy peer does not answer ping either, it is filtered, or the observer is cut off."""
    programs.put("ping", f'case "$*" in *n2) {"exit 0" if peer_answers else NO_REPLY};; esac; {NO_REPLY}')
    found = confirm(ProbeTarget(node="n1", address="n1", peer="n2"), DEADLINE_S)
    by = {finding.witness: finding for finding in found}
    assert (by[Witness.PING].outcome, by[Witness.PEER].outcome) == (node, peer)


@pytest.mark.parametrize(("peer_answers", "outcome"), [(True, UNREACHABLE), (False, UNKNOWN)])
def test_srun_and_ssh_count_only_where_a_peer_answers_them(programs: Bin, peer_answers: bool, outcome: Outcome) -> None:
    """On a starved observer or a lossy network they time out for a healthy node too: that speaks against nobody."""
    slow = "echo 'ssh: connect to host n1 port 22: Connection timed out'; exit 255"
    for name, silence in (("srun", HANG), ("ssh", slow)):
        programs.put(name, f'case "$*" in *n2*) {"exit 0" if peer_answers else silence};; esac; {silence}')
    target = ProbeTarget(node="n1", job_id="7", peer="127.0.0.1", peer_node="n2", ssh=SshClient.OPENSSH)
    by = {finding.witness: finding for finding in confirm(target, DEADLINE_S)}
    assert (by[Witness.SRUN].outcome, by[Witness.SSH].outcome) == (outcome, outcome)
    assert peer_answers or "neither does n2" in by[Witness.SRUN].detail


def test_a_node_that_answers_needs_no_peer(programs: Bin) -> None:
    """What speaks for a node counts, whatever the peer does."""
    programs.put("srun", f'case "$*" in *n2*) {HANG};; esac; exit 0')
    assert ask(Witness.SRUN, peer_node="n2").outcome is OK


def test_silence_that_was_not_listened_to_does_not_count(programs: Bin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stood still while it asked has heard nothing, and blames nobody for it."""
    monkeypatch.setattr(probes, "STOOD_STILL_S", -DEADLINE_S)
    programs.put("ping", NO_REPLY)
    finding = ask(Witness.PING)
    assert finding.outcome is UNKNOWN
    assert "stood still" in finding.detail


def test_a_peer_is_heard_by_tcp_where_ping_is_filtered(programs: Bin, port: int) -> None:
    """The observer is not cut off when its peer's agent can be reached."""
    programs.put("ping", NO_REPLY)
    finding = ask(Witness.PEER, peer="127.0.0.1", peer_port=port)
    assert finding.outcome is OK
    assert "no answer to ping" in finding.detail
    assert f"port {port} answers" in finding.detail


# ---------------------------------------------------------------------------------------------------------------- TCP


def test_tcp(programs: Bin, port: int) -> None:
    """An open port and a refused connection are a living kernel; silence is not; no name is no answer."""
    assert ask(Witness.TCP, port=port).outcome is OK
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        refused = ask(Witness.TCP, port=free.getsockname()[1])
    assert (refused.outcome, "the kernel answers" in refused.detail) == (OK, True)
    assert ask(Witness.TCP, address="no-such-host.invalid", port=port).outcome is UNKNOWN
    assert ask(Witness.TCP, port=0).outcome is UNKNOWN


def test_a_port_that_swallows_connections_is_silent(programs: Bin) -> None:
    """No SYN is answered when the backlog is full, as when the node is cut."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        address = deaf.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(address)
        finding = ask(Witness.TCP, port=address[1])
        for sock in waiting:
            sock.close()
    assert (finding.outcome, "did not answer in 0.5 s" in finding.detail) == (UNREACHABLE, True)


# ---------------------------------------------------------------------------------------------------------------- ssh


def refuse(words: str) -> str:
    """What ssh does when it fails by itself."""
    return f"echo '{words}' >&2; exit 255"


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("exit 0", OK),
        ("exit 1", OK),
        (refuse("ssh: connect to host n1 port 22: Connection timed out"), UNREACHABLE),
        (refuse("ssh: connect to host n1 port 22: No route to host"), UNREACHABLE),
        (refuse("ssh: connect to host n1 port 22: Network is unreachable"), UNREACHABLE),
        (refuse("Connection timed out during banner exchange"), FAILED),
        (refuse("ssh_exchange_identification: read: Connection timed out"), FAILED),
        (refuse("ssh: connect to host n1 port 22: Connection refused"), UNKNOWN),
        (refuse("ssh: Could not resolve hostname n1: Name or service not known"), UNKNOWN),
        (refuse("Host key verification failed."), UNKNOWN),
        (refuse("No ED25519 host key is known for n1 and you have requested strict checking."), UNKNOWN),
        (refuse("user@n1: Permission denied (publickey,password)."), UNKNOWN),
        (refuse("Access denied by pam_slurm_adopt: you have no active jobs on this node"), UNKNOWN),
        (refuse("kex_exchange_identification: Connection closed by remote host"), UNKNOWN),
        (refuse("kex_exchange_identification: read: Connection reset by peer"), UNKNOWN),
        (HANG, UNKNOWN),
    ],
)
def test_ssh(programs: Bin, body: str, outcome: Outcome) -> None:
    """Only silence counts; whoever refuses is alive, or is a rule."""
    programs.put("ssh", body)
    assert ask(Witness.SSH).outcome is outcome


def test_ssh_asks_nothing_and_trusts_nobody(programs: Bin) -> None:
    """No prompt, no unknown key, no forwarding, the user's options first, and the host behind `--`."""
    ask(Witness.SSH, ssh_options=("-oProxyJump=gate",))
    argv = programs.argv("ssh")
    assert argv.startswith("-T -oProxyJump=gate ")
    assert argv.endswith("-- n1 true")
    for option in ("BatchMode=yes", "StrictHostKeyChecking=yes", "ForwardAgent=no", "ConnectTimeout=1"):
        assert f"-o{option}" in argv


def test_ssh_can_be_left_out(programs: Bin) -> None:
    """Sites where ssh between nodes is forbidden need not be knocked at."""
    assert ask(Witness.SSH, ssh=SshClient.NONE).outcome is UNKNOWN
    assert not (programs.folder / "ssh.argv").exists()


# --------------------------------------------------------------------------------------------------------------- srun


def wail(words: str) -> str:
    """What srun does when it gives up."""
    return f"echo 'srun: error: {words}' >&2; exit 1"


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("exit 0", OK),
        (HANG, UNREACHABLE),
        (wail("Task launch for StepId=7.3 failed on node n1: Socket timed out on send/recv operation"), FAILED),
        (wail("Task launch for StepId=7.3 failed on node n1: Communication connection failure"), FAILED),
        (wail("Unable to allocate resources: Unable to contact slurm controller (connect failure)"), UNKNOWN),
        (wail("Unable to create step for job 7: Socket timed out on send/recv operation"), UNKNOWN),
        (wail("Unable to create step for job 7: Requested node configuration is not available"), UNKNOWN),
        (wail("Unable to confirm allocation for job 7: Invalid job id specified"), UNKNOWN),
        ("exit 3", UNKNOWN),
    ],
)
def test_srun(programs: Bin, body: str, outcome: Outcome) -> None:
    """A step that runs needs a living node; a hang and a failed launch speak against it; slurmctld's trouble does not."""
    programs.put("srun", body)
    assert ask(Witness.SRUN).outcome is outcome


def test_srun_inherits_no_option(programs: Bin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor's own step and the batch script's options must not shape the probe's step."""
    for name in ("SLURM_PROCID", "SLURM_STEP_ID", "SLURM_NTASKS_PER_NODE", "SLURM_EXCLUSIVE", "SRUN_CPUS_PER_TASK"):
        monkeypatch.setenv(name, "1")
    ask(Witness.SRUN)
    assert programs.argv("srun").startswith("--overlap --jobid 7 -w n1 -N1 -n1 ")
    assert programs.argv("srun").endswith("--immediate=1 true")
    assert not {"SLURM_PROCID", "SLURM_STEP_ID", "SLURM_NTASKS_PER_NODE", "SLURM_EXCLUSIVE", "SRUN_CPUS_PER_TASK"} & {
        line.partition("=")[0] for line in programs.env("srun").splitlines()
    }


def test_outside_a_job_no_step_is_tried(programs: Bin) -> None:
    """Otherwise srun would ask for an allocation of its own."""
    assert ask(Witness.SRUN, job_id="").outcome is UNKNOWN
    assert not (programs.folder / "srun.argv").exists()


# --------------------------------------------------------------------------------------------------------------- GPUs


def test_without_a_gpu_nothing_holds_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No driver, no answer; with a driver that cannot be asked, no answer either, and in time."""
    monkeypatch.setattr(probes, "NVIDIA", tmp_path / "version")
    assert probes.gpu_pids(1.0) is None
    (tmp_path / "version").touch()
    monkeypatch.setattr(probes, "GPU_PIDS", "import time; time.sleep(600)")
    assert probes.gpu_pids(0.2) is None
    monkeypatch.setattr(probes, "GPU_PIDS", "raise SystemExit(1)")
    assert probes.gpu_pids(20.0) is None
    monkeypatch.setattr(probes, "GPU_PIDS", "print('a warning'); print([3, 5])")
    assert probes.gpu_pids(20.0) == {3, 5}

"""The witnesses: what else, besides our own heartbeat, says whether a node is alive. NVML is asked here too.

All are asked at once, with one deadline. What an answer means:

- Only silence, and errors of the path itself (no route, no answer in time), speak against a node. Whatever was refused,
  by a firewall, by policy (pam_slurm_adopt refuses ssh to a node that the job has lost), for want of a key or of a
  program, is UNKNOWN. A refused TCP connection is a living kernel.
- A frozen node still answers ping and TCP, which the kernel does alone: ssh's greeting and a job step need a process.
- Ping proves nothing where it is filtered, so a healthy peer is pinged too. Where that stays without an answer as well,
  the node's silence says nothing, and perhaps it is the observer who is cut off. ssh and srun are asked of the peer at
  the same time: on a lossy network, or a starved observer, they time out for healthy nodes too.
- Nor does silence count that was not listened to: a process that stood still in the middle has heard nothing.

Every child process has a process group of its own, is killed at the deadline and reaped, inherits no descriptor and no
SLURM step variable. ping(8), ssh(1), srun(1).
"""

from __future__ import annotations

import errno
import importlib.util
import json
import logging
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from shutil import which

from ftslurm.core.events import Finding, Outcome, Witness
from ftslurm.slurm import env

Word = tuple[Outcome, str]
log = logging.getLogger(__name__)

HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:-]{0,253}[A-Za-z0-9])?")
DETAIL_CHARS = 200
LATE_S = 0.5
STOOD_STILL_S = 2.0
AGAINST = frozenset({Outcome.FAILED, Outcome.UNREACHABLE})
TERM_GRACE_S = 0.3
NO_ROUTE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ETIMEDOUT})
SSH_OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "ControlPath=none",
    "PermitLocalCommand=no",
    "ConnectionAttempts=1",
)
# What ping prints for ICMP errors (ping_common.c of iputils): a router's "no" to us, or a host that is not there.
PING_FILTERED = re.compile(r"From \S+ .*(prohibited|filtered|port unreachable|protocol unreachable).*", re.IGNORECASE)
PING_ERROR = re.compile(r"Destination (Host|Net) Unreachable|Time to live exceeded", re.IGNORECASE)
# ssh's own words (readconf.c, sshconnect.c, packet.c of OpenSSH 7 to 10); everything else is UNKNOWN.
SSH_SILENT = re.compile(
    r"banner exchange|timed out waiting for banner|exchange_identification: .*timed out", re.IGNORECASE
)
SSH_UNREACHABLE = re.compile(r"timed out|no route to host|network is unreachable|host is down", re.IGNORECASE)
# srun could not reach the node's slurmd; other errors speak of the request or of slurmctld.
SRUN_FAILED = re.compile(
    r"task launch .*failed on node|"
    r"(launch|node) .*(socket timed out|connection failure|communication|no route|timed out)",
    re.IGNORECASE,
)
SRUN_CONTROLLER = re.compile(
    r"contact slurm controller|controller .*not respond|allocation failure|create step", re.IGNORECASE
)
SSH_MUTE = "the port of ssh accepts, but nobody speaks"
SITE_HOST_KEYS = "/etc/ssh/ssh_known_hosts"
NVIDIA = Path("/proc/driver/nvidia/version")
GPU_PIDS = """
import json, pynvml
pynvml.nvmlInit()
cards = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
print(json.dumps([use.pid for card in cards for use in pynvml.nvmlDeviceGetComputeRunningProcesses(card)]))
"""


class SshClient(StrEnum):
    """How ssh is spoken: the system's client knows the site's configuration; paramiko needs none to be installed."""

    AUTO = "auto"
    OPENSSH = "openssh"
    PARAMIKO = "paramiko"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTarget:
    """The node that is asked about, and the ways to it.

    `address` and `port` are where its agent listened. `peer` (and `peer_port`, its agent's, and `peer_node`, its name)
    is a node that has been heard just now. `slurm` returns Slurm's word on the node. `job_id` empty: no step is tried.
    """

    node: str
    address: str = ""
    port: int = 0
    job_id: str = ""
    peer: str = ""
    peer_port: int = 0
    peer_node: str = ""
    slurm: Callable[[], Finding] | None = None
    ssh: SshClient = SshClient.AUTO
    ssh_options: tuple[str, ...] = ()
    srun_options: tuple[str, ...] = ("--mem=0",)


def confirm(
    target: ProbeTarget, deadline_s: float, report: Callable[[Finding], None] = lambda _: None
) -> tuple[Finding, ...]:
    """Ask every witness about a node, all at once; return what they said, at the deadline at the latest.

    `report` gets each finding as it comes, in the caller's thread. Who has not answered in time is UNKNOWN; that srun
    does not answer is an answer.
    """
    answers: queue.SimpleQueue[Finding] = queue.SimpleQueue()
    missing, found = set(_QUESTIONS), []
    end = time.monotonic() + deadline_s + LATE_S
    for witness in _QUESTIONS:
        work = (witness, target, deadline_s, answers)
        threading.Thread(target=_answer, args=work, name=f"probe {witness} {target.node}", daemon=True).start()
    while missing:
        try:
            finding = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            finding = Finding(witness=min(missing), outcome=Outcome.UNKNOWN, detail="no answer in time")
        missing.discard(finding.witness)
        found.append(finding)
        report(finding)
    return tuple(found)


def gpu_pids(deadline_s: float) -> frozenset[int] | None:
    """Return the processes that hold memory on a GPU here; None where NVML is missing or does not answer in time.

    NVML is asked by a child process, because the driver can hang with a broken GPU.
    """
    if not NVIDIA.exists() or importlib.util.find_spec("pynvml") is None:
        return None
    code, words = _run([sys.executable, "-I", "-c", GPU_PIDS], max(0.1, deadline_s), env.clean(os.environ))
    return frozenset(json.loads(words.splitlines()[-1])) if code == 0 else None


def _answer(witness: Witness, target: ProbeTarget, deadline_s: float, answers: queue.SimpleQueue[Finding]) -> None:
    """Ask one witness. A question that fails is our own fault, and says nothing about the node."""
    began = time.monotonic()
    try:
        outcome, detail = _QUESTIONS[witness](target, deadline_s)
    except Exception as error:
        log.exception("asking %s about %s failed", witness, target.node)
        outcome, detail = Outcome.UNKNOWN, f"the probe failed: {error!r}"
    took_s = time.monotonic() - began
    if outcome in AGAINST and took_s > deadline_s + STOOD_STILL_S:
        outcome, detail = Outcome.UNKNOWN, f"this process stood still: {took_s:.0f} s went by; {detail}"
    detail = " ".join(detail.split())[:DETAIL_CHARS]
    answers.put(Finding(witness=witness, outcome=outcome, detail=detail, took_s=took_s))


def _beside_peer(question: Callable[[ProbeTarget, float], Word]) -> Callable[[ProbeTarget, float], Word]:
    """Return the question with the same one to a healthy peer beside it: an answer against both speaks against none."""

    def ask(target: ProbeTarget, deadline_s: float) -> Word:
        if not target.peer_node:
            return question(target, deadline_s)
        end = time.monotonic() + deadline_s + LATE_S
        peer = replace(target, node=target.peer_node, address=target.peer, port=target.peer_port)
        control: queue.SimpleQueue[Word] = queue.SimpleQueue()
        work = lambda: control.put(question(peer, deadline_s))  # noqa: E731
        threading.Thread(target=work, name=f"control probe {peer.node}", daemon=True).start()
        outcome, detail = question(target, deadline_s)
        if outcome not in AGAINST:
            return outcome, detail
        try:
            by_peer = control.get(timeout=max(0.0, end - time.monotonic()))[0]
        except queue.Empty:
            by_peer = Outcome.UNREACHABLE
        if by_peer in AGAINST:
            return Outcome.UNKNOWN, f"{detail}, but neither does {peer.node} answer this, which is well"
        return outcome, detail

    return ask


# ------------------------------------------------------------------------------------------------------ the witnesses


def _peer(target: ProbeTarget, deadline_s: float) -> Word:
    """Another node: does anybody answer us?"""
    if not target.peer:
        return Outcome.UNKNOWN, "no other node has been heard lately"
    outcome, detail = _ping_host(target.peer, deadline_s)
    if outcome is Outcome.OK or not target.peer_port:
        return outcome, f"{target.peer}: {detail}"
    outcome, by_tcp = _connect(target.peer, target.peer_port, deadline_s)
    return outcome, f"{target.peer}: {detail}, {by_tcp}"


def _ping(target: ProbeTarget, deadline_s: float) -> Word:
    outcome, detail = _ping_host(target.address or target.node, deadline_s)
    if outcome is Outcome.UNREACHABLE and target.peer and _ping_host(target.peer, deadline_s)[0] is not Outcome.OK:
        return Outcome.UNKNOWN, f"{detail}, but neither does {target.peer}, which is well"
    return outcome, detail


def _ping_host(host: str, deadline_s: float) -> Word:
    """One answer to any of five echo requests within a third of the deadline: a lost packet or four do not matter."""
    if not HOST.fullmatch(host):
        return Outcome.UNKNOWN, f"{host!r} is no host name"
    seconds = max(1, round(deadline_s / 3))
    argv = ["ping", "-n", "-c", "1", "-i", "0.2", "-W", str(seconds), "-w", str(seconds), host]
    code, words = _run(argv, deadline_s, env.clean(os.environ))
    if code == 0:
        return Outcome.OK, "answers ping"
    filtered = PING_FILTERED.search(words)
    if code != 1 or filtered:
        return Outcome.UNKNOWN, filtered[0] if filtered else words or "ping did not end"
    error = PING_ERROR.search(words)
    return Outcome.UNREACHABLE, error[0] if error else f"no answer to ping in {seconds} s"


def _tcp(target: ProbeTarget, deadline_s: float) -> Word:
    """The agent's port: the kernel answers, even if it says that nobody listens."""
    if not target.address or not target.port:
        return Outcome.UNKNOWN, "the agent's address is not known"
    return _connect(target.address, target.port, deadline_s)


def _connect(host: str, port: int, deadline_s: float) -> Word:
    try:
        socket.create_connection((host, port), timeout=deadline_s / 2).close()
    except ConnectionRefusedError:
        return Outcome.OK, f"port {port} is closed, the kernel answers"
    except TimeoutError:
        return Outcome.UNREACHABLE, f"port {port} did not answer in {deadline_s / 2:g} s"
    except OSError as error:
        outcome = Outcome.UNREACHABLE if error.errno in NO_ROUTE else Outcome.UNKNOWN
        return outcome, f"port {port}: {error.strerror or error}"
    return Outcome.OK, f"port {port} answers"


def _srun(target: ProbeTarget, deadline_s: float) -> Word:
    """A job step that does nothing: 0.04 to 0.07 s on a healthy node, for ever on a frozen one."""
    if not target.job_id:
        return Outcome.UNKNOWN, "not inside a job"
    if not HOST.fullmatch(target.node):
        return Outcome.UNKNOWN, f"{target.node!r} is no node name"
    argv = ["srun", "--overlap", "--jobid", target.job_id, "-w", target.node, "-N1", "-n1", "--mpi=none", "-D", "/"]
    argv += [*target.srun_options, f"--immediate={max(1, round(deadline_s))}", "true"]
    code, words = _run(argv, deadline_s, env.step_env(os.environ))
    if code == 0:
        return Outcome.OK, "a job step ran"
    if code is None:
        return Outcome.UNREACHABLE, f"a job step did not run in {deadline_s:g} s"
    unreached = SRUN_FAILED.search(words) and not SRUN_CONTROLLER.search(words)
    return Outcome.FAILED if unreached else Outcome.UNKNOWN, words or f"srun ended with code {code}"


def _slurm(target: ProbeTarget, _: float) -> Word:
    if target.slurm is None:
        return Outcome.UNKNOWN, "Slurm was not asked"
    finding = target.slurm()
    return finding.outcome, finding.detail


def _ssh(target: ProbeTarget, deadline_s: float) -> Word:
    """An echo through ssh. Refusals are UNKNOWN, whoever refuses: only silence counts."""
    if target.ssh is SshClient.NONE or not HOST.fullmatch(target.node):
        return Outcome.UNKNOWN, "ssh is not used"
    if target.ssh is SshClient.OPENSSH or (target.ssh is SshClient.AUTO and which("ssh")):
        return _openssh(target, deadline_s)
    if importlib.util.find_spec("paramiko") is None:
        return Outcome.UNKNOWN, "no ssh client is installed"
    return _paramiko(target, deadline_s)


def _openssh(target: ProbeTarget, deadline_s: float) -> Word:
    seconds = max(1, int(deadline_s) - 1)
    options = [*target.ssh_options, *(f"-o{option}" for option in SSH_OPTIONS), f"-oConnectTimeout={seconds}"]
    code, words = _run(["ssh", "-T", *options, "--", target.node, "true"], deadline_s, env.clean(os.environ))
    if code == 0:
        return Outcome.OK, "ssh answers"
    if code is None:
        return Outcome.UNKNOWN, words or f"ssh connected, but the login did not end in {deadline_s:g} s"
    if 0 < code < 255:  # 255 is ssh's own; any other comes from the node
        return Outcome.OK, f"ssh answers with code {code}"
    if SSH_SILENT.search(words):
        return Outcome.FAILED, SSH_MUTE
    return Outcome.UNREACHABLE if SSH_UNREACHABLE.search(words) else Outcome.UNKNOWN, words


def _paramiko(target: ProbeTarget, deadline_s: float) -> Word:
    """The same with paramiko, which reads neither ~/.ssh/config nor `ssh_options`."""
    import paramiko

    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # a probe that fails is an answer, not an error
    client = paramiko.SSHClient()
    client.load_system_host_keys()
    with suppress(OSError):
        client.load_system_host_keys(SITE_HOST_KEYS)
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    seconds = deadline_s * 2 / 3
    try:
        client.connect(target.node, timeout=seconds, banner_timeout=seconds, auth_timeout=seconds)
        channel = client.exec_command("true", timeout=seconds)[1].channel
        done = channel.status_event.wait(seconds)
        return Outcome.OK if done else Outcome.UNKNOWN, "ssh answers" if done else "ssh logged in, but nothing ran"
    except TimeoutError:
        return Outcome.UNREACHABLE, f"ssh did not answer in {seconds:g} s"
    except paramiko.SSHException as error:
        transport = client.get_transport()
        if transport is not None and not transport.remote_version:
            return Outcome.FAILED, SSH_MUTE
        return Outcome.UNKNOWN, f"ssh: {error}"
    except OSError as error:
        codes = {each.errno for each in getattr(error, "errors", {}).values()} | {error.errno}
        return Outcome.UNREACHABLE if codes & NO_ROUTE else Outcome.UNKNOWN, f"ssh: {error}"
    finally:
        client.close()


_QUESTIONS: Mapping[Witness, Callable[[ProbeTarget, float], Word]] = {
    Witness.PEER: _peer,
    Witness.PING: _ping,
    Witness.TCP: _tcp,
    Witness.SSH: _beside_peer(_ssh),
    Witness.SRUN: _beside_peer(_srun),
    Witness.SLURM: _slurm,
}


# --------------------------------------------------------------------------------------------------- child processes


def _run(argv: list[str], deadline_s: float, environ: Mapping[str, str]) -> tuple[int | None, str]:
    """Run a command; return its exit code and words, or no code where it had to be killed or is not there."""
    try:
        child = subprocess.Popen(
            argv,
            env={**environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return -1, f"{argv[0]} cannot be run: {error.strerror}"
    try:
        words = child.communicate(timeout=deadline_s)[0]
    except subprocess.TimeoutExpired:
        return None, _end(child)
    return child.returncode, words.decode(errors="replace").strip()


def _end(child: subprocess.Popen[bytes]) -> str:
    """Kill a command with all it has started: politely first, because srun then takes its step back."""
    words = b""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signum)
        with suppress(subprocess.TimeoutExpired):
            words = child.communicate(timeout=TERM_GRACE_S)[0]
    if child.stdout:
        child.stdout.close()  # a grandchild that got away may still hold the other end
    return words.decode(errors="replace").strip()

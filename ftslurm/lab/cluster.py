"""One lab, as tests and the command line see it: bring it up, enter its machines, break them, mend them, take it down.

    lab = Cluster("dev")
    lab.up(nodes=4)
    lab.login(["sbatch", "job.sh"], user=lab.user)
    lab.cut("n2"); ...; lab.heal("n2")
    lab.down()

A second process may use a lab that the first one brought up: what is known about it lies in its folder. Everything of
a lab lives in the PID namespaces of its machines, whose process 1 is recorded with its start time before it does
anything; `down`, and the next `up` after a crash, end exactly these.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from ftslurm.errors import ServiceUnavailable, UsageError
from ftslurm.lab import assembly, daemons, machine, network, prerequisites, process, record, slowness
from ftslurm.lab.assembly import Display
from ftslurm.lab.boot import Machine
from ftslurm.lab.daemons import DAEMONS, Daemon
from ftslurm.lab.layout import LOGIN, NODE_LIMIT, USER, LabSpec, Layout
from ftslurm.lab.machine import Who
from ftslurm.lab.slowness import LinkQuality
from ftslurm.lab.storage import Storage

DEFAULT_ROOT = Path("/var/lib/ftslurm-lab")
_READY_S = 30.0
_KILL_S = 2.0


def lab_root() -> Path:
    """Folder of all labs: FTSLURM_LAB_DIR, else /var/lib/ftslurm-lab."""
    return Path(os.environ.get("FTSLURM_LAB_DIR") or DEFAULT_ROOT)


class Cluster:
    """A lab by its name."""

    user = USER

    def __init__(self, name: str = "dev", *, root: Path | None = None, display: Display | None = None) -> None:
        if not name.replace("-", "").isalnum() or not name.isascii() or len(name) > 40:
            raise UsageError(f"a lab cannot be called {name!r}", hint="use letters, digits and dashes")
        self.layout = Layout(root or lab_root(), name)
        self._display = display or Display()

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.layout.name

    @property
    def spec(self) -> LabSpec:
        """Its size and shape as it came up.

        Raises:
            ServiceUnavailable: it is not up.
        """
        spec = record.load(self.layout)
        if spec is None:
            raise ServiceUnavailable(f"lab {self.name} is not up", hint=f"ftslurm lab up --name {self.name}")
        return spec

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of its compute nodes."""
        return self.spec.nodes

    @property
    def shared(self) -> Path:
        """The folder that stands in for NFS, at the same path everywhere."""
        return self.layout.shared

    @property
    def slurm_conf(self) -> Path:
        """Value for SLURM_CONF."""
        return self.layout.slurm_conf

    @property
    def uid(self) -> int:
        """User id of the ordinary user, for os.chown from outside."""
        return self.spec.uid

    def scratch(self, node: str) -> Path:
        """A node's private /scratch as seen from outside."""
        return self.layout.machine(node) / "scratch"

    # --- up and down --------------------------------------------------------------------------------------------------

    def up(self, nodes: int = 4, *, shape: LabSpec | None = None) -> None:
        """Bring the lab up and return when every node is idle and a job step has run on all of them.

        Args:
            nodes: how many compute nodes.
            shape: what else differs from the defaults of LabSpec.

        Raises:
            UsageError: not root, a bad size, or a lab of this name is up with another size.
            ServiceUnavailable: programs are missing, or a part did not start (then nothing is left running).
        """
        prerequisites.require()
        if not 1 <= nodes <= NODE_LIMIT:
            raise UsageError(f"a lab of {nodes} nodes cannot be", hint=f"1 to {NODE_LIMIT} nodes")
        with record.locked(self.layout) as lock:
            if self._is_running(nodes):
                return
            assembly.dismantle(self.layout)
            spec = assembly.resolve(replace(shape or LabSpec(), name=self.name, node_count=nodes), self.layout)
            try:
                assembly.assemble(spec, self.layout, lock, self._display)
                self._display.report(f"lab {self.name}: waiting for Slurm")
                self._wait_ready(spec)
                self.layout.complete.touch()
            except BaseException:  # an interrupt too must leave nothing behind
                assembly.dismantle(self.layout)
                raise

    def down(self, *, purge: bool = False) -> None:
        """Take the lab down; what lies in `shared` and the logs stay unless `purge`."""
        with record.locked(self.layout):
            assembly.dismantle(self.layout, self._display.count)
            if purge:
                shutil.rmtree(self.layout.base, ignore_errors=True)

    def status(self) -> dict[str, Any]:
        """State of every machine, ready for JSON; `up` tells whether the lab is up at all."""
        spec = record.load(self.layout)
        login = None if spec is None else machine.process_one(self._machine(LOGIN, spec))
        if spec is None or login is None or not self.layout.complete.exists():
            return {"name": self.name, "up": False, "nodes": []}
        links = network.links(login.pid)
        slurm = self._node_states()
        rows = []
        for node in spec.nodes:
            ref = machine.process_one(self._machine(node, spec))
            rows.append(
                {
                    "name": node,
                    "address": spec.address(node),
                    "power": "off" if ref is None else "frozen" if machine.is_frozen(ref.pid) else "on",
                    "link": "up" if links.get(node) else "down",
                    "slurm": slurm.get(node, "unknown"),
                    "pid": None if ref is None else ref.pid,
                }
            )
        return {
            "name": self.name,
            "up": True,
            "slurm_conf": str(self.slurm_conf),
            "shared": str(self.shared),
            "user": self.user,
            "login_address": spec.address(LOGIN),
            "nodes": rows,
        }

    # --- running things -----------------------------------------------------------------------------------------------

    def command(self, where: str, argv: Sequence[str], who: Who | None = None) -> list[str]:
        """The argv that runs `argv` on the login host or a node, for callers that start processes themselves."""
        target = self._machine(where, self.spec)
        return machine.entry(target, self._alive(target), argv, who or Who())

    def exec(
        self,
        node: str,
        argv: Sequence[str],
        user: str | None = None,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on a node (or on `login`) and return its exit code and output.

        Args:
            node: a node's name, or "login".
            argv: program and arguments.
            user: None or "root", or the lab's ordinary user.
            timeout: seconds; then the program is killed.
            env: additions to the fresh environment that it gets.

        Raises:
            CommandTimedOut: it did not end in time.
            ServiceUnavailable: the machine is switched off.
        """
        return machine.run(self.command(node, argv, Who(user=user or "root", env=env or {})), timeout)

    def login(
        self,
        argv: Sequence[str],
        user: str | None = None,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the login host; see `exec`."""
        return self.exec(LOGIN, argv, user, timeout, env)

    def popen(
        self,
        where: str,
        argv: Sequence[str],
        who: Who | None = None,
        stdout: IO[str] | int = subprocess.DEVNULL,
        stderr: IO[str] | int = subprocess.DEVNULL,
    ) -> subprocess.Popen[str]:
        """Start a program on a machine and return at once; see `exec`.

        It has a session of its own: `os.killpg(child.pid, SIGKILL)` ends it with all it started there.
        """
        command = self.command(where, argv, who)
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, text=True, start_new_session=True
        )

    # --- breaking and mending -----------------------------------------------------------------------------------------

    def cut(self, node: str) -> None:
        """Pull the network cable: silence in both directions."""
        network.set_link(self._login_pid(), self._known(node), up=False)

    def heal(self, node: str) -> None:
        """Put the network cable back."""
        network.set_link(self._login_pid(), self._known(node), up=True)

    def kill(self, node: str) -> None:
        """Cut a node's power: everything on it ends at once, without a word. A daemon's name kills that daemon."""
        if node in DAEMONS:
            daemons.send(self._login_pid(), Daemon(node), signal.SIGKILL)
            return
        slowness.repair(self._alive(self._machine(LOGIN, self.spec)), self._known(node))
        network.unplug(self._login_pid(), node)  # first: a dying kernel's FIN and RST must reach nobody
        machine.power_off(self._machine(node, self.spec), _KILL_S)

    def start(self, node: str) -> None:
        """Switch a killed node on (empty /tmp, the old /scratch), or start a killed daemon; else nothing happens.

        Raises:
            ServiceUnavailable: it did not boot.
        """
        if node in DAEMONS:
            daemons.start(self._machine(LOGIN, self.spec), Daemon(node))
            return
        target = self._machine(self._known(node), self.spec)
        with record.locked(self.layout) as lock:
            if machine.process_one(target) is None:
                assembly.boot_node(target, self._login_pid(), lock)
                machine.wait_for(target, target.booted)

    def freeze(self, node: str) -> None:
        """Stop every process of a node, whose kernel still answers ping and accepts TCP; or stop one daemon."""
        if node in DAEMONS:
            daemons.send(self._login_pid(), Daemon(node), signal.SIGSTOP)
            return
        machine.stop_all(self._alive(self._machine(self._known(node), self.spec)).pid)

    def thaw(self, node: str) -> None:
        """Let a frozen node or daemon go on."""
        if node in DAEMONS:
            daemons.send(self._login_pid(), Daemon(node), signal.SIGCONT)
            return
        machine.continue_all(self._alive(self._machine(self._known(node), self.spec)).pid)

    def slow(self, node: str, *, delay_ms: float = 0.0, jitter_ms: float = 0.0, loss_percent: float = 0.0) -> None:
        """Delay and lose packets on their way to a node; without arguments the link is good again."""
        login = self._machine(LOGIN, self.spec)
        quality = LinkQuality(delay_ms=delay_ms, jitter_ms=jitter_ms, loss_percent=loss_percent)
        slowness.degrade(login, self._alive(login), self._known(node), quality)

    def restore(self, timeout: float = 60.0) -> None:
        """Make everything well: heal, thaw and start every node, cancel every job, wait until all is idle."""
        spec = self.spec
        login = self._alive(self._machine(LOGIN, spec))
        machine.continue_all(login.pid)
        self.storage.restore()
        for daemon in Daemon:
            self.start(daemon)
        links = network.links(login.pid)
        for node in spec.nodes:
            ref = machine.process_one(self._machine(node, spec))
            if ref is None:
                self.start(node)
                continue
            if machine.is_frozen(ref.pid):
                machine.continue_all(ref.pid)
            if not links.get(node):
                self.heal(node)
            slowness.repair(login, node)
        self.login(["scancel", "--quiet", "--user=root"], timeout=20.0)
        self.login(["scancel", "--quiet", f"--user={self.user}"], timeout=20.0)
        self.wait_idle(timeout)

    @property
    def storage(self) -> Storage:
        """Shared storage that can be frozen, filled or broken."""
        return Storage(self._machine(LOGIN, self.spec))

    def wait_idle(self, timeout: float = 60.0) -> None:
        """Wait until every node is idle and no job is left.

        Raises:
            ServiceUnavailable: that did not come; the message tells what Slurm says of each node.
        """
        deadline = time.monotonic() + timeout
        while True:
            states = self._node_states()
            wrong = {node: states.get(node, "unknown") for node in self.nodes if states.get(node) != "idle"}
            self._display.count(len(self.nodes) - len(wrong), len(self.nodes))
            jobs = self.login(["squeue", "--noheader", "--format=%i"], timeout=20.0)
            if not wrong and jobs.returncode == 0 and not jobs.stdout.strip():
                return
            if time.monotonic() > deadline:
                raise ServiceUnavailable(
                    f"lab {self.name} is not idle after {timeout:g} s: nodes {wrong}, jobs {jobs.stdout.split()}",
                    hint=f"see {self.layout.log}",
                )
            self._resume(wrong)
            time.sleep(0.1)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _machine(self, name: str, spec: LabSpec) -> Machine:
        return Machine(name=name, spec=spec, layout=self.layout)

    def _known(self, node: str) -> str:
        if node not in self.nodes:
            known = ", ".join((*self.nodes, *Daemon))
            raise UsageError(f"lab {self.name} has no node {node!r}", hint=f"there are {known}")
        return node

    def _alive(self, target: Machine) -> process.ProcessRef:
        ref = machine.process_one(target)
        if ref is None:
            raise ServiceUnavailable(f"{target.name} of lab {self.name} is switched off")
        return ref

    def _login_pid(self) -> int:
        return self._alive(self._machine(LOGIN, self.spec)).pid

    def _is_running(self, nodes: int) -> bool:
        """A lab that came up completely and whose login host lives; nodes may be off, if somebody killed them."""
        spec = record.load(self.layout)
        if spec is None or not self.layout.complete.exists():
            return False
        if machine.process_one(self._machine(LOGIN, spec)) is None:
            return False
        if spec.node_count != nodes:
            raise UsageError(
                f"lab {self.name} is already up with {spec.node_count} nodes",
                hint=f"ftslurm lab down --name {self.name}",
            )
        return True

    def _wait_ready(self, spec: LabSpec) -> None:
        """All nodes idle, and a step with PMIx runs on all of them."""
        self.wait_idle(_READY_S)
        count = str(spec.node_count)
        done = self.login(["srun", "--mpi=pmix", f"-N{count}", f"-n{count}", "true"], timeout=_READY_S)
        if "PMIx library" in done.stderr:
            raise ServiceUnavailable(
                "Slurm's mpi/pmix plugin cannot load libpmix.so",
                hint="apt-get install --no-install-recommends libpmix-dev",
            )
        if done.returncode != 0:
            raise ServiceUnavailable(
                f"srun does not work in the lab: {done.stderr.strip()}", hint=f"see {self.layout.log}"
            )
        self.wait_idle(_READY_S)

    def _node_states(self) -> dict[str, str]:
        """Slurm's word for each node, flags like `*` included; empty when slurmctld does not answer."""
        try:
            done = self.login(["sinfo", "--noheader", "--Node", "--format=%N %T"], timeout=20.0)
        except ServiceUnavailable:
            return {}
        return dict(line.split()[:2] for line in done.stdout.splitlines() if len(line.split()) >= 2)

    def _resume(self, states: Mapping[str, str]) -> None:
        """Return nodes to service that Slurm drained or keeps DOWN although they answer."""
        for node, state in states.items():
            if state.rstrip("*$~#!%@^-") in {"down", "drained", "draining", "fail"}:
                self.login(["scontrol", "update", f"NodeName={node}", "State=RESUME"], timeout=20.0)

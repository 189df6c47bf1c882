"""Members of the ring and their agents over real loopback channels; only MPI itself is replaced, by queues."""

from __future__ import annotations

import asyncio
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftslurm.runtime import ring
from ftslurm.runtime.control import Channel, Credentials, serve
from ftslurm.runtime.local_ring import LocalRing
from ftslurm.runtime.ring_support import choose, ring_support
from tests.runtime.stage import KEY, PATIENCE_S, RUN_ID, wait_until

NODES = ("n1", "n2", "n3")
INTERVAL_S = 0.05
Message = dict[str, Any]


class Wires:
    """What MPI is to the members: messages arrive, or nothing does."""

    def __init__(self, rank: int, boxes: list[queue.SimpleQueue[tuple[int, float]]]) -> None:
        self.rank, self.size, self._boxes = rank, len(boxes), boxes
        self.cut = False

    def send(self, to: int, age_s: float) -> bool:
        """Deliver a beat, unless this member is cut off."""
        if not self.cut:
            self._boxes[to].put((self.rank, age_s))
        return True

    def receive(self) -> list[tuple[int, float]]:
        """Take what has come."""
        found = []
        while not self._boxes[self.rank].empty():
            found.append(self._boxes[self.rank].get())
        return [] if self.cut else found


class Node:
    """One node: the agent's side of the ring in an event loop, and a member in a thread. `said` goes to the supervisor."""

    def __init__(self, name: str, wires: Wires, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.name, self.wires, self.loop = name, wires, loop
        self.said: list[Message] = []
        self.age_s = float("inf")
        self.local = LocalRing(self.said.append, lambda: self.age_s)
        self.folder = folder / name
        self.folder.mkdir(mode=0o700)
        who = Credentials(key=KEY, run_id=RUN_ID)
        self.server = self.do(serve(("127.0.0.1", 0), who, epoch=1, on_channel=self._listen))
        file = self.folder / f"agent-{name}.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps({"port": self.server.port, "epoch": 1, "node": name, "key": KEY.hex()}))

    async def _listen(self, channel: Channel) -> None:
        await self.local.serve(channel)

    def do(self, work: Any) -> Any:
        """Run something in the agent's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_S)

    def tell(self, message: Message) -> None:
        """Let the supervisor say something to the agent."""
        self.loop.call_soon_threadsafe(self.local.obey, message)

    def start(self, mark: tuple[int, int] = (1, 1)) -> threading.Thread:
        """Start the member."""
        settings = {
            "mark": mark,
            "nodes": NODES,
            "interval_s": INTERVAL_S,
            "limit_s": 6 * INTERVAL_S,
            "run_id": RUN_ID,
            "local_dir": str(self.folder),
        }
        environ = {"SLURM_STEP_NODELIST": "n[1-3]", "SLURMD_NODENAME": self.name, "SLURM_STEP_ID": "7"}
        member = ring.Ring(self.wires, settings, environ)  # type: ignore[arg-type]
        thread = threading.Thread(target=member.serve, daemon=True)
        thread.start()
        return thread

    def newest(self) -> tuple[str, str]:
        """The newest word on whom this node watches."""
        last: Message = self.said[-1] if self.said else {}
        return str(last.get("watched")), str(last.get("heard"))


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    """Three nodes, without members yet."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    boxes: list[queue.SimpleQueue[tuple[int, float]]] = [queue.SimpleQueue() for _ in NODES]
    found = [Node(name, Wires(rank, boxes), tmp_path, loop) for rank, name in enumerate(NODES)]
    yield found
    for node in found:
        loop.call_soon_threadsafe(node.local.leave)
    for node in found:
        node.do(node.server.close())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(PATIENCE_S)
    loop.close()


def test_a_lost_member_is_missed_by_its_successor_alone_and_the_ring_closes(nodes: list[Node]) -> None:
    """n3 watches n2: it says so at once, and after the supervisor's word it watches n1. The end is the agent's word."""
    threads = [node.start() for node in nodes]
    wait_until(lambda: [node.newest() for node in nodes] == [("n3", "ok"), ("n1", "ok"), ("n2", "ok")], "all are heard")
    assert nodes[0].said[-1]["mark"] == [1, 1]
    assert nodes[0].said[-1]["step"] == "7"
    nodes[1].wires.cut = True
    wait_until(lambda: nodes[2].newest() == ("n2", "silent"), "the successor misses it")
    assert nodes[0].newest() == ("n3", "ok")
    for node in (nodes[0], nodes[2]):
        node.tell({"t": "ring", "mark": [1, 1], "dead": ["n2"]})
    wait_until(lambda: nodes[2].newest() == ("n1", "ok"), "the ring has closed")
    assert nodes[0].newest() == ("n3", "ok")
    for node in nodes:
        node.loop.call_soon_threadsafe(node.local.leave)
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    wait_until(lambda: all(node.said[-1].get("heard") == "gone" for node in nodes), "the agents say so")


def test_word_of_the_supervisor_travels_over_the_ring(nodes: list[Node]) -> None:
    """A node that hears nobody over TCP learns that the others do; when they do not any more, the word grows old."""
    for node in nodes:
        node.start()
    nodes[0].age_s = 0.0
    wait_until(lambda: nodes[2].local.word_s() < 1.0, "the word has come, by way of n2")
    nodes[0].age_s = 1000.0
    wait_until(lambda: nodes[2].local.word_s() > 1.0, "no newer word comes")
    assert nodes[2].local.word_s() < 100.0


def test_only_the_newest_ring_counts(nodes: list[Node]) -> None:
    """A member of an older ring leaves, whether it was there before or comes late."""
    first = nodes[0].start((1, 1))
    wait_until(lambda: nodes[0].said, "the first is there")
    second = nodes[0].start((1, 2))
    first.join(PATIENCE_S)
    assert not first.is_alive()
    wait_until(lambda: nodes[0].said[-1]["mark"] == [1, 2], "the second speaks")
    late = nodes[0].start((1, 1))
    late.join(PATIENCE_S)
    assert not late.is_alive()
    assert second.is_alive()
    nodes[0].tell({"t": "ring", "mark": [1, 1], "dead": ["n2"]})
    nodes[0].tell({"t": "ring", "mark": [2, 1], "dead": []})
    second.join(PATIENCE_S)
    assert not second.is_alive()


@pytest.mark.parametrize(
    ("size", "nodelist", "here", "words"),
    [
        (1, "n[1-3]", "n2", "a world of 1, not of 3"),
        (3, "n[1-3]", "n1", "rank 1 is on n1"),
        (3, "n[1-2,4]", "n2", "Slurm says n1,n2,n4"),
        (3, "n[1-3]", "n2", ""),
    ],
)
def test_a_wrong_world_is_no_ring(size: int, nodelist: str, here: str, words: str) -> None:
    """MpiDefault none gives N worlds of one: each member would watch itself."""
    found = ring.problem(1, size, NODES, {"SLURM_STEP_NODELIST": nodelist, "SLURMD_NODENAME": here})
    assert (words in found) if words else not found


@pytest.mark.parametrize(
    ("library", "kinds", "chosen"),
    [
        ("Open MPI v5.0.11", ("none", "pmi2", "pmix"), "pmix"),
        ("Open MPI v5.0.11", ("none", "pmi2"), ""),
        ("MPICH Version:      5.0.2", ("pmix", "pmi2"), "pmi2"),
        ("CRAY MPICH version 8.1.29", ("pmi2", "cray_shasta"), "cray_shasta"),
        ("Intel(R) MPI Library 2021.13", ("pmi2",), "pmi2"),
        ("Some MPI 1.0", ("pmix",), "pmix"),
        ("Some MPI 1.0", (), ""),
    ],
)
def test_kind_of_mpi_that_fits_a_library(library: str, kinds: tuple[str, ...], chosen: str) -> None:
    """A wrong kind is N worlds of one, or an abort."""
    assert choose(library, kinds) == chosen


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python in a process of its own."""
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_without_mpi4py_it_says_so() -> None:
    """One line, an exit code, no traceback."""
    code = (
        "import sys; sys.modules['mpi4py'] = None; from ftslurm.runtime import ring; sys.exit(ring.main(['--library']))"
    )
    done = python(code)
    assert (done.returncode, done.stdout) == (ring.NO_MPI, "")
    assert "mpi4py" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_hang_in_mpi_init_ends_by_itself() -> None:
    """The alarm ends the process inside the library: no Python code needs to run for it."""
    hang = "ctypes.CDLL(None).pause"
    settings = json.dumps({"nodes": list(NODES)})
    code = (
        f"import ctypes, os; os.environ['FTSLURM_RING'] = {settings!r}\n"
        f"from ftslurm.runtime import ring; ring.INIT_S = 1; ring.Fabric = {hang}; ring.main([])"
    )
    assert python(code).returncode == -14


@pytest.mark.mpi
def test_what_is_installed_here_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Versions of mpi4py and of the library, without starting MPI; and a srun that knows no MPI is told of."""
    pytest.importorskip("mpi4py")
    srun = tmp_path / "srun"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    srun.write_text("#!/bin/sh\necho 'MPI plugin types are...'; echo '\tnone'\n")
    srun.chmod(0o755)
    found = ring_support({})
    assert found.mpi4py
    assert not found.chosen
    assert "fits none of srun's kinds of MPI (none)" in found.problem
    assert found.library in found.found
    srun.write_text("#!/bin/sh\nprintf 'MPI plugin types are...\\n\\tnone\\n\\tpmix\\n\\tpmi2\\n'\n")
    found = ring_support({})
    assert found.chosen in ("pmix", "pmi2")
    assert f"srun --mpi={found.chosen}" in found.found

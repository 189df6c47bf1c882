"""What one supervisor bears: its hub and its core, fed by up to thousands of agents over the real control channel.

One process is the supervisor: the real hub (HMAC, JSON, detector) and the real core, whose decisions on a node that
falls silent are taken as in a run; only the witnesses are played, and answer at once. Two others are the agents: one
connection each, one beat a second each. Everything goes over loopback. Measured is the CPU time of the supervisor's
process as a share of one core, at rest, and the time from a node's last beat to suspicion and to the verdict. The floor
beside it answers the same bytes from a bare asyncio protocol, which checks nothing.
"""

from __future__ import annotations

import argparse
import hmac
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import IO, Any, cast

import machine

from ftslurm.core.detector import Settings
from ftslurm.runtime.wire import Wire

ROLES = Path(__file__).with_name("scale_roles.py")
SIZES = (256, 1024, 4096)
PROCESSES = 2
START_S = 180.0
BAR = 0.5
PAPER = (12_500, 100_000)
LIMITS = (
    "Supervisor and agents share the machine's cores and its loopback device; the witnesses are played, so that the"
    " time to the verdict is the detector's and the core's own. On a cluster the witnesses take up to 3 s more.\n"
)


class Role:
    """A process of the benchmark: told with lines of JSON, and answering with them."""

    def __init__(self, role: str, settings: dict[str, Any]) -> None:
        self.name = role
        argv = [sys.executable, str(ROLES), role, json.dumps(settings)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._to, self._from = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)

    def ask(self, **order: object) -> None:
        """Tell it what to do next."""
        self._to.write(json.dumps(order) + "\n")
        self._to.flush()

    def answer(self) -> dict[str, Any]:
        """Return what it says next; it has deadlines of its own."""
        line = self._from.readline()
        if not line:
            raise RuntimeError(f"the {self.name} process has ended: code {self._process.wait(10)}")
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        """Let it go."""
        with suppress(BrokenPipeError):
            self._to.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def troupe(server: str, nodes: int, key: str) -> Iterator[tuple[Role, list[Role], float]]:
    """A server and all its agents, connected; and the seconds that this took."""
    roles = [Role(server, {"nodes": nodes, "key": key})]
    try:
        port = roles[0].answer()["port"]
        began = time.monotonic()
        share = nodes // PROCESSES
        for number in range(PROCESSES):
            settings = {"first": number * share, "count": share, "port": port, "key": key, "plain": server == "echo"}
            roles.append(Role("agents", settings))
        for agents in roles[1:]:
            agents.answer()
        yield roles[0], roles[1:], time.monotonic() - began
    finally:
        for role in reversed(roles):
            role.end()


def measure(server: str, nodes: int, seconds: float, losses: int) -> dict[str, Any]:
    """One size: CPU share at rest, then nodes that fall silent, one after the other."""
    key = os.urandom(32).hex()
    with troupe(server, nodes, key) as (role, agents, connected_s):
        time.sleep(min(5.0, seconds))  # the start is not the rest
        role.ask(do="measure", seconds=seconds)
        found = {"nodes": nodes, "connected_s": round(connected_s, 2), **role.answer()}
        silent = []
        for number in range(losses):
            agents[0].ask(do="silence", index=number)
            last = agents[0].answer()["last"]
            role.ask(do="await", node=f"n{number}")
            told = role.answer()
            silent.append({name: round(told[name] - last, 3) for name in ("suspected", "verdict")})
        return {**found, "silent": silent}


def codec(messages: int) -> dict[str, float]:
    """Microseconds of the control channel's parts for one beat and its echo, without any socket."""
    server, client = Wire(b"k" * 32, "run", {}, epoch=1), Wire(b"k" * 32, "run", {})
    while not (server.ready and client.ready):
        client.feed(server.take())
        server.feed(client.take())
    beats = []
    for number in range(messages):
        client.send({"t": "beat", "n": number})
        beats.append(client.take())
    began = time.process_time()
    for number, beat in enumerate(beats):
        server.feed(beat)
        server.send({"t": "echo", "n": number})
        server.take()
    whole = time.process_time() - began
    began = time.process_time()
    for _ in range(messages):
        hmac.digest(b"k" * 32, b"x" * 30, "sha256")
        hmac.digest(b"k" * 32, b"x" * 30, "sha256")
    macs = time.process_time() - began
    return {"codec_us": round(whole / messages * 1e6, 1), "hmac_us": round(macs / messages * 1e6, 1)}


def render(value: dict[str, Any]) -> str:
    """The page."""
    floor = {one["nodes"]: one for one in value["floor"]}
    rows, waits = [], []
    for one in value["supervisor"]:
        nodes, share = one["nodes"], one["cpu_share"]
        rows.append([
            f"{nodes:,}", f"{share:.1%}", f"{share / one['beats_s'] * 1e6:.0f} us", f"{floor[nodes]['cpu_share']:.1%}",
            f"{floor[nodes]['cpu_share'] / floor[nodes]['beats_s'] * 1e6:.0f} us", f"{one['beats_s']:.0f}",
            f"{one['connected_s']:.1f} s",
        ])  # fmt: skip
        suspected = [each["suspected"] for each in one["silent"]]
        verdict = [each["verdict"] for each in one["silent"]]
        waits.append([
            f"{nodes:,}", f"{len(suspected)}", f"{median(suspected):.2f} s", f"{max(suspected):.2f} s",
            f"{(median(verdict) - median(suspected)) * 1000:.0f} ms",
        ])  # fmt: skip
    header = ["agents", "share of one core", "a beat", "floor: bare echo", "a beat", "beats/s", "all connected after"]
    cost = value["codec"]
    largest = value["supervisor"][-1]
    whole = largest["cpu_share"] / largest["beats_s"] * largest["nodes"]
    sentence = (
        f"The bar is {BAR:.0%} of a core at 4,096 agents; measured: {largest['cpu_share']:.1%} at {largest['nodes']:,}"
        f" or {whole:.1%} where every agent gets to beat once a second (a busy machine starves some). Of a beat and"
        f" its answer the codec (JSON both ways, HMAC both ways) takes {cost['codec_us']:.0f} us, of which HMAC-SHA256"
        f" {cost['hmac_us']:.0f} us. CPU time is that of the whole process, user and system.\n"
    )
    return "\n".join([
        "# What one supervisor bears\n",
        machine.described(value["machine"]),
        LIMITS,
        f"## CPU time at one beat a second and agent, over {value['seconds']:g} s\n",
        machine.table(header, rows),
        sentence,
        "## From a node's last beat (interval 1 s, suspect_after 3 s)\n",
        machine.table(["agents", "losses", "suspected, median", "worst", "core's decision after that"], waits),
        on_paper(largest),
    ])  # fmt: skip


def on_paper(largest: dict[str, Any]) -> str:
    """What follows for sizes that no machine here can play: one beat's cost, and the arithmetic of the detector."""
    beat_s = largest["cpu_share"] / largest["beats_s"]
    rows = []
    for nodes in PAPER:
        settings = Settings(interval_s=1.0, nodes=nodes)
        rows.append([
            f"{nodes:,}", f"{nodes * beat_s:.0%}", f"{nodes * beat_s / BAR:.1f} s", f"{settings.threshold:.1f}",
            f"{settings.deviations:.1f}", f"{max(1, nodes // 20):,}",
        ])  # fmt: skip
    header = [
        "agents", "CPU at 1 Hz", f"interval that fits {BAR:.0%}", "phi", "deviations",
        "nodes lost in an incident before hard evidence is needed",
    ]  # fmt: skip
    text = (
        "A single supervisor answers every agent itself. Where one core is not enough the interval must grow as shown"
        " (`heartbeat.interval`, with `suspect_after` three times that or more), or a tree of agents must gather the"
        " beats, which does not exist yet. The threshold hardly grows: a node is waited for a little longer only"
        " where its beats come unevenly.\n"
    )
    return "\n".join(["## On paper, from the cost of a beat above\n", machine.table(header, rows), text])


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each size is watched (default 30)")
    parser.add_argument("--losses", type=int, default=5, help="nodes that fall silent at each size (default 5)")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of agents (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="16 agents, 2 seconds, one loss")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    args = parser.parse_args()
    sizes = [16] if args.quick else [int(word) for word in args.sizes.split(",")]
    seconds, losses = (2.0, 1) if args.quick else (args.seconds, args.losses)
    value = {
        "machine": machine.describe(""),
        "seconds": seconds,
        "supervisor": [measure("hub", nodes, seconds, losses) for nodes in sizes],
        "floor": [measure("echo", nodes, seconds, 0) for nodes in sizes],
        "codec": codec(1000 if args.quick else 20_000),
    }
    machine.write_json(args.out / "scale.json", value)
    (args.out / "scale.md").write_text(render(value), encoding="utf-8")
    print(render(value))
    return 0


if __name__ == "__main__":
    sys.exit(main())

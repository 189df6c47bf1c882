"""The claim: what it needs, and what keeps an agent from making it. Other agents are real servers on loopback."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ftslurm.errors import ServiceUnavailable
from ftslurm.journal import Lease
from ftslurm.paths import RunPaths
from ftslurm.runtime import successor, takeover
from ftslurm.runtime.control import Channel, Credentials, Server, serve
from ftslurm.runtime.takeover import Place, Standing, Takeover
from ftslurm.runtime.uplink import Uplink

WHO = Credentials(key=bytes(range(32)), run_id="run")
AFTER_S = 0.6
NODES = ("n1", "n2", "n3", "n4")
RUNNING = Standing(state="RUNNING", restart=0, nodes=NODES)


@dataclass
class Scene:
    """n2's agent, which has not heard the supervisor on n1 for long; `others` are the agents that answer."""

    paths: RunPaths
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    silent_s: float = 60.0
    node: str = "n2"
    slurm: Standing | None = RUNNING
    begun: list[successor.Legacy] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    when_asked: Callable[[Uplink], None] = lambda _: None
    uplink: Uplink | None = None
    said: str = ""
    epoch: int = 0

    def hears(self, node: str, ago_s: float, epoch: int = 1) -> None:
        """Let another agent answer."""
        message = {"t": "heard", "node": node, "ago_s": ago_s, "epoch": epoch, "host": "127.0.0.1", "port": 9}
        self.others[node] = message


@asynccontextmanager
async def _agents(scene: Scene) -> AsyncIterator[dict[str, tuple[str, int]]]:
    servers: list[Server] = []
    where = {}
    for node, answer in scene.others.items():

        async def talk(channel: Channel, answer: Mapping[str, Any] = answer) -> None:
            while (await channel.recv())["t"] == "heard?":
                assert scene.uplink is not None
                scene.when_asked(scene.uplink)
                channel.send(answer)

        server = await serve(("127.0.0.1", 0), WHO, epoch=1, on_channel=talk)
        servers.append(server)
        where[node] = ("127.0.0.1", server.port)
    yield where
    for server in servers:
        await server.close()


async def _until(done: Callable[[], bool]) -> None:
    while not done():  # noqa: ASYNC110 - the watch has nothing to wait for but its own words
        await asyncio.sleep(0.02)


async def _watch(scene: Scene) -> None:
    async with _agents(scene) as peers:
        uplink = Uplink(
            who=WHO,
            address=("127.0.0.1", 9),
            interval_s=0.5,
            deadman_s=10.0,
            hello=dict,
            on_message=lambda _: None,
            on_connected=lambda: None,
            on_alone=lambda: None,
            loop=asyncio.get_running_loop(),
            peers={"n1": ("127.0.0.1", 9), **peers},
            epoch=1,
        )
        uplink.heard = time.monotonic() - scene.silent_s
        scene.uplink = uplink
        place = Place(node=scene.node, job_id="7", requeue_id="7", restart=0, takeover_after_s=AFTER_S)
        legacy = successor.Legacy(node=scene.node, host="127.0.0.1", port=1, peers={})
        watch = Takeover(place, WHO, uplink, scene.paths, lambda: legacy)
        watching = asyncio.create_task(watch.run(scene.stale.append))
        await asyncio.wait(
            [watching, asyncio.create_task(_until(lambda: bool(scene.begun or watch.reason)))],
            timeout=4.0,
            return_when=asyncio.FIRST_COMPLETED,
        )
        watching.cancel()
        scene.said, scene.epoch = watch.reason, uplink.epoch


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scene]:
    """Set the scene, let the agent watch for a moment, and return what came of it."""

    class Recorded(successor.Successor):
        """One that is not started: what it is told is kept."""

        def start(self) -> None:
            """Start nothing."""

        def begin(self, legacy: successor.Legacy) -> None:
            """Keep it."""
            scenes[-1].begun.append(legacy)

    def ask(job_id: str) -> Standing:
        assert job_id == "7"
        standing = scenes[-1].slurm
        if standing is None:
            raise ServiceUnavailable("no slurmctld")
        return standing

    scenes: list[Scene] = []
    monkeypatch.setattr(takeover, "Successor", Recorded)
    monkeypatch.setattr(takeover, "ask_slurm", ask)
    monkeypatch.setattr(takeover, "ASK_S", 0.3)
    monkeypatch.setattr(takeover, "PAUSE_S", 0.3)
    monkeypatch.setattr(takeover, "TURN_S", 0.1)

    def run(set_up: Callable[[Scene], None], watch: Callable[[Scene], Awaitable[None]] = _watch) -> Scene:
        scene = Scene(RunPaths(tmp_path))
        Lease(scene.paths, {"job_id": "7", "restart": 0, "host": "n1", "pid": 1}).claim()
        set_up(scene)
        scenes.append(scene)
        asyncio.run(watch(scene))
        return scene

    return run


def all_silent(scene: Scene) -> None:
    """n3 and n4 have not heard the supervisor either."""
    scene.hears("n3", 60.0)
    scene.hears("n4", 60.0)


def test_everything_is_there_and_the_successor_begins(look: Callable[..., Scene]) -> None:
    """It is told whom it takes over from, and who answers."""
    (legacy,) = look(all_silent).begun
    assert (legacy.expected, legacy.before, legacy.reached) == (1, "n1", ("n2", "n3", "n4"))
    assert set(legacy.peers) == {"n1", "n2", "n3", "n4"}
    assert successor.Legacy.from_json(legacy.to_json()) == legacy


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda scene: scene.hears("n4", 0.1), "n4 has heard the supervisor"),
        (lambda scene: setattr(scene, "silent_s", 0.0) or scene.hears("n3", 0.0), "heard the supervisor"),
        (lambda scene: setattr(scene, "slurm", None), "Slurm does not say"),
        (lambda scene: setattr(scene, "slurm", Standing(state="PENDING", restart=0, nodes=())), "PENDING"),
        (lambda scene: scene.others.clear(), "only 1 of the job's 4 nodes answer"),
        (lambda scene: setattr(scene, "node", "n3") or scene.hears("n2", 60.0), "it is the turn of n2"),
    ],
)
def test_what_keeps_an_agent_from_a_claim(
    look: Callable[..., Scene], change: Callable[[Scene], object], reason: str
) -> None:
    """Each thing that is missing is enough, and is said."""

    def set_up(scene: Scene) -> None:
        all_silent(scene)
        change(scene)
        scene.others.pop(scene.node, None)

    scene = look(set_up)
    assert scene.begun == []
    assert scene.stale == []
    assert reason in scene.said


@pytest.mark.parametrize(
    "standing",
    [Standing(state="RUNNING", restart=1, nodes=NODES), Standing(state="RUNNING", restart=0, nodes=("n1", "n3", "n4"))],
)
def test_another_incarnation_ends_what_is_left_of_this_one(look: Callable[..., Scene], standing: Standing) -> None:
    """Slurm has started the job anew, or goes on without this node: nothing is claimed, and the ranks here end."""

    def set_up(scene: Scene) -> None:
        all_silent(scene)
        scene.slurm = standing

    scene = look(set_up)
    assert scene.begun == []
    assert len(scene.stale) == 1


def test_a_higher_epoch_is_followed(look: Callable[..., Scene]) -> None:
    """Somebody knows another supervisor: this agent goes there instead of claiming."""

    def set_up(scene: Scene) -> None:
        all_silent(scene)
        scene.hears("n4", 60.0, epoch=2)

    scene = look(set_up)
    assert scene.begun == []
    assert scene.epoch == 2


def test_peers_that_change_while_they_are_asked(look: Callable[..., Scene]) -> None:
    """A new supervisor tells its addresses in the middle of a look: those that were asked count, and the watch goes on."""

    def set_up(scene: Scene) -> None:
        all_silent(scene)
        scene.when_asked = lambda uplink: setattr(uplink, "peers", {**uplink.peers, "n9": ("127.0.0.1", 9)})

    (legacy,) = look(set_up).begun
    assert legacy.reached == ("n2", "n3", "n4")


def test_a_bug_does_not_end_the_watch(look: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has thought of is logged, and the agent looks again."""
    claim, calls = Takeover._claim, []

    async def fails_first(self: Takeover) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError
        await claim(self)

    monkeypatch.setattr(Takeover, "_claim", fails_first)
    assert look(all_silent).begun


def test_the_environment_is_the_job_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """What names a step, or the agent, is gone; what names the job stays."""
    inherited = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_STEPID": "0", "SLURM_NTASKS_PER_NODE": "1"}
    found = successor.environment({**inherited, "SLURM_STEP_ID": "0", "FTSLURM_AGENT": "{}", "HOME": "/root"})
    assert found == {"SLURM_JOB_ID": "7", "HOME": "/root", "FTSLURM_ROLE": "supervisor"}
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("other threads create files meanwhile"))
    assert 0 <= successor.own_umask() <= 0o777

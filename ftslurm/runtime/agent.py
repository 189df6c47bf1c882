"""The agent: one process a node, in a job step of its own.

It beats, watches the local ranks, fences, moves checkpoints.

It never decides: the supervisor tells it what to do, and it reports what it sees. Everything that can block (killing,
copying, digesting, shared storage) runs in threads; the event loop only passes messages, so that beats are on time. It
survives SIGTERM, which scancel, preemption and the time limit send to every step, and leaves when it is told to, when
the job ends, or when its run's supervisor has not come back for a long time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ftslurm.core.events import Event, NodeFenced, RestoreRefused
from ftslurm.core.records import from_record
from ftslurm.paths import PRIVATE_FILE, LocalPaths, RunPaths
from ftslurm.runtime import agentfile, attempt_env, container, fence, logs
from ftslurm.runtime.control import Channel, Credentials, serve
from ftslurm.runtime.keeper import Post
from ftslurm.runtime.keys import private_folder, read_key
from ftslurm.runtime.local_ring import LocalRing
from ftslurm.runtime.network import address_of, free_port
from ftslurm.runtime.nodeprobes import NodeProbes
from ftslurm.runtime.nodeprobes import Place as ProbePlace
from ftslurm.runtime.ranks import LocalRank, RankTable, is_alive
from ftslurm.runtime.scratch import scratch_of
from ftslurm.runtime.shipping import Shipper
from ftslurm.runtime.spawning import wait_in_one_thread_only
from ftslurm.runtime.spec import AgentSpec
from ftslurm.runtime.succession import send_tail
from ftslurm.runtime.successor import Legacy
from ftslurm.runtime.takeover import Place, Takeover
from ftslurm.runtime.uplink import REPLACED, Uplink
from ftslurm.runtime.vault import Vault
from ftslurm.runtime.vitals import Vitals

log = logging.getLogger(__name__)

GIVE_UP_S = 900.0
LEAVE_S = 60.0
FENCE_S = 12.0
VANISHED_S = 1.0
PEER_QUESTIONS = frozenset({"heard?", "tail?", "store?", "supervisor"})


class Agent:
    """One node's agent."""

    def __init__(self, spec: AgentSpec, node: str, loop: asyncio.AbstractEventLoop) -> None:
        self._spec = spec
        self._node = node
        self._loop = loop
        self._paths = RunPaths(Path(spec.run_dir))
        self._local = LocalPaths.of(spec.run_id)
        private_folder(self._local.root.parent)
        private_folder(self._local.root)
        self._who = Credentials(key=read_key(self._paths.key), run_id=spec.run_id)
        self._ports: set[int] = set()
        self._port = 0
        self._leaving = asyncio.Event()
        self._tidy = False
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="agent")
        self._tail = self._open_tail()
        self._shipper = Shipper(self._paths, self._local, self._tell_output)
        self._uplink = Uplink(
            who=self._who,
            address=(spec.host, spec.port),
            interval_s=spec.interval_s,
            deadman_s=spec.deadman_s,
            hello=self._hello,
            on_message=self._on_message,
            on_connected=self._on_connected,
            on_alone=self._on_alone,
            loop=loop,
            epoch=spec.epoch,
        )
        self._ring = LocalRing(self._uplink.say, lambda: self._uplink.anchor_s)
        self._uplink.ring_s = self._ring.word_s
        self._ranks = RankTable(node, self._uplink.report, self._announce, self._adopt)
        place = (node, self._paths, self._local)
        self._vitals = Vitals(place, spec.progress, self._ranks.of, self._uplink.say)
        self._vault = self._open_vault()
        self._saver = self._vault.keeper
        self._takeover = self._watch_for_silence()
        self._probes = self._own_probes()
        self._handlers = self._commands()

    def _commands(self) -> dict[str, Callable[[Mapping[str, Any]], None]]:
        """What the supervisor may say, and what follows."""
        return {
            "attempt": self._attempt,
            "go": self._go,
            "fence": self._fence,
            "autopsy": lambda message: self._later(self._vitals.autopsy, message),
            "journal": self._journal,
            "requeue": lambda message: self._later(self._requeue, message),
            "ring": self._ring.obey,
            "leave": self._leave,
            REPLACED: self._replaced,
            **self._vault.commands(self._later),
        }

    def _open_vault(self) -> Vault:
        post = Post(
            spec=self._spec,
            node=self._node,
            who=self._who,
            report=self._report,
            ranks=self._ranks.pids,
            peers=lambda: self._uplink.peers,
        )
        return Vault(post, self._ranks, lambda: self._uplink.epoch, self._local.root)

    def _own_probes(self) -> NodeProbes:
        scratch = scratch_of(self._spec.checkpoint.scratch, os.environ)
        place = ProbePlace(
            node=self._node,
            epoch=self._spec.epoch,
            paths=self._paths,
            scratch=scratch,
            attempt=lambda: self._ranks.live,
            steps=self._vitals.steps,
        )
        return NodeProbes(self._spec.probes, place, self._uplink.clock, self._uplink.report)

    def _watch_for_silence(self) -> Takeover:
        spec = self._spec
        place = Place(
            node=self._node,
            job_id=spec.job_id,
            requeue_id=spec.requeue_id,
            restart=spec.restart,
            takeover_after_s=spec.takeover_after_s,
        )
        return Takeover(place, self._who, self._uplink, self._paths, self._legacy)

    def _legacy(self) -> Legacy:
        host = address_of(self._spec.interface, self._spec.host)
        spec = self._spec
        return Legacy(node=self._node, host=host, port=self._port, output=spec.output, umask=spec.umask, peers={})

    # -------------------------------------------------------------------------------------------------- life

    async def run(self) -> None:
        """Serve until the run is over."""
        server = await serve(("", 0), self._who, epoch=self._spec.epoch, on_channel=self._on_channel)
        self._port = server.port
        file = self._local.agent_file(self._node)
        agentfile.write(file, port=self._port, epoch=self._spec.epoch, node=self._node, key=self._who.key.hex())
        self._shipper.start()
        self._vault.start()
        self._probes.start()
        self._vitals.start()
        tasks = [asyncio.create_task(self._uplink.run()), asyncio.create_task(self._watch_ranks())]
        if self._spec.job_id:
            tasks.append(asyncio.create_task(self._takeover.run(self._on_stale)))
        await self._leaving.wait()
        await self._settle()
        for task in tasks:
            task.cancel()
        await server.close()
        await self._takeover.over()
        agentfile.remove(file, self._port)
        if not any(self._local.root.iterdir()):
            self._local.root.rmdir()

    async def _settle(self) -> None:
        """Ship what is left and let the supervisor acknowledge what was reported."""
        deadline = time.monotonic() + LEAVE_S
        await self._loop.run_in_executor(None, self._probes.stop)
        shipped = await self._loop.run_in_executor(None, self._shipper.finish, LEAVE_S)
        await self._loop.run_in_executor(None, self._vault.stop, max(deadline - time.monotonic(), 0.0))
        if shipped and self._tidy:
            await self._loop.run_in_executor(None, self._remove_traces)
        await asyncio.sleep(0.05)

    def _remove_traces(self) -> None:
        """Leave nothing on the node: everything is on shared storage."""
        self._saver.remove_scratch()
        shutil.rmtree(self._local.root / "logs", ignore_errors=True)
        for path in (*self._local.root.glob("step-*.out"), self._local.journal_tail(self._node)):
            path.unlink(missing_ok=True)

    def _open_tail(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        return os.open(self._local.journal_tail(self._node), flags, PRIVATE_FILE)

    async def _watch_ranks(self) -> None:
        while True:
            await asyncio.sleep(VANISHED_S)
            self._ranks.find_vanished(is_alive)
            if time.monotonic() - self._uplink.heard > GIVE_UP_S and not self._ranks.running():
                log.error("the supervisor has not been heard for %.0f s and no rank is left: leaving", GIVE_UP_S)
                self._leaving.set()

    # ---------------------------------------------------------------------------------------------- channels

    async def _on_channel(self, channel: Channel) -> None:
        """A rank; a member of the ring; or another agent, or a new supervisor, with a question."""
        if channel.peer.hello.get("role") == "rank":
            await self._ranks.serve(channel)
            return
        if channel.peer.hello.get("role") == "ring":
            await self._ring.serve(channel)
            return
        while (kind := (message := await channel.recv()).get("t")) in PEER_QUESTIONS:
            if kind == "tail?":
                await send_tail(channel, self._local.journal_tail(self._node))
                continue
            if kind == "store?":
                channel.send({"t": "store", "port": self._vault.port})
                continue
            if kind == "supervisor":
                self._uplink.follow((str(message["host"]), int(message["port"])), int(message["epoch"]))
            channel.send(self._takeover.answer())

    def _on_stale(self, reason: str) -> None:
        """The job has gone on without this node: nothing of what runs here may write any more."""
        log.error("leaving: %s", reason)
        self._on_alone()
        self._leaving.set()

    def _hello(self) -> dict[str, Any]:
        return {
            "role": "agent",
            "node": self._node,
            "address": address_of(self._spec.interface, self._spec.host),
            "port": self._port,
            "pid": os.getpid(),
            "attempt": self._ranks.newest_attempt(),
            "epoch": self._uplink.epoch,
            "scratch": self._saver.has_scratch,
        }

    def _on_connected(self) -> None:
        self._ranks.announce_all()

    def _announce(self, row: LocalRank) -> None:
        """Tell the supervisor that a rank is there, with a port that is free here and now."""
        port = free_port(self._spec.ports, self._ports)
        self._uplink.say(
            {
                "t": "registered",
                "attempt": row.attempt,
                "rank": row.rank,
                "world": row.said.get("world"),
                "ranks": row.count,
                "state": row.said.get("state"),
                "port": port,
                "step": fence.environ_of(row.pid).get("SLURM_STEP_ID", ""),
            }
        )

    def _adopt(self, row: LocalRank) -> None:
        self._shipper.follow(row.attempt, row.rank, adopted=True)

    def _tell_output(self, attempt: int, rank: int, data: bytes) -> None:
        self._uplink.say({"t": "output", "attempt": attempt, "rank": rank, "text": data.decode("utf-8", "replace")})

    def _on_alone(self) -> None:
        attempt = self._ranks.newest_attempt()
        if attempt is not None:
            self._ranks.kill(attempt)
            self._later(lambda _: self._fence_alone(attempt), {"t": "alone"})

    def _fence_alone(self, attempt: int) -> None:
        done = fence.fence(self._spec.run_id, attempt, FENCE_S, groups=self._ranks.groups(attempt))
        about = logs.event("fence_alone", well=not done.left, attempt=attempt)
        log.error("cut off from the run: %d processes of attempt %d were killed", done.killed, attempt, extra=about)

    # ---------------------------------------------------------------------------------------------- commands

    def _on_message(self, message: Mapping[str, Any]) -> None:
        rule = self._handlers.get(str(message.get("t")))
        if rule is None:
            log.warning("the supervisor says %r, which this agent does not know", message.get("t"))
            return
        rule(message)

    def _later(self, work: Callable[[Mapping[str, Any]], None], message: Mapping[str, Any]) -> None:
        what = str(message.get("t"))
        self._threads.submit(work, message).add_done_callback(lambda done: logs.complain(log, done.exception(), what))

    def _attempt(self, message: Mapping[str, Any]) -> None:
        """A new attempt is coming: ports of older ones are not offered again, and its checkpoints are watched for."""
        self._ports.update(int(port) for port in message["avoid_ports"])
        self._ranks.live = int(message["attempt"])
        logs.of_attempt(self._ranks.live)
        self._vault.begin(message, self._later)

    def _go(self, message: Mapping[str, Any]) -> None:
        attempt = int(message["attempt"])
        common: dict[str, str] = {**message["common"], **self._vault.environment()}
        common |= self._vitals.environment(attempt, common)
        self._probes.ranks_begin()
        self._vault.expect(message, self._later)
        # An agent that was started again has not restored it itself; scratch has the same path on the other nodes.
        path = str(self._saver.restored_path(attempt) or message.get("checkpoint") or "")
        common |= (handed := self._saver.handed(path))

        def build(row: LocalRank) -> dict[str, Any]:
            environ = {**common, **message["ranks"][str(row.rank)]}
            asked = attempt_env.command(message["argv"], message["resume_args"], handed)
            argv = attempt_env.placed(asked, environ, starts_ranks=row.starts_ranks)
            go = {
                "t": "go",
                "env": environ,
                "argv": [argument.replace("{checkpoint_dir}", str(self._saver.folder)) for argument in argv],
                "log": str(self._shipper.follow(attempt, row.rank)),
                **{name: message[name] for name in ("unset", "setup", "modules")},
            }
            return container.boxed(go, message.get("container"), (self._saver.folder.parent, Path(path).parent))

        self._ranks.release(attempt, build)

    def _fence(self, message: Mapping[str, Any]) -> None:
        attempt = int(message["attempt"])
        self._ranks.kill(attempt)
        if not message["clean"]:
            self._probes.ask()
        self._later(lambda _: self._fence_now(attempt, clean=bool(message["clean"])), message)

    def _fence_now(self, attempt: int, *, clean: bool) -> None:
        done = fence.fence(self._spec.run_id, attempt, FENCE_S, groups=self._ranks.groups(attempt))
        self._saver.end(attempt, clean=clean)
        self._vitals.end(attempt)
        self._report(NodeFenced(node=self._node, attempt=attempt, killed=done.killed, left=done.left))
        if not clean:
            self._probes.ranks_gone()

    def _journal(self, message: Mapping[str, Any]) -> None:
        """Keep the journal's tail: a record is safe when a majority of the agents has it."""
        try:
            os.write(self._tail, (str(message["line"]) + "\n").encode())
        except OSError as error:  # the disk is full: then the record is not safe here, and nothing else follows
            log.error("the journal's tail cannot be written: %s", error)  # noqa: TRY400 - the reason is enough
            return
        self._uplink.say({"t": "journaled", "n": message["n"]})

    def _requeue(self, message: Mapping[str, Any]) -> None:
        """Give the job back to the queue: the supervisor may not live long enough to finish what it would begin."""
        from ftslurm.runtime.requeue import requeue
        from ftslurm.slurm.client import SlurmClient

        asked = from_record(message["action"])
        self._report(requeue(SlurmClient(), str(message["job"]), asked, any_size=bool(message["any_size"])))
        self._loop.call_soon_threadsafe(self._leaving.set)

    def _leave(self, message: Mapping[str, Any]) -> None:
        self._tidy = bool(message["tidy"])
        self._ring.leave()
        self._leaving.set()

    def _replaced(self, message: Mapping[str, Any]) -> None:
        del message
        log.error("leaving: another agent has taken this one's place")
        self._leaving.set()

    def _report(self, event: Event) -> None:
        if isinstance(event, RestoreRefused):
            about = logs.event("restore", well=False, attempt=event.attempt)
            log.error("checkpoint %s is refused: %s", event.generation, event.reason, extra=about)
        self._uplink.report(event)


def main() -> None:
    """Run an agent; its settings are in the environment of its job step."""
    wait_in_one_thread_only()
    spec = AgentSpec.from_json(os.environ["FTSLURM_AGENT"])
    node, paths = logs.own_node(), RunPaths(Path(spec.run_dir))
    logs.to_file(logs.Process(paths=paths, role="agent", job_id=spec.requeue_id or spec.job_id, node=node))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda received, _: log.info("signal %d: the agent stays", received))
    address_of(spec.interface, spec.host)  # what forbids it ends this agent, in words
    asyncio.run(_serve(spec, node))
    # Threads that hang in a system call on dead storage must not keep the node's step alive.
    logs.finish()
    os._exit(0)


async def _serve(spec: AgentSpec, node: str) -> None:
    await Agent(spec, node, asyncio.get_running_loop()).run()


if __name__ == "__main__":
    main()

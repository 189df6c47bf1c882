"""When an agent takes the supervision over, and how: the claim of design section 5, asked again each moment.

A claim needs all of this, in this order, each answered afresh:

1. Nothing was heard of the supervisor for `takeover_after`, and it does not answer a new connection either.
2. No agent that answers has heard it in that time, and at least half of the job's nodes answer. So the others are no
   majority, which a supervisor on their side would need; and of every journal entry that a majority has acknowledged
   one of those that answer has a copy. With exactly half the wait is half as long again: one lost packet must not do.
3. slurmctld says that the job runs, with the restart count of this agent, on a list of nodes that this one is in. An
   agent of an earlier incarnation (an administrator's requeue, while its node was cut off) kills its ranks and leaves.
4. It is this node's turn: the others that answer wait for it, each a little longer.
5. The next name of the lease, created with O_EXCL by the successor, which is a child of the agent (`runtime.serve`).

An agent that stood still itself begins anew: silence that nobody listened to proves nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ftslurm.errors import FtslurmError
from ftslurm.journal import Holder, holder
from ftslurm.paths import RunPaths
from ftslurm.runtime.control import Channel, Credentials, connect
from ftslurm.runtime.successor import Legacy, Successor
from ftslurm.runtime.uplink import HELLO_PEER, Uplink

log = logging.getLogger(__name__)

POLL_S = 0.5
ASK_S = 1.5
SLURM_S = 4.0
TURN_S = 1.5
PAUSE_S = 2.0
STOOD_STILL_S = 1.0
HALF_PATIENCE = 1.5
START_S = 15.0
RUNNING = "RUNNING"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What slurmctld says of the job."""

    state: str
    restart: int | None
    nodes: tuple[str, ...]
    end_time: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What another agent says: how long ago it heard a supervisor, the highest epoch that it knows, and where."""

    node: str
    ago_s: float
    epoch: int
    address: tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Who this agent is: its node, the incarnation that it belongs to, and how patient it is."""

    node: str
    job_id: str
    requeue_id: str
    restart: int
    takeover_after_s: float


class Stale(FtslurmError):
    """This agent belongs to an incarnation of the job that is over."""


class NotNow(FtslurmError):
    """No claim is made now; the message says why. `pause_s`: when to look again."""

    def __init__(self, message: str, *, pause_s: float = PAUSE_S) -> None:
        super().__init__(message)
        self.pause_s = pause_s


class Takeover:
    """Watches for the supervisor's silence, in the agent's event loop."""

    def __init__(
        self,
        place: Place,
        who: Credentials,
        uplink: Uplink,
        paths: RunPaths,
        legacy: Callable[[], Legacy],
    ) -> None:
        """`legacy` tells what a successor inherits from this agent; `reason` is why there was no takeover last."""
        self._place = place
        self._who = who
        self._uplink = uplink
        self._paths = paths
        self._legacy = legacy
        self._quiet_since = time.monotonic()
        self._lease_seen: tuple[int, float] = (-1, 0.0)
        self.reason = ""
        self._waiting: Successor | None = None
        self.successor: Successor | None = None

    async def run(self, on_stale: Callable[[str], None]) -> None:
        """Watch until cancelled, or until this incarnation turns out to be over."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(POLL_S)
            if time.monotonic() - before > POLL_S + STOOD_STILL_S:
                self._quiet_since = time.monotonic()
            if self._silent_s() < self._place.takeover_after_s - ASK_S or self._starting():
                self._dismiss()
                continue
            try:
                await self._claim()
            except Stale as error:
                on_stale(str(error))
                return
            except NotNow as error:
                self._tell(str(error))
                await asyncio.sleep(error.pause_s)
            except Exception:
                # Our bug. Without this watch the run would have no successor, and nobody would know.
                log.exception("the watch for the supervisor's silence failed; it goes on")
                await asyncio.sleep(PAUSE_S)
            finally:
                self._dismiss()

    async def over(self) -> None:
        """Wait for a successor of this agent's own: it would end with the agent."""
        if self._waiting is not None:
            self._waiting.kill()
        if self.successor is not None:
            await self.successor.over()

    def answer(self) -> dict[str, Any]:
        """What another agent is told that asks for the supervisor."""
        host, port = self._uplink.address
        ago_s = 0.0 if self._starting() else self._uplink.silent_s
        return {
            "t": "heard",
            "node": self._place.node,
            "ago_s": ago_s,
            "epoch": self._uplink.epoch,
            "host": host,
            "port": port,
        }

    def _silent_s(self) -> float:
        return min(self._uplink.silent_s, time.monotonic() - self._quiet_since)

    def _starting(self) -> bool:
        """Whether a successor of this agent's own is about to be heard."""
        return self.successor is not None and self.successor.alive and self.successor.age_s < START_S

    def _tell(self, reason: str) -> None:
        if reason != self.reason:
            log.info("no takeover: %s", reason)
        self.reason = reason

    # ---------------------------------------------------------------------------------------------- the claim

    async def _claim(self) -> None:
        """Go through all that a claim needs; return when a successor was told to begin.

        Raises:
            NotNow: something is missing. Stale: this incarnation is over.
        """
        self._prepare()
        slurm = asyncio.create_task(self._standing())
        try:
            there = await self._who_answers()
            standing = await slurm
        finally:
            slurm.cancel()
        self._check_incarnation(standing)
        reached = self._check_quorum(there, standing)
        turn = reached.index(self._place.node)
        if turn:
            await asyncio.sleep(turn * TURN_S)
            raise NotNow(f"it is the turn of {reached[0]}", pause_s=0.0)
        half = 2 * len(reached) == len(standing.nodes)
        expected = await self._lease()
        asked = await self._all_silent(there, self._place.takeover_after_s * (HALF_PATIENCE if half else 1.0))
        if time.monotonic() - asked > ASK_S + STOOD_STILL_S:
            raise NotNow("this agent stood still while it asked")
        await self._begin(expected, standing, reached)

    async def _begin(self, expected: Holder, standing: Standing, reached: list[str]) -> None:
        """Tell the successor that was started beforehand to claim the lease."""
        reason = (
            f"nothing was heard of it for {self._silent_s():.1f} s, {len(reached)} of {len(standing.nodes)} nodes"
            f" answer and none of them hears it, and Slurm says that job {self._place.job_id} runs"
        )
        log.warning("taking the supervision over from epoch %d: %s", expected.epoch, reason)
        own = self._legacy()
        legacy = replace(
            own,
            expected=expected.epoch,
            before=expected.host,
            reason=reason,
            end_time=standing.end_time,
            reached=tuple(reached),
            peers={**self._uplink.peers, own.node: (own.host, own.port)},
        )
        if self.successor is not None:
            self.successor.kill()
        self._prepare(own)
        self.successor, self._waiting = self._waiting, None
        if self.successor is not None:
            await asyncio.to_thread(self.successor.begin, legacy)

    def _prepare(self, legacy: Legacy | None = None) -> None:
        """Start the successor beforehand where it is likely to be needed: it takes a second to be there."""
        hosts = {node: host for node, (host, _) in self._uplink.peers.items()}
        others = sorted(node for node, host in hosts.items() if host != self._uplink.address[0])
        likely = not others or self._place.node < others[0]
        if self._waiting is None and (legacy is not None or likely):
            self._waiting = Successor(legacy or self._legacy(), self._paths.root)
            self._waiting.start()

    def _dismiss(self) -> None:
        """Let a successor go that was started for nothing."""
        if self._waiting is not None and self._silent_s() < self._place.takeover_after_s - ASK_S:
            self._waiting.kill()
            self._waiting = None

    async def _who_answers(self) -> dict[str, tuple[str, int]]:
        """Ask everybody at once, the supervisor itself included; return the agents that answer, with their addresses.

        Raises:
            NotNow: the supervisor answers, or somebody knows of another one.
        """
        addresses = tuple(self._uplink.peers.values())  # while they are asked, a new supervisor may tell others
        asked = [self._ask(address) for address in addresses]
        lives, answers = await asyncio.gather(self._lives(), asyncio.gather(*asked))
        if lives:
            raise NotNow("the supervisor takes new connections")
        self._check_epochs(answers)
        pairs = zip(addresses, answers, strict=True)
        return {answer.node: address for address, answer in pairs if answer is not None}

    def _check_epochs(self, answers: Iterable[Answer | None]) -> None:
        """Follow a higher epoch that somebody knows. Raises NotNow then."""
        for answer in answers:
            if answer is not None and answer.epoch > self._uplink.epoch:
                self._uplink.follow(answer.address, answer.epoch)
                raise NotNow(f"{answer.node} knows a supervisor of epoch {answer.epoch}")

    async def _all_silent(self, there: Mapping[str, tuple[str, int]], patience_s: float) -> float:
        """Wait until nobody has heard the supervisor for so long; return when they were asked.

        Raises:
            NotNow: somebody hears it, or one of them has fallen silent itself.
        """
        missing_s = patience_s - self._silent_s()
        while True:
            await asyncio.sleep(max(missing_s, 0.0))
            asked = time.monotonic()
            answers = await asyncio.gather(*(self._ask(address) for address in there.values()))
            self._check_epochs(answers)
            if None in answers or time.monotonic() - asked > 2 * ASK_S:
                raise NotNow("not all of those that answered do so again", pause_s=POLL_S)
            youngest_s = min([self._silent_s(), *(each.ago_s for each in answers if each is not None)])
            if youngest_s >= patience_s:
                return asked
            if youngest_s < patience_s - ASK_S:
                hearing = next((each.node for each in answers if each and each.ago_s == youngest_s), self._place.node)
                raise NotNow(f"{hearing} has heard the supervisor")
            missing_s = patience_s - youngest_s + 0.02

    async def _lives(self) -> bool:
        """Whether the supervisor's own process answers: the kernel alone would accept a connection."""
        channel = await self._connect(self._uplink.address)
        if channel is not None:
            await channel.close()
        return channel is not None

    async def _ask(self, address: tuple[str, int]) -> Answer | None:
        channel = await self._connect(address)
        if channel is None:
            return None
        try:
            async with asyncio.timeout(ASK_S):
                channel.send({"t": "heard?"})
                return _answer(await channel.recv())
        except (FtslurmError, TimeoutError, KeyError, ValueError, TypeError):
            return None
        finally:
            await channel.close()

    async def _connect(self, address: tuple[str, int]) -> Channel | None:
        try:
            async with asyncio.timeout(ASK_S):
                return await connect(address, self._who, HELLO_PEER)
        except (FtslurmError, TimeoutError):
            return None

    async def _standing(self) -> Standing:
        """Slurm's fresh word. Raises NotNow where there is none."""
        try:
            async with asyncio.timeout(SLURM_S + 1.0):
                return await asyncio.to_thread(ask_slurm, self._place.job_id)
        except (FtslurmError, TimeoutError) as error:
            raise NotNow(f"Slurm does not say how the job is: {error}") from error

    def _check_incarnation(self, standing: Standing) -> None:
        """Raise Stale where Slurm has started the job anew, ended it, or taken this node out of it."""
        if standing.restart is not None and standing.restart != self._place.restart:
            raise Stale(f"Slurm has started the job anew: restart {standing.restart}, not {self._place.restart}")
        if standing.state != RUNNING:
            raise NotNow(f"Slurm says that the job is {standing.state}")
        if self._place.node not in standing.nodes:
            raise Stale(f"Slurm has taken {self._place.node} out of the job")

    def _check_quorum(self, there: Collection[str], standing: Standing) -> list[str]:
        """Return the nodes that answer, this one included, in Slurm's order. Raises NotNow: too few."""
        reached = [node for node in standing.nodes if node == self._place.node or node in there]
        whole = len(standing.nodes)
        if 2 * len(reached) < whole:
            raise NotNow(f"only {len(reached)} of the job's {whole} nodes answer")
        return reached

    async def _lease(self) -> Holder:
        """Return who holds the lease; a holder that nobody here has heard yet gets its time to be heard."""
        try:
            async with asyncio.timeout(SLURM_S):
                found = await asyncio.to_thread(holder, self._paths)
        except (FtslurmError, TimeoutError) as error:
            raise NotNow(f"the lease cannot be read: {error}") from error
        if found is None:
            raise NotNow("nobody has ever held the lease")
        if found.job_id != self._place.requeue_id or found.restart > self._place.restart:
            raise Stale(f"the lease belongs to job {found.job_id}, restart {found.restart}")
        if found.epoch < self._uplink.epoch:
            raise NotNow(f"shared storage shows an old lease, of epoch {found.epoch}, here")
        epoch, since = self._lease_seen
        if epoch != found.epoch:
            self._lease_seen = epoch, since = found.epoch, time.monotonic()
        if found.epoch > self._uplink.epoch and time.monotonic() - since < self._place.takeover_after_s:
            raise NotNow(f"epoch {found.epoch} holds the lease and may still be heard", pause_s=POLL_S)
        return found


def ask_slurm(job_id: str) -> Standing:
    """Ask slurmctld for the job. Raises ServiceUnavailable."""
    from ftslurm.errors import ServiceUnavailable
    from ftslurm.slurm.client import SlurmClient
    from ftslurm.slurm.records import Source

    info = SlurmClient(timeout_s=SLURM_S).job(job_id)
    if info.source is not Source.CONTROLLER:
        raise ServiceUnavailable("slurmctld does not know the job")
    return Standing(state=info.state, restart=info.restart_count, nodes=info.nodes, end_time=info.end_time)


def _answer(message: Mapping[str, Any]) -> Answer:
    return Answer(
        node=str(message["node"]),
        ago_s=float(message["ago_s"]),
        epoch=int(message["epoch"]),
        address=(str(message["host"]), int(message["port"])),
    )

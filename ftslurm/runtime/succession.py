"""What a supervisor does that has taken over: reads the agents' journals, tells them where it is, ends the job.

After a takeover there is no script that could return. So the run's end is a requeue with one task on one node: the new
script sees that the run is finished and returns its exit code, so that Slurm records what is true and `afterok` holds.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ftslurm.core.actions import EndRun, Requeue
from ftslurm.core.events import ENDED
from ftslurm.errors import FtslurmError
from ftslurm.paths import PRIVATE_FILE
from ftslurm.runtime.control import Channel, Credentials, connect
from ftslurm.runtime.uplink import HELLO_PEER
from ftslurm.slurm.client import SlurmClient
from ftslurm.slurm.records import JobState

log = logging.getLogger(__name__)

Address = tuple[str, int]

TAILS_S = 2.0
ANNOUNCE_S = 1.0
ANSWER_S = 1.5
CHUNK = 2**20
PARENT_S = 4.0
CANCEL = "cancel"


# ----------------------------------------------------------------------------------------------------------- journals


async def send_tail(channel: Channel, path: Path) -> None:
    """Send an agent's copy of the journal, whole lines only, in pieces that fit into a frame."""
    data = await asyncio.to_thread(path.read_bytes)
    whole = data[: data.rfind(b"\n") + 1]
    while whole:
        cut = whole.rfind(b"\n", 0, CHUNK) + 1 or len(whole)
        channel.send({"t": "tail", "lines": whole[:cut].decode("utf-8", "replace")})
        whole = whole[cut:]
    channel.send({"t": "end"})


def collect_tails(who: Credentials, peers: Mapping[str, Address], folder: Path) -> list[Path]:
    """Ask every agent for its copy of the journal; return where the copies of those lie that answered in time."""
    return asyncio.run(_collect(who, peers, folder))


async def _collect(who: Credentials, peers: Mapping[str, Address], folder: Path) -> list[Path]:
    texts = await asyncio.gather(*(_tail_of(who, address) for address in peers.values()))
    found = []
    for node, text in zip(peers, texts, strict=True):
        if text:
            path = folder / f"journal-of-{node}.jsonl"
            path.write_text(text, encoding="utf-8")
            path.chmod(PRIVATE_FILE)
            found.append(path)
    log.info("%d of %d agents gave their copy of the journal", len(found), len(peers))
    return found


async def _tail_of(who: Credentials, address: Address) -> str:
    lines: list[str] = []
    try:
        async with asyncio.timeout(TAILS_S):
            channel = await connect(address, who, HELLO_PEER)
            try:
                channel.send({"t": "tail?"})
                while (message := await channel.recv()).get("t") == "tail":
                    lines.append(str(message["lines"]))
            finally:
                await channel.close()
    except (FtslurmError, TimeoutError) as error:
        log.info("no journal from %s:%d: %s", *address, error)
    return "".join(lines)


# --------------------------------------------------------------------------------------------------------- announcing


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcer:
    """Tells agents that are not connected where the supervisor is; for ever, because a cut node may come back."""

    who: Credentials
    peers: Mapping[str, Address]
    here: Address
    epoch: int
    connected: Callable[[], tuple[str, ...]]

    def start(self) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=lambda: asyncio.run(self._run()), name="announce", daemon=True).start()

    async def _run(self) -> None:
        while True:
            there = self.connected()
            await asyncio.gather(*(self._tell(where) for node, where in self.peers.items() if node not in there))
            await asyncio.sleep(ANNOUNCE_S)

    async def _tell(self, address: Address) -> None:
        host, port = self.here
        with suppress(FtslurmError, TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                channel = await connect(address, self.who, HELLO_PEER)
                try:
                    channel.send({"t": "supervisor", "host": host, "port": port, "epoch": self.epoch})
                    await channel.recv()
                finally:
                    await channel.close()


# ---------------------------------------------------------------------------------------------------------------- end


def watch_the_clock(end_time: float, lead_s: float, emit: Callable[[], None]) -> None:
    """Call `emit` when the last save has to begin: the warning of `--signal=B:` goes to the lost host."""

    def wait() -> None:
        time.sleep(max(end_time - lead_s - time.time(), 0.0))
        emit()

    threading.Thread(target=wait, name="time limit", daemon=True).start()


def end_job(job_id: str, end: EndRun, how: str) -> None:
    """End the job of a run that has ended, or goes on in another job, from a host where its script is not.

    A parent that still lives on the batch host returns by itself when the journal says that the run has ended: it is
    given a moment, because a job whose script returns has its end at once.
    """
    slurm = SlurmClient()
    if not _still_runs(slurm, job_id):
        return
    if end.phase not in ENDED:
        _say("the job is cancelled: the run goes on in another one")
        _cancel(slurm, job_id)
        return
    if how == CANCEL:
        _say("the job is cancelled, as recovery.on_finish_after_takeover says")
        _cancel(slurm, job_id)
        return
    from ftslurm.runtime.requeue import requeue

    asked = Requeue(num_nodes=1, num_tasks=1, exclude=(), reason=f"the run has ended: {end.reason}")
    done = requeue(slurm, job_id, asked, any_size=False)
    if done.ok:
        _say(f"the job goes through the queue once more, so that its script can return {end.code}: {done.detail}")
        return
    _say(f"Slurm refused the requeue ({done.detail}): the job is cancelled, although the run is {end.phase}")
    _cancel(slurm, job_id)


def _say(text: str) -> None:
    print(f"[ftslurm] {text}", flush=True)  # noqa: T201 - the job's own output, after the supervisor's voice has closed


def _still_runs(slurm: SlurmClient, job_id: str) -> bool:
    deadline = time.monotonic() + PARENT_S
    while time.monotonic() < deadline:
        try:
            if slurm.job(job_id).state is not JobState.RUNNING:
                return False
        except FtslurmError as error:
            log.warning("Slurm does not say whether the job still runs: %s", error)
        time.sleep(0.5)
    return True


def _cancel(slurm: SlurmClient, job_id: str) -> None:
    try:
        slurm.cancel(job_id)
    except FtslurmError as error:
        _say(f"the job cannot be cancelled: {error}; it ends at its time limit")

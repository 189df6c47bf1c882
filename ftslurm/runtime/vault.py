"""All of an agent's dealings with checkpoints in one place: its keeper, what it gives to others, its ranks' requests.

The agent's event loop calls `obey` with what the supervisor says; whatever blocks is done in the agent's threads, and
reported as events.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ftslurm.core.actions import Pair, Replicate, Restore
from ftslurm.core.records import from_record
from ftslurm.paths import PRIVATE_FILE
from ftslurm.runtime import attempt_env
from ftslurm.runtime.errands import Errands
from ftslurm.runtime.inplace import InPlace
from ftslurm.runtime.keeper import Keeper, Post
from ftslurm.runtime.libsaver import LibSaver
from ftslurm.runtime.ranks import RankTable
from ftslurm.runtime.saver import Saver

log = logging.getLogger(__name__)

Message = Mapping[str, Any]
Later = Callable[[Callable[[Message], None], Message], None]


class Vault:
    """The checkpoints of one node, as its agent knows them."""

    def __init__(self, post: Post, ranks: RankTable, epoch: Callable[[], int], folder: Path) -> None:
        """`folder` is private to this user: the socket for the ranks lies there."""
        from ftslurm.runtime.storesocket import StoreSocket
        from ftslurm.runtime.transfer import StoreServer

        self._post, self._ranks = post, ranks
        library = LibSaver(post) if post.spec.checkpoint.in_library else None
        self._in_place = InPlace(post) if post.spec.checkpoint.in_place else None
        self.keeper: Keeper = library or self._in_place or Saver(post)
        self._library = library
        self._errands = Errands(self._copy)
        self._turns: queue.SimpleQueue[tuple[Callable[[Message], None], Message]] = queue.SimpleQueue()
        self._turn = threading.Lock()
        self._cleaning = threading.Lock()
        self._server = StoreServer(post.who, epoch, self.keeper.tree)
        self._socket: StoreSocket | None = None
        if library is not None:
            self._socket = StoreSocket(folder / f"store-{post.node}.sock", library.fetch, library.told)

    @property
    def port(self) -> int:
        """Where other agents get the parts that this node has."""
        return self._server.port

    def start(self) -> None:
        """Begin to watch and to serve."""
        self.keeper.start()
        self._server.start()
        if self._socket is not None:
            self._socket.start()

    def stop(self, timeout_s: float) -> None:
        """Stop watching, moving and serving."""
        self.keeper.stop(timeout_s)
        self._server.stop()
        if self._socket is not None:
            self._socket.stop()

    def environment(self) -> dict[str, str]:
        """What the ranks are told."""
        common = {attempt_env.CHECKPOINT_DIR: str(self.keeper.folder)}
        if self._socket is not None:
            common[attempt_env.STORE_SOCKET] = str(self._socket.path)
        return common

    def commands(self, later: Later) -> dict[str, Callable[[Message], None]]:
        """What the supervisor may say about checkpoints; `later` runs what blocks."""
        return {
            "save": lambda message: self._save(message, later),
            "restore": lambda message: self._settled(later, self._restore, message),
            "drain": lambda message: later(self._drain, message),
            "replicate": self._replicate,
            "clean": lambda message: later(self._clean, message),
            "local": lambda message: later(self.keeper.record_local, message),
        }

    def begin(self, message: Message, later: Later) -> None:
        """Watch for the checkpoints of the attempt that is announced."""
        self.keeper.settle()
        self._in_turn(later, lambda told: self.keeper.begin(int(told["attempt"]), int(told["world"])), message)

    def expect(self, message: Message, later: Later) -> None:
        """The ranks that run here begin."""
        ranks = frozenset(int(rank) for rank in message["ranks"])
        self._in_turn(later, lambda told: self.keeper.expect(int(told["attempt"]), ranks), message)

    def _in_turn(self, later: Later, work: Callable[[Message], None], message: Message) -> None:
        """In the order of the messages, whichever thread is the first: the newest attempt must have the last word."""
        self._turns.put((work, message))
        later(lambda _: self._take_turn(), message)

    def _take_turn(self) -> None:
        with self._turn:
            work, message = self._turns.get_nowait()
            work(message)

    def _settled(self, later: Later, work: Callable[[Message], None], message: Message) -> None:
        """What follows must know at once whether there is scratch: the ranks are told soon where they may write."""
        self.keeper.settle()
        later(work, message)

    def _save(self, message: Message, later: Later) -> None:
        if self._library is not None:
            later(self._library.order, message)
            return
        kind, _, value = str(message["save_on"]).partition(":")
        if kind == "signal":
            self._ranks.signal(int(message["attempt"]), getattr(signal, f"SIG{value.removeprefix('SIG')}"))
        elif kind == "file":
            later(lambda _: Path(value).touch(mode=PRIVATE_FILE), message)

    def _restore(self, message: Message) -> None:
        asked: Restore = from_record(message["action"])
        if self._in_place is not None:
            among = tuple(str(node) for node in message["among"])
            self._post.report(self._in_place.restore(asked.wanted, asked.generation, asked.attempt, among))
            return
        self._post.report(self.keeper.restore(asked.wanted, asked.generation, asked.attempt))

    def _drain(self, message: Message) -> None:
        if self._in_place is not None:
            self._post.report(self._in_place.digest(message))
            return
        generation, owner, base = (str(message[name]) for name in ("generation", "owner", "base"))
        self._post.report(self.keeper.drain(generation, owner, base))

    def _replicate(self, message: Message) -> None:
        asked: Replicate = from_record(message["action"])
        for pair in asked.pairs:
            if pair.holder == self._post.node:
                self._errands.ask(asked.generation, pair)

    def _copy(self, generation: str, pair: Pair) -> None:
        self._post.report(self.keeper.replicate(generation, pair))

    def _clean(self, message: Message) -> None:
        # The next order may come before this one is done: two would delete the same files.
        with self._cleaning:
            self.keeper.clean(str(message["watermark"]), tuple(str(name) for name in message["keep"]))

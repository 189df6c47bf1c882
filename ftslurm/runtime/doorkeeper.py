"""Lets connections in, so many at a time, each with a thread of its own."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

ACCEPT_S = 0.5


class Doorkeeper:
    """Accepts at one listening socket, in a thread, until it is stopped.

    Whoever comes while `most` are inside is turned away. `serve` is called with the connection, in a thread of its
    own, and has to bound its own waits.
    """

    def __init__(
        self, listener: socket.socket, serve: Callable[[socket.socket], None], *, name: str, most: int
    ) -> None:
        self._listener, self._serve, self._name = listener, serve, name
        self._free = threading.Semaphore(most)
        self._stop = threading.Event()
        listener.settimeout(ACCEPT_S)
        self._thread = threading.Thread(target=self._accept, name=name, daemon=True)

    @property
    def closing(self) -> bool:
        """Whether those that are inside should come to an end."""
        return self._stop.is_set()

    def start(self) -> None:
        """Begin to let in."""
        self._thread.start()

    def stop(self) -> None:
        """Let nobody in any more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2 * ACCEPT_S)
        self._listener.close()

    def _accept(self) -> None:
        while not self.closing:
            try:
                link, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                log.warning("%s: nobody can be let in: %s", self._name, error)
                self._stop.wait(ACCEPT_S)
                continue
            if self._free.acquire(blocking=False):
                threading.Thread(target=self._inside, args=(link,), name=self._name, daemon=True).start()
            else:
                log.warning("%s: one more is turned away, too many are inside", self._name)
                link.close()

    def _inside(self, link: socket.socket) -> None:
        try:
            with link:
                self._serve(link)
        finally:
            self._free.release()

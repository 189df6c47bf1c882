"""The other side of `checkpoint.handover`: an agent that gives the answers that it was told to give."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from ftslurm.checkpoint.handover import Request, address_of


class FakeAgent:
    """Answers each connection's request with the next of its answers; `asked` are the requests so far."""

    def __init__(self, path: Path, *answers: bytes) -> None:
        self.asked: list[Request] = []
        self._listener = socket.socket(socket.AF_UNIX)
        with address_of(path) as address:
            self._listener.bind(address)
        self._listener.listen()
        self._listener.settimeout(20)
        self._thread = threading.Thread(target=self._serve, args=(answers,))
        self._thread.start()

    def _serve(self, answers: tuple[bytes, ...]) -> None:
        for answer in answers:
            link, _ = self._listener.accept()
            with link, link.makefile("rb") as file:
                self.asked.append(Request.from_bytes(file.readline()))
                for piece in answer.splitlines(keepends=True):
                    link.sendall(piece[:1])
                    link.sendall(piece[1:])

    def close(self) -> None:
        """Nothing is left."""
        self._thread.join(20)
        self._listener.close()

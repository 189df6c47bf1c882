"""The agent's unix socket for its own ranks: files of a restored generation on request, and what could not be loaded.

The lines are those of `checkpoint.handover`. The socket lies in a folder of this user alone, so whoever connects is a
rank of this run, or the user. Each request has a thread of its own, because a fetch may take minutes; meanwhile the
rank is told that somebody is still at it.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from ftslurm.checkpoint.handover import LINE_BYTES, TOLD, WAIT, Fetched, Op, Request, address_of, failure_line
from ftslurm.errors import DataDamaged, FtslurmError
from ftslurm.runtime.doorkeeper import Doorkeeper

log = logging.getLogger(__name__)

REQUEST_S = 10.0
WAIT_S = 5.0
MOST = 256


class StoreSocket:
    """Answers the ranks. `fetch` and `tell` are the agent's; both may block."""

    def __init__(
        self, path: Path, fetch: Callable[[str, str], tuple[Path, str]], tell: Callable[[Op, str, str], None]
    ) -> None:
        self.path, self._fetch, self._tell = path, fetch, tell
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with address_of(path) as address:
            listener.bind(address)
        listener.listen(MOST)
        self._door = Doorkeeper(listener, self._serve, name="ranks' store", most=MOST)

    def start(self) -> None:
        """Begin to listen."""
        self._door.start()

    def stop(self) -> None:
        """Listen no more."""
        self._door.stop()
        self.path.unlink(missing_ok=True)

    def _serve(self, link: socket.socket) -> None:
        try:
            link.settimeout(REQUEST_S)
            request = Request.from_bytes(_line(link))
            link.sendall(self._answer(link, request))
        except (OSError, FtslurmError) as error:
            log.warning("a rank's request came to nothing: %s", error)

    def _answer(self, link: socket.socket, request: Request) -> bytes:
        if request.op is not Op.FETCH:
            self._tell(request.op, request.generation, request.reason)
            return TOLD
        found: list[bytes] = []
        work = threading.Thread(target=lambda: found.append(self._fetched(request)), name="fetch", daemon=True)
        work.start()
        while work.is_alive():
            work.join(WAIT_S)
            if work.is_alive():
                link.sendall(WAIT)
        return found[0] if found else failure_line("the agent failed; its log says why", damaged=False)

    def _fetched(self, request: Request) -> bytes:
        try:
            path, source = self._fetch(request.generation, request.name)
        except FtslurmError as error:
            return failure_line(str(error), damaged=isinstance(error, DataDamaged))
        except OSError as error:
            return failure_line(f"{error.strerror}: {error.filename}", damaged=False)
        return Fetched(path, source).to_bytes()


def _line(link: socket.socket) -> bytes:
    """One line; raises OSError for none in time, or one without end."""
    pending = b""
    while not pending.endswith(b"\n"):
        received = link.recv(LINE_BYTES)
        if not received or len(pending) > LINE_BYTES:
            raise ConnectionResetError("no request came")
        pending += received
    return pending

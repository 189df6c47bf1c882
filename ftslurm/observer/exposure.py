"""Where the metrics of a run are to be had while it is alive: in a file, or by HTTP on this host. Gone when it ends."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.metrics_core import Metric

from ftslurm.paths import PRIVATE_FILE, RunPaths

LOOPBACK = "127.0.0.1"
READABLE = 0o644

Collect = Callable[[], Iterable[Metric]]


class Exposure(Protocol):
    """A way to give metrics."""

    def refresh(self) -> None:
        """There may be something new."""

    def remove(self) -> None:
        """The run has ended: no series of it may stay."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file that others read: in the run's folder it is the user's, in a folder for all runs anybody's to read."""

    path: Path
    mode: int

    def write(self, data: bytes) -> None:
        """Replace the file as a whole; no reader sees a part of it, and no name is followed.

        Raises:
            OSError: the folder does not take it.
        """
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, self.mode)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), self.mode)
                file.write(data)
            part.replace(self.path)
        except OSError:
            with suppress(OSError):
                part.unlink()
            raise

    def remove(self) -> None:
        """Remove it, if it is there."""
        self.path.unlink(missing_ok=True)


def textfile_of(paths: RunPaths, folder: str | None) -> Place:
    """The file for node_exporter's textfile collector."""
    return (
        Place(Path(folder) / f"ftslurm-{paths.run_id}.prom", READABLE) if folder else Place(paths.metrics, PRIVATE_FILE)
    )


def discovery_of(paths: RunPaths, folder: str | None) -> Place:
    """The file for Prometheus' file_sd."""
    if folder:
        return Place(Path(folder) / f"ftslurm-{paths.run_id}.json", READABLE)
    return Place(paths.metrics_address, PRIVATE_FILE)


class _Collector:
    def __init__(self, collect: Collect) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()


def _registry(collect: Collect) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(collect))
    return registry


class Textfile:
    """Writes them into a file."""

    def __init__(self, place: Place, collect: Collect) -> None:
        self._place, self._registry = place, _registry(collect)

    def refresh(self) -> None:
        """Write the file anew."""
        self._place.write(generate_latest(self._registry))

    def remove(self) -> None:
        """Remove the file."""
        self._place.remove()


class Http:
    """Answers on a port of the loopback address, and says in a file which one it is."""

    def __init__(self, discovery: Place, run: str, collect: Collect) -> None:
        self._discovery = discovery
        self._server, _ = start_http_server(0, LOOPBACK, _registry(collect))
        self.port = int(self._server.server_port)
        targets: list[dict[str, Any]] = [{"targets": [f"{LOOPBACK}:{self.port}"], "labels": {"ftslurm_run": run}}]
        self._data = json.dumps(targets).encode()
        self._told = False

    def refresh(self) -> None:
        """Say where it is, once; whoever asks gets what is new."""
        if not self._told:
            self._discovery.write(self._data)
            self._told = True

    def remove(self) -> None:
        """Take the address away and stop."""
        self._discovery.remove()
        self._server.shutdown()
        self._server.server_close()


def exposure_of(kind: str, paths: RunPaths, folder: str | None, collect: Collect) -> Exposure | None:
    """Return the way that the configuration asks for; None for none.

    Raises:
        OSError: there is no port.
    """
    if kind == "textfile":
        return Textfile(textfile_of(paths, folder), collect)
    return Http(discovery_of(paths, folder), paths.run_id, collect) if kind == "http" else None

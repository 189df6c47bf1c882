"""Keys of a lab: munge's, and the ssh keys that let its users and root go from machine to machine without a question.

Every machine has a host key of its own, and every home knows all of them, so StrictHostKeyChecking=yes works.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from pathlib import Path

from ftslurm.lab.layout import USER, LabSpec, Layout


def write(spec: LabSpec, layout: Layout) -> None:
    """Make all keys that are missing, and the known_hosts and authorized_keys that go with them."""
    _munge_key(layout)
    known = ""
    for machine in spec.machines:
        key = layout.machine(machine) / "host_key"
        _ssh_key(key, machine)
        public = " ".join(key.with_suffix(".pub").read_text(encoding="ascii").split()[:2])
        known += f"{machine},{spec.address(machine)} {public}\n"
    _home(layout.homes / "root", known, (0, 0))
    _home(layout.homes / USER, known, (spec.uid, spec.uid))


def _munge_key(layout: Layout) -> None:
    folder = layout.munge_socket.parent
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    _private(folder / "key", secrets.token_bytes(128))


def _ssh_key(path: Path, comment: str) -> None:
    if path.exists():
        return
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    subprocess.run(command, check=True, timeout=20.0, capture_output=True)


def _home(home: Path, known_hosts: str, owner: tuple[int, int]) -> None:
    """A home with .ssh in it; sshd wants neither to be writable by others (StrictModes)."""
    folder = home / ".ssh"
    folder.mkdir(parents=True, exist_ok=True)
    _ssh_key(folder / "id_ed25519", "lab")
    (folder / "authorized_keys").write_bytes((folder / "id_ed25519.pub").read_bytes())
    (folder / "known_hosts").write_text(known_hosts, encoding="ascii")
    home.chmod(0o755)
    folder.chmod(0o700)
    for path in (home, folder, *folder.iterdir()):
        os.chown(path, *owner)


def _private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)

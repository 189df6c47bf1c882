"""The lab's accounting database: prepared once for a release of MariaDB and Slurm, then only copied.

Making MariaDB's system tables, slurmdbd's tables, the cluster and the accounts takes several seconds; a copy takes a
tenth of one. The preparation runs in namespaces of its own, which end with it.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from ftslurm.errors import ServiceUnavailable
from ftslurm.lab import boot
from ftslurm.lab.layout import LOGIN, USER, LabSpec, Layout

_PREPARE_S = 60.0
_RECIPE = 1  # count up when the preparation below changes

_SCRIPT = """\
#!/bin/bash
set -eu
mount -t proc proc /proc
hostname {login}
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind {etc}/hosts /etc/hosts
mount --bind {etc}/passwd /etc/passwd
mount --bind {etc}/group /etc/group
ip link set lo up
ip address add {address}/24 dev lo
mariadb-install-db --no-defaults --datadir={data} --skip-test-db --innodb-log-file-size=4M --user=root
{munged}
{database}
sacctmgr --immediate add cluster lab
sacctmgr --immediate add account lab cluster=lab
sacctmgr --immediate add user root account=lab cluster=lab
sacctmgr --immediate add user {user} account=lab cluster=lab
kill $(cat /run/slurmdbd.pid)
while kill -0 $(cat /run/slurmdbd.pid); do sleep 0.02; done 2>/dev/null
kill $!
wait $! || true
"""


def put_in_place(spec: LabSpec, layout: Layout) -> None:
    """Copy the prepared database to where the lab's MariaDB expects it, after making it if it is the first time."""
    prepared = layout.database_cache / _key()
    if not prepared.is_dir():
        _prepare(spec, layout, prepared)
    _fresh_folder(layout.database)
    shutil.copytree(prepared, layout.database, dirs_exist_ok=True)


def _key() -> str:
    """Names a preparation: it is of no use to another release."""
    versions = ""
    for command in (["mariadbd", "--no-defaults", "--version"], ["slurmd", "-V"]):
        versions += subprocess.run(command, capture_output=True, text=True, check=True, timeout=20.0).stdout
    return hashlib.sha256(f"{_RECIPE} {USER} {versions}".encode()).hexdigest()[:16]


def _prepare(spec: LabSpec, layout: Layout, prepared: Path) -> None:
    _fresh_folder(layout.database)
    script = layout.base / "state" / "prepare-database.sh"
    script.write_text(_script(spec, layout), encoding="utf-8")
    # Ends with us, however we end.
    command = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--uts",
        "--fork",
        "--kill-child",
        "bash",
        str(script),
    ]
    log = layout.log / "prepare-database.log"
    with log.open("wb") as out:
        try:
            done = subprocess.run(
                command, stdout=out, stderr=out, env=boot.environment(layout), timeout=_PREPARE_S, check=False
            )
        except subprocess.TimeoutExpired as caught:
            raise ServiceUnavailable(
                f"preparing the database took over {_PREPARE_S:g} s", hint=f"see {log}"
            ) from caught
    if done.returncode != 0:
        raise ServiceUnavailable(
            f"preparing the accounting database failed (exit {done.returncode})", hint=f"see {log}"
        )
    prepared.parent.mkdir(parents=True, exist_ok=True)
    unfinished = prepared.with_name(f"{prepared.name}.{os.getpid()}")
    shutil.copytree(layout.database, unfinished)
    if prepared.is_dir():  # another lab was quicker
        shutil.rmtree(unfinished)
    else:
        unfinished.rename(prepared)


def _script(spec: LabSpec, layout: Layout) -> str:
    return _SCRIPT.format(
        etc=shlex.quote(str(layout.etc)),
        address=spec.address(LOGIN),
        data=shlex.quote(str(layout.database)),
        munged=boot.lines([boot.munged(layout)]),
        database=boot.database_lines(layout, spec.address(LOGIN)),
        user=USER,
        login=LOGIN,
    )


def _fresh_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    folder.parent.chmod(0o700)

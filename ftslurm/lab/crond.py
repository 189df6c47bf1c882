"""A real cron daemon with one crontab and nothing else: in a mount namespace of its own nobody else's lines are there.

What cron has started when the daemon is ended goes on to its end, as it does anywhere. Needs root and Debian's `cron`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ftslurm.errors import ServiceUnavailable

CRON = "/usr/sbin/cron"
END_S = 30.0
PAM = "account required pam_permit.so\nsession required pam_permit.so\nauth required pam_permit.so\n"
ENTER = """set -eu
touch /run/crond.pid
mount --bind "$1/crontabs" /var/spool/cron/crontabs
mount --bind "$1/empty" /etc/cron.d
mount --bind "$1/none" /etc/crontab
mount --bind "$1/pid" /run/crond.pid
mount --bind "$1/pam" /etc/pam.d/cron
exec "$2" -f -L 15
"""
"""A container may not set a login id, which Debian's rules for cron ask for: here everybody is let in."""


def spool(folder: Path, user: str, crontab: str, uid: int) -> None:
    """Lay out what the daemon finds; cron takes a crontab only from its user, and if nobody else may write it."""
    for name in ("crontabs", "empty"):
        (folder / name).mkdir(parents=True)
    for name in ("none", "pid"):
        (folder / name).touch()
    (folder / "pam").write_text(PAM, encoding="ascii")
    table = folder / "crontabs" / user
    table.write_text(crontab, encoding="utf-8")
    table.chmod(0o600)
    os.chown(table, uid, -1)


@contextlib.contextmanager
def crond(
    folder: Path,
    crontab: str,
    *,
    user: str = "root",
    uid: int | None = None,
    into: Callable[[Sequence[str]], list[str]] = list,
) -> Iterator[subprocess.Popen[bytes]]:
    """Let cron do the lines of a crontab until this context ends.

    Args:
        folder: one that is not there yet, where the daemon's own files lie; its log is `log`.
        crontab: the lines.
        user: whose crontab it is.
        uid: his number, where he is known only elsewhere.
        into: makes an argv into one that runs on another machine of a lab.

    Raises:
        ServiceUnavailable: there is no cron here.
    """
    if shutil.which(CRON) is None:
        raise ServiceUnavailable("there is no cron here", hint="apt-get install --no-install-recommends cron")
    spool(folder, user, crontab, pwd.getpwnam(user).pw_uid if uid is None else uid)
    argv = into(["unshare", "--mount", "--propagation=private", "bash", "-c", ENTER, "cron", str(folder), CRON])
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            yield child
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(END_S)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait(END_S)

"""Tells people: by a program, a webhook or a mail. One thread for each, with a deadline and a limit on how often.

What comes within the time between two messages is told together with the next one; nothing is dropped but what is over
a hundred. A message that cannot be told is complained of, and not tried again: the next one will come. Addresses of
webhooks are secrets, and no complaint names more than their host.
"""

from __future__ import annotations

import json
import logging
import smtplib
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ftslurm.insight.text import iso
from ftslurm.runtime.hooks import Hooks

if TYPE_CHECKING:
    from ftslurm.observer.notices import Notice

log = logging.getLogger(__name__)

DEADLINE_S = 10.0
PROGRAM_S = 30.0
MOST = 100
SENDMAIL = (Path("/usr/sbin/sendmail"), Path("/usr/lib/sendmail"))
MAILER = "localhost"

Send = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Way:
    """Who wants to know what, and by which of three ways: `observe.notify` of the configuration."""

    on: tuple[str, ...]
    every_s: float = 60.0
    exec: tuple[str, ...] = ()
    webhook: str | None = None
    email: str | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Way:
        """Return what the configuration says."""
        return cls(**{**record, "on": tuple(record["on"]), "exec": tuple(record["exec"])})


class Told:
    """One who is told."""

    def __init__(self, wanted: Way, about: dict[str, str], send: Send | None = None) -> None:
        """`about` are facts on the run that every message has."""
        self._on, self._every_s, self._about = frozenset(wanted.on), wanted.every_s, about
        self._send = send or sender_of(wanted)
        self._waiting: deque[Notice] = deque(maxlen=MOST)
        self._wake = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._work, name="telling", daemon=True)
        self._thread.start()

    def take(self, notice: Notice) -> None:
        """Something has happened; returns at once."""
        if notice.occasion in self._on:
            with self._wake:
                self._waiting.append(notice)
                self._wake.notify()

    def close(self, timeout_s: float) -> None:
        """Tell what is still to be told, for a bounded time."""
        with self._wake:
            self._over = True
            self._wake.notify()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        last = -self._every_s
        while (notices := self._next(last)) is not None:
            last = time.monotonic()
            try:
                self._send(self._message(notices))
            except (OSError, ValueError, smtplib.SMTPException, subprocess.SubprocessError) as error:
                # An error of urllib's may hold the address.
                log.warning("notify: %d messages could not be told (%s)", len(notices), type(error).__name__)

    def _next(self, last: float) -> list[Notice] | None:
        """Wait for something to tell, and until it may be told; None when all is told and the run has ended."""
        with self._wake:
            while True:
                due_s = last + self._every_s - time.monotonic()
                if self._waiting and (self._over or due_s <= 0):
                    found = list(self._waiting)
                    self._waiting.clear()
                    return found
                if self._over:
                    return None
                self._wake.wait(due_s if self._waiting else None)

    def _message(self, notices: Sequence[Notice]) -> dict[str, Any]:
        told = [{"occasion": each.occasion, "at": iso(each.t), "text": each.text} for each in notices]
        return {**self._about, **told[-1], "events": told}


def sender_of(wanted: Way) -> Send:
    """Return the way in which somebody is told."""
    if wanted.exec:
        hooks = Hooks({}, "")
        return lambda message: hooks.run(wanted.exec, _json(message))
    if wanted.webhook is not None:
        address = wanted.webhook
        return lambda message: _post(address, message)
    address = wanted.email or ""
    return lambda message: _mail(address, message)


def _json(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What is meant for one address is not sent to another one."""

    def redirect_request(self, *_: Any) -> None:  # noqa: ANN401 - urllib's own
        return None


def _post(address: str, message: dict[str, Any]) -> None:
    # `text` is what chats show (Slack, Mattermost); the rest is for programs.
    lines = [f"[{message['run_id']}] {each['occasion']}: {each['text']}" for each in message["events"]]
    body = _json({**message, "text": "\n".join(lines)})
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method="POST")  # noqa: S310 - http or https, by the configuration
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=DEADLINE_S) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        log.warning("notify: the webhook at %s answers %d", urlsplit(address).hostname, error.code)
    except OSError as error:
        reason = getattr(error, "reason", error)
        log.warning("notify: the webhook at %s does not answer: %s", urlsplit(address).hostname, reason)


def _mail(address: str, message: dict[str, Any]) -> None:
    mail = EmailMessage()
    mail["To"] = address
    mail["Subject"] = f"[ftslurm] {message['name']}: {message['occasion']} (job {message['job_id']})"
    mail["Auto-Submitted"] = "auto-generated"
    lines = [f"{each['at']}  {each['occasion']}: {each['text']}" for each in message["events"]]
    mail.set_content("\n".join([f"run {message['run_id']}", "", *lines, ""]))
    program = next((path for path in SENDMAIL if path.exists()), None)
    if program is not None:
        argv = [str(program), "-i", "--", address]
        done = subprocess.run(argv, input=mail.as_bytes(), capture_output=True, timeout=PROGRAM_S, check=False)
        if done.returncode:
            log.warning("notify: sendmail ended with code %d", done.returncode)
        return
    mail["From"] = f"ftslurm@{MAILER}"
    with smtplib.SMTP(MAILER, timeout=DEADLINE_S) as server:
        server.send_message(mail)

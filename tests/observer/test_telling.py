from __future__ import annotations

import http.server
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ftslurm.observe_section import Notify
from ftslurm.observer import telling
from ftslurm.observer.notices import Notice
from ftslurm.observer.telling import Told, Way

ABOUT = {"run_id": "gpt-20260225-0a1b2c", "name": "gpt", "job_id": "101"}
PATIENCE_S = 20.0


def notice(text: str, occasion: str = "failure") -> Notice:
    """Something that has happened."""
    return Notice(occasion, 1_772_000_000.0, text)


def wanted(**way: object) -> Way:
    """Somebody who wants to know of failures, at once if nothing else is said."""
    return Way.of(Notify.model_validate({"on": ["failure", "finished"], "every": "0s", **way}).plain())


@dataclass
class Hook:
    """A webhook on this host."""

    address: str = ""
    got: list[tuple[str, dict]] = field(default_factory=list)
    status: int = 200
    location: str = ""
    hold: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def hook(monkeypatch) -> Iterator[Hook]:
    """A webhook that notes what it gets."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    found = Hook()
    found.hold.set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.got.append((self.path, body))
            found.hold.wait(PATIENCE_S)
            self.send_response(found.status)
            if found.location:
                self.send_header("Location", found.location)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    found.hold.set()
    server.shutdown()
    server.server_close()


def test_a_webhook_gets_a_post(hook):
    """The facts are JSON, with a text that chats show; what was not asked for is not told."""
    told = Told(wanted(webhook=f"{hook.address}/token-5f3"), ABOUT)
    told.take(notice("rank 3 was killed"))
    told.take(notice("nobody asked", "requeued"))
    told.close(PATIENCE_S)
    ((path, body),) = hook.got
    assert path == "/token-5f3"
    assert body["text"] == "[gpt-20260225-0a1b2c] failure: rank 3 was killed"
    assert (body["occasion"], body["job_id"], len(body["events"])) == ("failure", "101", 1)
    assert body["at"] == "2026-02-25T06:13:20.000Z"


@pytest.mark.parametrize("way", ["error", "redirect", "refused"])
def test_the_address_is_kept_out_of_complaints(hook, caplog, way):
    """A webhook that answers with an error, or not at all, is named by its host; a redirect is not followed."""
    hook.status = {"error": 500, "redirect": 302}.get(way, 200)
    hook.location = f"{hook.address}/elsewhere" if way == "redirect" else ""
    address = "http://127.0.0.1:9" if way == "refused" else hook.address
    with caplog.at_level(logging.WARNING):
        told = Told(wanted(webhook=f"{address}/token-5f3?key=5f4"), ABOUT)
        told.take(notice("x"))
        told.close(PATIENCE_S)
    assert "notify: the webhook at 127.0.0.1 " in caplog.text
    assert "5f3" not in caplog.text
    assert "5f4" not in caplog.text
    assert len(hook.got) == (0 if way == "refused" else 1)


def test_one_that_hangs_delays_nobody(hook):
    """`take` returns at once while the webhook stands still, and `close` after its deadline."""
    hook.hold.clear()
    told = Told(wanted(webhook=hook.address), ABOUT)
    for index in range(500):
        told.take(notice(f"failure {index}"))
    begun = time.monotonic()
    told.close(0.1)
    assert time.monotonic() - begun < PATIENCE_S
    assert told._thread.is_alive()


def test_what_comes_too_soon_is_told_together():
    """The first at once; those within the limit with the next one, at the end at the latest."""
    sent: list[dict] = []
    first = threading.Event()

    def send(message: dict) -> None:
        sent.append(message)
        first.set()

    told = Told(wanted(exec=["x"], every="1h"), ABOUT, send)
    told.take(notice("one"))
    assert first.wait(PATIENCE_S)
    for text in ("two", "three"):
        told.take(notice(text))
    told.close(PATIENCE_S)
    assert [[each["text"] for each in message["events"]] for message in sent] == [["one"], ["two", "three"]]
    assert sent[1]["text"] == "three"


def test_a_program_gets_the_facts_and_no_shell(tmp_path):
    """Arguments arrive as they are, facts on standard input."""
    out = tmp_path / "out; touch $(x)"
    code = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"
    told = Told(wanted(exec=[sys.executable, "-c", code, str(out)]), ABOUT)
    told.take(notice("rank 3 was killed; rm -rf /"))
    told.close(PATIENCE_S)
    assert json.loads(out.read_text())["text"] == "rank 3 was killed; rm -rf /"
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_mail_goes_through_the_sites_sendmail(tmp_path, monkeypatch):
    """The address follows `--`; nothing that happened becomes a header."""
    mailer = tmp_path / "sendmail"
    mailer.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\ncat > {tmp_path}/mail\n')
    mailer.chmod(0o755)
    monkeypatch.setattr(telling, "SENDMAIL", (Path("/none"), mailer))
    told = Told(wanted(email="ada@example.org"), ABOUT)
    told.take(notice("rank 3 was killed"))
    told.close(PATIENCE_S)
    assert (tmp_path / "arguments").read_text().split() == ["-i", "--", "ada@example.org"]
    head, _, body = (tmp_path / "mail").read_text().partition("\n\n")
    assert "Subject: [ftslurm] gpt: failure (job 101)" in head
    assert "failure: rank 3 was killed" in body


def test_without_sendmail_smtp_on_this_host_is_tried(monkeypatch, caplog):
    """Where nobody listens that is complained of, and nothing else follows."""
    monkeypatch.setattr(telling, "SENDMAIL", ())
    monkeypatch.setattr(telling.smtplib, "SMTP_PORT", 9)
    monkeypatch.setattr(telling.smtplib.SMTP, "default_port", 9)
    told = Told(wanted(email="ada"), ABOUT)
    told.take(notice("x"))
    told.close(PATIENCE_S)
    assert "1 messages could not be told (ConnectionRefusedError)" in caplog.text

"""A real browser, spoken to over a pipe: Chromium's DevTools protocol, as far as a page is looked at with it."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ANSWER_S = 60.0
END_S = 10.0
NAMES = ("chromium", "chromium-browser", "google-chrome")


def program() -> str | None:
    """Where the browser is, if it is anywhere."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page in a browser without a window."""

    def __init__(self, reads: int, writes: int) -> None:
        self._reads, self._writes = reads, writes
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._session = ""
        self.asked: list[str] = []
        target = self.say("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.say("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.say("Network.enable")
        self.say("Page.enable")

    def say(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its answer; addresses that the page asked for are kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_S
        while True:
            heard = self._hear(deadline)
            if heard.get("method") == "Network.requestWillBeSent":
                self.asked.append(heard["params"]["request"]["url"])
            if heard.get("id") == number:
                assert "error" not in heard, heard
                answer: dict[str, Any] = heard["result"]
                return answer

    def _hear(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._reads], [], [], max(deadline - time.monotonic(), 0))
            assert ready, "the browser does not answer"
            data = os.read(self._reads, 1 << 20)
            assert data, "the browser has ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        heard: dict[str, Any] = json.loads(line)
        return heard

    def show(self, page: Path, width: int, *, dark: bool = False) -> None:
        """Open a page from disk in a window of this width; returns when all of it is there."""
        self.say("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.say("Emulation.setEmulatedMedia", features=[scheme])
        self.say("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + ANSWER_S
        loaded = "document.readyState == 'complete' && [...document.images].every(each => each.complete)"
        while not self.ask(loaded):
            assert time.monotonic() < deadline, "the page does not come to an end"
            time.sleep(0.05)

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return self.say("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def picture(self) -> bytes:
        """The whole page as PNG."""
        return base64.b64decode(self.say("Page.captureScreenshot", captureBeyondViewport=True)["data"])


@contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, that ends with the block."""
    name = program()
    assert name is not None
    ours_read, its_write = os.pipe()
    its_read, ours_write = os.pipe()
    # The protocol's pipe is on the descriptors 3 and 4.
    script = f'exec 3<&{its_read} 4>&{its_write}; exec "$@"'
    options = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--hide-scrollbars",
        "--disable-dev-shm-usage",
    )
    argv = ["bash", "-c", script, "browser", name, *options, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
    with (profile.parent / "browser.log").open("wb") as log:
        child = subprocess.Popen(argv, pass_fds=(its_read, its_write), stdout=log, stderr=log)
    os.close(its_read)
    os.close(its_write)
    try:
        browser = Browser(ours_read, ours_write)
        yield browser
        browser._session = ""
        browser.say("Browser.close")
    finally:
        os.close(ours_write)
        os.close(ours_read)
        try:
            child.wait(END_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

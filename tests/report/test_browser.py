from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftslurm.report.contents import gather
from ftslurm.report.writing import write
from tests.lab.longer import long_test
from tests.report.browser import Browser, browsing, program
from tests.report.scenes import eventful_run

REFERENCES = Path(__file__).parent.parent / "data" / "report"
THUMBS = {400: 40, 800: 60, 1600: 80}
"""The widths of windows that are looked at, and of the small pictures that are kept of them."""
NEAR, FAR, FAR_SHARE = 6.0, 48, 0.02
"""In small pictures, in steps of 256: the mean difference allowed, and how many pixels may differ by how much."""

pytestmark = [
    long_test("the report is looked at in a real browser"),
    pytest.mark.skipif(program() is None, reason="there is no Chromium: scripts/setup --browser installs it"),
]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, Path]]:
    """The report of the eventful run, and a browser."""
    folder = tmp_path_factory.mktemp("browser")
    page = write(gather(eventful_run(folder)), folder / "report").page
    with browsing(folder / "profile") as browser:
        yield browser, page


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", THUMBS)
def test_the_page_fits_every_width(shown, width, dark):
    """Nothing is wider than the window, every picture is there and as large as its place, and letters can be read."""
    browser, page = shown
    browser.show(page, width, dark=dark)
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
    assert browser.ask("document.images.length") == 7
    assert browser.ask("[...document.images].every(each => each.naturalWidth > 0 && each.alt.length > 40)")
    wider = "[...document.querySelectorAll('img,table,h1,p,dd')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert browser.ask(f"{wider}.length") == 0
    # 8.5 points in a picture drawn at its size are 11 pixels; scaled they shall be 9 at least.
    assert browser.ask("Math.min(...[...document.images].map(each => each.clientWidth / each.naturalWidth))") > 0.79


def test_the_page_asks_for_nothing(shown):
    """Opened from disk, the page loads itself and the data that it holds; nothing runs in it."""
    browser, page = shown
    browser.asked.clear()
    browser.show(page, 800)
    assert {url.partition(":")[0] for url in browser.asked} <= {"file", "data"}
    assert [url for url in browser.asked if url.startswith("file:")] == [page.as_uri()]
    assert browser.ask("document.scripts.length") == 0


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", THUMBS)
def test_the_page_looks_as_it_did(shown, width, dark):
    """Screenshots are those that somebody has looked at, but for what fonts and releases of browsers change."""
    from PIL import Image

    browser, page = shown
    browser.show(page, width, dark=dark)
    picture = Image.open(io.BytesIO(browser.picture())).convert("RGB")
    thumb = THUMBS[width]
    small = picture.resize((thumb, round(picture.height * thumb / width)), Image.Resampling.BOX)
    reference = REFERENCES / f"report-{width}-{'dark' if dark else 'light'}.png"
    if os.environ.get("FTSLURM_UPDATE_REFERENCES") == "1":
        reference.parent.mkdir(exist_ok=True)
        small.save(reference, optimize=True)
    known = Image.open(reference).convert("RGB")
    assert abs(known.height - small.height) <= 0.06 * known.height, "the page has another length"
    pairs = zip(small.resize(known.size).tobytes(), known.tobytes(), strict=True)
    differences = [abs(one - other) for one, other in pairs]
    assert sum(differences) / len(differences) < NEAR
    assert sum(each > FAR for each in differences) / len(differences) < FAR_SHARE

"""The report of a fixed run: what it says, which files it consists of, and that they are always the same."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from ftslurm.insight.palette import CATEGORIES
from ftslurm.insight.walltime import Category
from ftslurm.paths import templates
from ftslurm.report import canvas, pictures, writing
from ftslurm.report.contents import Contents, gather
from ftslurm.report.data import csv_text, document
from ftslurm.report.recovery import parts
from tests.insight.journals import START, Tale, config_policy, make_run
from tests.report.scenes import eventful_run, sampled

RUN = "gpt-small-20260225-0a1b2c"
PICTURES = {
    "run_timeline", "training_progress", "time_spent", "recovery", "checkpoints", "system_resources",
    "anomaly_detection_heatmap",
}  # fmt: skip
TABLES = {"incidents", "checkpoints", "training_progress", "wall_time", "system_resources"}
HOSTILE = "<script>alert(1)</script>\x1b]0;x\x07\n\u202e$x^2$ 'a\" &amp; =1+1"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """What there is to tell of the eventful run."""
    return gather(eventful_run(tmp_path_factory.mktemp("told"), only=("cpu", "memory", "net_in")))


@pytest.fixture(scope="module")
def folder(told: Contents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its report."""
    folder = tmp_path_factory.mktemp("report")
    writing.write(told, folder)
    return folder


def page(folder: Path) -> str:
    """The page in a folder."""
    return next(folder.glob("*.html")).read_text()


def shape(value: object) -> object:
    """Keys and kinds of values, without the values; of a list the first entry."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def test_the_files_have_the_names_that_people_know(folder):
    """Every picture as PNG and SVG, every table as CSV, the page and the data; nothing is left of writing them."""
    wanted = {f"{name}_{RUN}.{kind}" for name in PICTURES for kind in ("png", "svg")}
    wanted |= {f"{name}_{RUN}.csv" for name in TABLES} | {f"training_report_{RUN}.{kind}" for kind in ("html", "json")}
    assert {path.name for path in folder.iterdir()} == wanted


def test_the_same_run_gives_the_same_pictures(told, folder):
    """No date, no random ids, nothing of the machine's."""
    again = {}
    with canvas.style():
        for kind in pictures._KINDS:
            alt = f"{kind.heading} of run {RUN}. {kind.caption(told)}"
            again[f"{kind.name}_{RUN}.svg"] = canvas.svg(kind.draw(told, canvas.WIDE), alt)
    assert again == {path.name: path.read_bytes() for path in folder.glob("*.svg")}


def test_the_page_holds_everything_and_nothing_that_runs(folder):
    """Pictures are in it, with words for those who do not see them; it has no address and no script."""
    text = page(folder)
    assert len(re.findall(r'<img src="data:image/svg', text)) == len(PICTURES)
    assert all(len(alt) > 40 for alt in re.findall(r'alt="([^"]*)"', text))
    assert not re.findall(r"<script|javascript:|https?://|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    assert "default-src 'none'" in text
    assert '<html lang="en">' in text
    assert text.count("<th scope=") == text.count("<th ")


def test_the_incidents_are_told_with_verdict_reason_and_plan(folder):
    """What `explain` tells stands in the table."""
    text = page(folder)
    for words in (
        "node_unreachable (n3)",
        "given up: n3",
        "shrink",
        "application_error",
        "ValueError: bad batch 17",
        "not taken",
    ):
        assert words in text, words


def test_pictures_have_their_text_as_text_and_a_dark_mode(folder):
    """SVG can be searched, is well-formed, and loads nothing."""
    for path in folder.glob("*.svg"):
        text = path.read_text()
        assert "<text" in text
        assert "prefers-color-scheme:dark" in text
        ET.fromstring(text)
        assert {url for url in re.findall(r'(?:href|src)="([^"#][^"]*)"', text) if not url.startswith("data:")} == set()
    assert "n3" in next(folder.glob("run_timeline*.svg")).read_text()


def test_every_category_has_a_colour_of_its_own():
    """The nine categories of wall time are told apart."""
    assert list(CATEGORIES) == [str(category) for category in Category]
    assert len(set(CATEGORIES.values())) == len(CATEGORIES)


def test_dashboards_have_the_same_colours():
    """A category looks the same in Grafana as in a report."""
    whole = json.loads((templates() / "grafana" / "ftslurm.json").read_text())
    (panel,) = [panel for panel in whole["panels"] if panel.get("title") == "Where the time went"]
    told = {each["matcher"]["options"]: each["properties"][0]["value"] for each in panel["fieldConfig"]["overrides"]}
    assert {name: each["fixedColor"] for name, each in told.items()} == CATEGORIES


def test_the_parts_of_a_recovery_sum_up_to_it(told):
    """No second is left out or counted twice."""
    assert len(told.story.incidents) == 2
    for incident in told.story.incidents:
        assert sum(parts(incident).values()) == pytest.approx(incident.recovery_s)


def test_the_odd_node_is_the_anomaly(told):
    """The one that was busy with something else has the highest scores."""
    highest = told.anomalies[:3]
    assert {(each.node, each.metric) for each in highest} == {("n4", "memory"), ("n4", "cpu"), ("n4", "net_in")}


def test_the_data_has_the_keys_that_programs_rely_on(told):
    """A change of them is a change of `meta.schema`."""
    whole = document(told)
    assert whole["meta"] == {"schema": 1}
    assert set(whole) == {
        "meta", "run", "remarks", "story", "wall_time", "timeline", "progress", "recovery", "checkpoints", "resources",
        "anomalies",
    }  # fmt: skip
    three = {"p10": "number", "p50": "number", "p90": "number"}
    assert shape(whole["recovery"]) == {
        "incidents": "number", "recovered": "number", "recovery_s": three, "detect_s": three,
        "parts_s": [{"incident": "number", "detect": "number", "decide": "number", "stop": "number", "leave": "NoneType",
                     "queue": "NoneType", "plan": "NoneType", "launch": "number", "restore": "NoneType",
                     "release": "NoneType"}],
    }  # fmt: skip
    assert shape(whole["wall_time"]) == {
        "total_s": "number", "spent_s": dict.fromkeys(CATEGORIES, "number"), "ettr": "number", "goodput": "number",
    }  # fmt: skip
    assert whole["wall_time"]["total_s"] == pytest.approx(told.until - told.begun, rel=1e-3)
    assert shape(whole["anomalies"]) == [
        {"node": "str", "metric": "str", "t": "str", "t_epoch": "number", "score": "number", "value": "number"}
    ]
    assert shape(whole["progress"]) == dict.fromkeys(("steps_per_s", "last_step", "ideal_step", "points"), "number")
    json.dumps(whole, allow_nan=False)


def test_tables_can_be_read_as_csv(folder):
    """With a header, and as many cells in each row."""
    for path in folder.glob("*.csv"):
        rows = list(csv.reader(path.read_text().splitlines()))
        assert len(rows) > 1
        assert {len(row) for row in rows} == {len(rows[0])}


def test_a_cell_is_never_a_formula():
    """What begins like one is text, and numbers stay numbers."""
    text = csv_text((("a",), [('=HYPERLINK("x")',), ("@x",), (-1.5,), (None,)]))
    assert text.splitlines() == ["a", '"\'=HYPERLINK(""x"")"', "'@x", "-1.5", '""']


def test_hostile_names_are_shown_and_do_nothing(tmp_path):
    """Whatever programs print and nodes are called: no tag, no control character, no formula for matplotlib."""
    tale = Tale(config_policy()).start().save(100, after=10).wait(3)
    tale.crash(1, tail=f"{HOSTILE}\n")
    paths = make_run(tmp_path, tale)
    sampled(paths, ("n1", "n2"), 60.0, only=("cpu",))
    (paths.samples / "n1.1.jsonl").rename(paths.samples / f"{HOSTILE.replace('/', '|')}.1.jsonl")
    text = page(writing.write(gather(paths), tmp_path / "out").page.parent)
    assert "<script" not in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)
    assert "&lt;script&gt;" in text
    for path in (tmp_path / "out").glob("*.svg"):
        assert not re.search(r"<script|[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", path.read_text())


def test_a_run_without_samples_says_so(tmp_path):
    """There is a report without the pictures of nodes, and with a remark."""
    contents = gather(make_run(tmp_path, Tale(config_policy()).start().save(100, after=10)))
    assert any("no samples" in remark for remark in contents.remarks)
    text = page(writing.write(contents, tmp_path / "out").page.parent)
    assert "no samples" in text
    assert "system_resources" not in re.findall(r'<h2 id="([^"]+)"', text)


def test_a_run_that_has_not_begun_has_a_report(tmp_path):
    """A page that says so."""
    contents = gather(make_run(tmp_path, None))
    assert "Nothing has happened yet" in page(writing.write(contents, tmp_path / "out").page.parent)


def test_torn_and_strange_samples_are_left_out(tmp_path):
    """What is no sample is counted; the rest is told."""
    paths = make_run(tmp_path, Tale(config_policy()).start().wait(30))
    sampled(paths, ("n1",), 30.0)
    strange = [
        '{"t":',
        "[]",
        '{"t": "x"}',
        '{"t": NaN}',
        f'{{"t": {START + 9}, "cpu": 1e999, "steps": {{"x": 1}}, "gpus": []}}',
    ]
    with paths.sample_file("n1", 1).open("a") as file:
        file.write("\n".join(strange) + '\n{"t": 1')
    found = gather(paths).samples
    assert (found.unreadable, found.count) == (4, 7)


def test_without_matplotlib_the_page_has_tables_only(told, tmp_path, monkeypatch):
    """It says how to get the pictures."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    written = writing.write(told, tmp_path)
    assert not written.pictures
    assert "pip install" in written.page.read_text()
    assert not list(tmp_path.glob("*.png"))

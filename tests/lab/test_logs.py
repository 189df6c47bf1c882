"""The log files of a real run: what stands on each line, and what log collectors make of them."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ftslurm.lab.cluster import Cluster
from tests import collectors
from tests.lab.training import LabRun, await_that, program, submit, workplace

pytestmark = pytest.mark.lab

LABELS = {"run_id", "job_id", "attempt", "node", "rank", "role"}


@pytest.fixture(scope="module")
def failed_once(lab: Cluster) -> LabRun:
    """A run on two nodes whose rank 0 has failed once; it has ended, and its agents have left."""
    work = workplace(lab, "logs", None)
    command = program("env_dump", work / "dumps", "--fail-once", work / "marker")
    run = submit(lab, command, name="logs", nodes=2, work=work, checkpoint={"files": []})
    assert run.wait_end() == ("finished", 0)
    await_that("nothing is left", lambda: not run.processes(), 30)
    return run


def lines(run: LabRun) -> list[tuple[Path, dict[str, Any]]]:
    """Every line of every log file of ftslurm's own, found without its help; `current` is another name of a folder."""
    found = []
    for folder, _, names in os.walk(run.root / "logs"):
        for path in (Path(folder) / name for name in names if name.endswith(".ndjson")):
            found += [(path, json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return found


def test_every_error_says_when_where_and_of_what(failed_once: LabRun) -> None:
    """Time with a zone, level, node, rank, run, job and attempt; the failed rank is told by its wrapper and as a verdict."""
    told = lines(failed_once)
    for path, line in told:
        assert dt.datetime.fromisoformat(line["@timestamp"]).utcoffset() is not None
        assert set(line["labels"]) == LABELS
        assert all(isinstance(value, str) and value for value in line["labels"].values()), line
        assert (line["labels"]["run_id"], line["labels"]["job_id"]) == (failed_once.run_id, failed_once.job)
        assert line["labels"]["attempt"] == path.parent.name
        assert line["service"]["name"] == "ftslurm"
        assert line["host"]["hostname"]
        assert line["message"]
    errors = [line for _, line in told if line["log.level"] == "error"]
    place = [
        (line["labels"]["role"], line["labels"]["attempt"], line["labels"]["rank"], line["labels"]["node"])
        for line in errors
    ]
    assert ("wrapper", "0", "0", "n1") in place
    assert ("supervisor", "0", "0", "n1") in place
    assert all(line["event"]["outcome"] == "failure" for line in errors)


def test_each_process_has_a_file_for_each_attempt(failed_once: LabRun) -> None:
    """The supervisor and the wrappers have said something in both attempts; agents and the parent at least once."""
    names = {path.relative_to(failed_once.root / "logs") for path, _ in lines(failed_once)}
    expected = ("supervisor-n1", "rank-00000", "rank-00001")
    assert {Path(attempt, f"{name}.ndjson") for attempt in ("0", "1") for name in expected} <= names
    assert {"agent-n1.ndjson", "agent-n2.ndjson", "parent-n1.ndjson"} <= {path.name for path in names}


def test_collectors_read_them_as_the_templates_say(failed_once: LabRun) -> None:
    """Filebeat's globs find each file once; its parser gives ECS fields; Logstash's pattern finds the place of output."""
    inputs = collectors.inputs(failed_once.root.parent)
    folders = [failed_once.root / "logs" / attempt for attempt in ("0", "1")]
    assert set(inputs["ftslurm"]["files"]) >= {path for folder in folders for path in folder.glob("*.ndjson")}
    assert set(inputs["ftslurm-output"]["files"]) >= {path for folder in folders for path in folder.glob("*.log")}
    assert not [path for each in inputs.values() for path in each["files"] if "current" in path.parts]
    field, pattern, names = collectors.grok()
    assert field == "log.file.path"
    seen = []
    for event in collectors.events(failed_once.root.parent):
        if event["input"] == "ftslurm":
            assert {"@timestamp", "message", "labels", "service", "host"} <= set(event)
            assert event["log"]["level"] in {"debug", "info", "warning", "error", "critical"}
            continue
        match = pattern.search(event["log"]["file"]["path"])
        assert match is not None
        seen.append({name: match[group] for group, name in names.items()})
    ours = [place for place in seen if place["labels.run_id"] == failed_once.run_id]
    # The program itself prints nothing: only the pattern is looked at here, on a path that is real.
    path = failed_once.root / "logs" / "1" / "rank-00001.log"
    match = pattern.search(str(path))
    assert match is not None
    found = {name: match[group] for group, name in names.items()}
    assert found == {"labels.run_id": failed_once.run_id, "labels.attempt": "1", "labels.rank": "1"}
    assert all(place["labels.attempt"] in ("0", "1") for place in ours)


def test_a_line_without_filebeat_is_known_as_one(failed_once: LabRun) -> None:
    """Logstash tells a line of ftslurm's own by how it begins, and a traceback in the output as an error."""
    an_error, of_ours = collectors.conditions()
    for path in {path for path, _ in lines(failed_once)}:
        assert all(of_ours.search(line) for line in path.read_text().splitlines())
    for text in ("Traceback (most recent call last):", "ValueError: bad batch", "torch.OutOfMemoryError: CUDA"):
        assert an_error.search(text)
        assert not of_ours.search(text)
    assert not an_error.search("step 3: 2 errors so far")


def test_a_trackers_run_id_is_stable(failed_once: LabRun) -> None:
    """Where the user sets none, all attempts have the same ids and folder: they are one run of each tracker."""
    dumps = [
        [
            json.loads((failed_once.work / "dumps" / f"attempt-{attempt}-rank-{rank}.json").read_text())
            for rank in (0, 1)
        ]
        for attempt in (0, 1)
    ]
    names = ("WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_RESUME", "TENSORBOARD_LOGGING_DIR")
    first, second = ([{name: dump["environ"][name] for name in names} for dump in attempt] for attempt in dumps)
    assert first == second
    assert first[0]["WANDB_RUN_ID"] == failed_once.run_id
    assert first[1]["WANDB_RUN_ID"] != first[0]["WANDB_RUN_ID"]
    assert dumps[0][0]["environ"]["MASTER_PORT"] != dumps[1][0]["environ"]["MASTER_PORT"]
    assert os.path.realpath(dumps[0][0]["executable"]) == os.path.realpath(sys.executable)

"""Samples: a file that is bounded, and nothing that waits for shared storage."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from ftslurm.runtime import sampler
from ftslurm.runtime.sampler import MOST, STRETCH, WAITING, SampleFile, Sampler, Sources

PATIENCE_S = 30.0


def sources(steps: dict[int, int] | None = None) -> Sources:
    """A node with a GPU and some ranks."""
    told = {0: 5, 1: 4} if steps is None else steps
    return Sources(scratch=None, gpus=lambda: {"gpu_utilization/gpu0": 97.0}, steps=lambda: (2, told))


def lines(path: Path) -> list[dict[str, object]]:
    """What is in a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def await_that(test) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not test():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where samples go."""
    return tmp_path / "run" / "samples" / "n1.3.jsonl"


def test_a_sample_has_the_time_the_node_its_gpus_and_the_steps(path):
    """One line of JSON for each, readable by the user alone."""
    path.parent.parent.mkdir()
    running = Sampler(path, 0.02, sources())
    running.start()
    await_that(lambda: path.exists() and len(path.read_text().splitlines()) >= 2)
    running.stop()
    first = lines(path)[0]
    assert abs(float(str(first["t"])) - time.time()) < PATIENCE_S
    assert first["gpus"] == {"gpu_utilization/gpu0": 97.0}
    assert (first["attempt"], first["steps"]) == (2, {"0": 5, "1": 4})
    assert "memory" in first
    assert path.stat().st_mode & 0o777 == 0o600


def test_of_many_ranks_the_first_and_the_last_are_told(path):
    """A line does not grow with the ranks of a node."""
    many = Sampler(path, 5.0, sources(dict.fromkeys(range(64, 192), 9)))
    assert many._sample(sampler.Meter())["steps"] == {"64": 9, "191": 9}


def test_nothing_is_sampled_where_nobody_wants_it(path):
    """`observe.sample_every: none` starts no thread."""
    before = threading.active_count()
    quiet = Sampler(path, 0.0, sources())
    quiet.start()
    assert threading.active_count() == before
    quiet.stop()


def test_storage_that_hangs_costs_samples_and_no_time(path, monkeypatch):
    """What does not fit into the queue is counted, and the first line after it says how many there were."""
    goes_on, real = threading.Event(), os.write

    def hangs(handle: int, data: bytes) -> int:
        goes_on.wait(PATIENCE_S)
        return real(handle, data)

    path.parent.parent.mkdir()
    file = SampleFile(path)
    monkeypatch.setattr(sampler.os, "write", hangs)
    file.start()
    file.put({"t": 0})
    await_that(file._queue.empty)
    for number in range(WAITING + 7):
        file.put({"t": 1 + number})
    goes_on.set()
    file.stop(PATIENCE_S)
    found = lines(path)
    assert len(found) == WAITING + 1
    assert sum(int(str(each.get("missed", 0))) for each in found) == 7


def test_full_storage_costs_samples_and_tears_one_line_at_most(path, monkeypatch):
    """After an error the next line begins on a line of its own, and says what was missed."""
    path.parent.parent.mkdir()
    file, real, calls = SampleFile(path), os.write, []

    def fills_up(handle: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) == 2:
            real(handle, data[:5])
            raise OSError(28, "No space left on device")
        return real(handle, data)

    monkeypatch.setattr(sampler.os, "write", fills_up)
    file.start()
    for number in range(3):
        file.put({"t": number})
    file.stop(PATIENCE_S)
    texts = path.read_text().splitlines()
    assert [json.loads(texts[0]), json.loads(texts[-1])] == [{"t": 0}, {"t": 2, "missed": 1}]
    assert texts[1] == '{"t":'


def test_a_file_grows_ever_more_slowly_and_then_no_more(path):
    """The time between lines doubles with every stretch; a full file takes nothing."""
    path.parent.mkdir(parents=True)
    for size, stride in ((0, 1), (STRETCH, 2), (3 * STRETCH, 8), (MOST, 256)):
        with path.open("wb") as file:
            file.truncate(size)
        grown = SampleFile(path)
        grown.start()
        grown.put({"t": 1})
        grown.stop(PATIENCE_S)
        assert grown.stride == stride
    assert path.stat().st_size == MOST

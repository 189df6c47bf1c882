from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ftslurm.checkpoint.handover import (
    TOLD,
    WAIT,
    AgentClient,
    Fetched,
    Handover,
    Op,
    Order,
    OrderReader,
    Request,
    end_time,
    failure_line,
    orders_path,
    write_order,
)
from ftslurm.errors import DataDamaged, StorageError
from tests.checkpoint.fake_agent import FakeAgent

GENERATION = "000000120-0001"


@pytest.fixture
def agent(tmp_path: Path):
    """Makes agents whose socket has a path of more than 108 characters; closes them."""
    made: list[FakeAgent] = []
    folder = tmp_path / ("deep" * 20) / ("deeper" * 10)
    folder.mkdir(parents=True)

    def make(answer: bytes) -> tuple[FakeAgent, AgentClient]:
        made.append(FakeAgent(folder / "store.sock", answer))
        return made[-1], AgentClient(folder / "store.sock", silence_s=10)

    yield make
    for each in made:
        each.close()


def test_fetch(agent):
    """A fetch names generation and file; patience is asked for on lines of their own, however they are cut."""
    made, client = agent(WAIT + WAIT + Fetched(Path("/scratch/x/00003.bin"), "partner").to_bytes())
    assert client.fetch(GENERATION, "00003.bin") == Fetched(Path("/scratch/x/00003.bin"), "partner")
    assert made.asked == [Request(op=Op.FETCH, generation=GENERATION, name="00003.bin")]


def test_told(agent):
    """What could not be loaded or saved is told with its reason."""
    made, client = agent(TOLD)
    client.tell(Op.REFUSED, GENERATION, "chunk 7 of 00003.bin")
    assert made.asked == [Request(op=Op.REFUSED, generation=GENERATION, reason="chunk 7 of 00003.bin")]


@pytest.mark.parametrize(("damaged", "kind"), [(True, DataDamaged), (False, StorageError)])
def test_fetch_of_what_cannot_be_had(agent, damaged, kind):
    """Damage and bad weather are told apart."""
    _, client = agent(failure_line("no copy", damaged=damaged))
    with pytest.raises(kind, match=f"00003.bin of {GENERATION}: no copy"):
        client.fetch(GENERATION, "00003.bin")


@pytest.mark.parametrize("answer", [b"", WAIT, b'{"path"'])
def test_agent_that_breaks_off(agent, answer):
    """An agent that goes away in the middle is no answer."""
    _, client = agent(answer)
    with pytest.raises(StorageError, match="broke off"):
        client.fetch(GENERATION, "00003.bin")


def test_no_agent(tmp_path):
    """Nobody listens."""
    with pytest.raises(StorageError, match="does not answer"):
        AgentClient(tmp_path / "store.sock").fetch(GENERATION, "00003.bin")


def test_silent_agent(tmp_path):
    """An agent that accepts and says nothing is given up after the time of silence."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(StorageError, match="does not answer"):
            AgentClient(tmp_path / "s", silence_s=0.1).fetch(GENERATION, "00003.bin")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b'{"op":"fetch"}',
        b'{"op":"fetch","generation":"000000120-0001","name":"../x"}',
        b'{"op":"fetch","generation":"/etc","name":"00003.bin"}',
        b'{"op":"fetch","generation":7,"name":"00003.bin"}',
        b'{"op":"erase","generation":"000000120-0001","reason":"x"}',
        b'{"op":"failed","generation":"000000120-0001","reason":7}',
        b'{"op":["fetch"],"generation":"000000120-0001","reason":"x"}',
    ],
)
def test_hostile_requests(line):
    """What no rank can have sent is refused."""
    with pytest.raises(DataDamaged):
        Request.from_bytes(line)


def test_orders(tmp_path):
    """An order is seen once; one of another attempt, an older one and rubbish never."""
    write = tmp_path / "write"
    write.mkdir()
    reader = OrderReader(write, attempt=2)
    assert reader.look() is None
    write_order(write, Order(attempt=1, number=9, stop=True, why="preempt"))
    assert reader.look() is None
    order = Order(attempt=2, number=1, stop=True, why="time_limit")
    write_order(write, order)
    assert [reader.look(), reader.look()] == [order, None]
    write_order(write, Order(attempt=2, number=1, why="operator"))
    assert reader.look() is None
    orders_path(write).write_bytes(b'{"attempt":2,"number":3,"save":1,"stop":true,"why":"x"}')
    assert reader.look() is None
    os.utime(orders_path(write), (1, 1))
    write_order(write, Order(attempt=2, number=2, why="operator"))
    assert reader.look() == Order(attempt=2, number=2, why="operator")


def test_environment():
    """Outside of ftslurm there is no handover; inside, what is left out is empty."""
    assert Handover.of({}) is None
    assert Handover.of({"FTSLURM_RUN_ID": "r", "FTSLURM_CHECKPOINT_DIR": "/w", "FTSLURM_ATTEMPT": "x"}) is None
    found = Handover.of({"FTSLURM_RUN_ID": "r", "FTSLURM_CHECKPOINT_DIR": "/w", "FTSLURM_ATTEMPT": "3"})
    assert found == Handover(run_id="r", attempt=3, write=Path("/w"))


def test_end_time():
    """Ftslurm's word on the end of the job comes before Slurm's; neither is None."""
    assert end_time({}) is None
    assert end_time({"SLURM_JOB_END_TIME": "1770000000"}) == 1_770_000_000
    assert end_time({"SLURM_JOB_END_TIME": "1770000000", "FTSLURM_END_TIME": "1760000000"}) == 1_760_000_000
    assert end_time({"SLURM_JOB_END_TIME": "Unknown"}) is None

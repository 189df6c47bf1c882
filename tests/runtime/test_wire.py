"""The codec: what the key's holder says arrives as it was said, and nothing else is ever taken for a message."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftslurm.runtime.wire import HEAD, MAX_FRAME, MAX_GREETING, Wire, WireError

KEY = bytes(32)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
MESSAGES = st.lists(st.dictionaries(st.text(), JSON, max_size=5), min_size=1, max_size=6)


def met(*, key: bytes = KEY, run_id: str = "r", epoch: int = 3) -> tuple[Wire, Wire]:
    """A client with the given credentials and a server with ours, after their handshake."""
    server, client = Wire(KEY, "r", {"role": "server"}, epoch=3), Wire(key, run_id, {"role": "rank", "rank": 1})
    client.feed(server.take())
    server.feed(client.take())
    client.feed(server.take())
    return client, server


def open_to_data(*wires: Wire) -> None:
    """Let these ends take raw data."""
    for wire in wires:
        wire.takes_data = True


def said_data(wire: Wire, data: bytes) -> bytes:
    """Send raw data; return its bytes."""
    wire.send_data(data)
    return wire.take()


@settings(max_examples=30)
@given(st.lists(st.binary(max_size=5000) | st.dictionaries(st.text(), JSON, max_size=3), max_size=6), st.integers())
def test_raw_data_arrives_between_messages(parts: list, seed: int) -> None:
    """Both ways, in order, however the network cuts the bytes; whatever the data looks like."""
    client, server = met()
    open_to_data(client, server)
    cuts = random.Random(seed)
    for sender, receiver in ((client, server), (server, client)):
        data = b"".join(said_data(sender, part) if isinstance(part, bytes) else said(sender, part) for part in parts)
        found = []
        while data:
            cut = cuts.randint(1, len(data))
            found += receiver.feed(data[:cut])
            data = data[cut:]
        assert found == [{"data": part} if isinstance(part, bytes) else part for part in parts]


def test_raw_data_is_refused_where_nobody_wants_it() -> None:
    """Supervisor, agents and ranks speak JSON to each other: anything else ends the connection."""
    client, server = met()
    with pytest.raises(WireError, match="not JSON"):
        server.feed(said_data(client, b"{}"))


def test_raw_data_is_no_greeting() -> None:
    """Before the handshake nothing but the handshake is taken, also where data will be."""
    server = Wire(KEY, "r", {}, epoch=3)
    open_to_data(server)
    with pytest.raises(WireError):
        server.feed(HEAD.pack(3, bytes(32)) + b"\0ab")
    with pytest.raises(WireError, match="before the handshake"):
        server.send_data(b"x")


@given(st.data())
def test_no_changed_byte_of_raw_data_is_accepted(data: st.DataObject) -> None:
    """Any bit flipped anywhere in a frame of data: nothing comes out of it, ever."""
    client, server = met()
    open_to_data(server)
    frame = bytearray(said_data(client, b"tensor" * 10))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = server.feed(bytes(frame) + bytes(MAX_GREETING))
    except WireError:
        return
    assert found == []
    assert server.partial


@pytest.mark.parametrize(
    "deceit",
    [lambda one, two, other: one + one, lambda one, two, other: two, lambda one, two, other: other],
    ids=["replayed", "skipped", "of another connection"],
)
def test_frames_of_data_count_once_and_in_order(deceit) -> None:
    """A block recorded on the network is worth nothing at any other place of the file, or in another one."""
    client, server = met()
    stranger, _ = met()
    open_to_data(server)
    one, two = said_data(client, b"1"), said_data(client, b"2")
    with pytest.raises(WireError, match="no holder of the key"):
        server.feed(deceit(one, two, said_data(stranger, b"1")))


def test_data_is_bounded_as_messages_are() -> None:
    """Nobody may send more than 8 MiB at once."""
    client, _ = met()
    with pytest.raises(WireError, match="too large"):
        client.send_data(bytes(MAX_FRAME))


def said(wire: Wire, message: dict[str, object]) -> bytes:
    """Send a message; return its bytes."""
    wire.send(message)
    return wire.take()


def test_both_know_each_other_after_the_handshake() -> None:
    """Hellos and the server's epoch have arrived, authenticated."""
    client, server = met()
    assert client.ready
    assert server.ready
    assert (client.epoch, client.peer["role"]) == (3, "server")
    assert (server.peer["role"], server.peer["rank"]) == ("rank", 1)


@settings(max_examples=30)
@given(MESSAGES, MESSAGES, st.integers())
def test_messages_arrive_as_they_were_sent(up: list, down: list, seed: int) -> None:
    """Both ways, in order, however the network cuts the bytes."""
    client, server = met()
    cuts = random.Random(seed)
    for sender, receiver, messages in ((client, server, up), (server, client, down)):
        data = b"".join(said(sender, message) for message in messages)
        found = []
        while data:
            cut = cuts.randint(1, len(data))
            found += receiver.feed(data[:cut])
            data = data[cut:]
        assert found == messages
        assert not receiver.partial


@given(st.data())
def test_no_changed_byte_is_accepted(data: st.DataObject) -> None:
    """Any bit flipped anywhere in a frame: no message comes out of it, ever."""
    client, server = met()
    frame = bytearray(said(client, {"t": "exit", "code": 0}))
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = server.feed(bytes(frame) + bytes(MAX_GREETING))
    except WireError:
        return
    assert found == []
    assert server.partial


@given(st.binary(max_size=200), st.booleans())
def test_garbage_is_never_a_message(garbage: bytes, ready: bool) -> None:
    """Before and after the handshake, whatever is thrown at either end."""
    client, server = met() if ready else (Wire(KEY, "r", {}), Wire(KEY, "r", {}, epoch=3))
    for wire in (client, server):
        try:
            assert wire.feed(garbage) == []
        except WireError:
            continue
        assert wire.ready is ready


@pytest.mark.parametrize(
    "deceit",
    [
        lambda first, second, other: first + first,  # replayed
        lambda first, second, other: second,  # the first one held back
        lambda first, second, other: second + first,  # reordered
        lambda first, second, other: other,  # of another connection of the same run
    ],
    ids=["replayed", "skipped", "reordered", "of another connection"],
)
def test_frames_count_once_and_in_order(deceit) -> None:
    """A frame recorded on the network is worth nothing at any other place."""
    client, server = met()
    stranger, _ = met()
    first, second = said(client, {"n": 1}), said(client, {"n": 2})
    with pytest.raises(WireError, match="no holder of the key"):
        server.feed(deceit(first, second, said(stranger, {"n": 1})))


def test_a_reflected_frame_is_refused() -> None:
    """What an end has said itself is not taken for the other's word."""
    client, server = met()
    with pytest.raises(WireError, match="no holder of the key"):
        client.feed(said(client, {"t": "kill"}))
    with pytest.raises(WireError, match="no holder of the key"):
        server.feed(said(server, {"t": "kill"}))


@pytest.mark.parametrize("wrong", [{"key": b"x" * 32}, {"run_id": "s"}])
def test_another_run_gets_no_further_than_hello(wrong: dict) -> None:
    """Another key, or the key of another run: the server refuses the client's first frame."""
    with pytest.raises(WireError, match="no holder of the key"):
        met(**wrong)


def test_a_server_without_the_key_is_refused() -> None:
    """The client takes nothing from a server that greets well but cannot prove the key."""
    server, client = Wire(b"x" * 32, "r", {}, epoch=3), Wire(KEY, "r", {})
    client.feed(server.take())
    hello = client.take()
    forger = Wire(b"x" * 32, "r", {}, epoch=3)
    with pytest.raises(WireError):
        forger.feed(hello)
    payload = b'{"nonce":"%s"}' % (b"0" * 32)
    with pytest.raises(WireError, match="no holder of the key"):
        client.feed(HEAD.pack(len(payload), bytes(32)) + payload)


def test_a_changed_epoch_in_the_greeting_is_noticed() -> None:
    """Whoever sits between cannot make an old server look new: the epoch is part of the key."""
    server, client = Wire(KEY, "r", {}, epoch=3), Wire(KEY, "r", {})
    greeting = json.loads(server.take()[HEAD.size :])
    forged = json.dumps({**greeting, "epoch": 4}).encode()
    client.feed(HEAD.pack(len(forged), bytes(32)) + forged)
    with pytest.raises(WireError, match="no holder of the key"):
        server.feed(client.take())


@pytest.mark.parametrize(
    "greeting",
    [
        b"[]",
        b"{",
        b"{}",
        b"\xff\xfe",
        b'{"v":2,"nonce":"%s","epoch":1}' % (b"0" * 32),
        b'{"v":1,"nonce":"short","epoch":1}',
        b'{"v":1,"nonce":7,"epoch":1}',
        b'{"v":1,"nonce":"%s","epoch":"1"}' % (b"0" * 32),
        b'{"v":1,"nonce":"%s","epoch":true}' % (b"0" * 32),
        b"[" * 4000,
    ],
)
def test_a_malformed_greeting_ends_the_connection(greeting: bytes) -> None:
    """Version, nonce, epoch and JSON itself are checked before anything is derived from them."""
    with pytest.raises(WireError):
        Wire(KEY, "r", {}).feed(HEAD.pack(len(greeting), bytes(32)) + greeting)


def test_sizes_are_bounded_before_memory_is_used() -> None:
    """A stranger may announce 4 KiB, a known peer 8 MiB; nobody may send more."""
    with pytest.raises(WireError, match="a frame of 4097 bytes"):
        Wire(KEY, "r", {}, epoch=1).feed(HEAD.pack(MAX_GREETING + 1, bytes(32)))
    client, server = met()
    with pytest.raises(WireError, match="a frame of"):
        server.feed(HEAD.pack(MAX_FRAME + 1, bytes(32)))
    with pytest.raises(WireError, match="too large"):
        client.send({"text": "x" * MAX_FRAME})


def test_nothing_can_be_sent_before_the_handshake() -> None:
    """Neither end talks to somebody that it does not know."""
    with pytest.raises(WireError, match="before the handshake"):
        Wire(KEY, "r", {}, epoch=1).send({"t": "go"})


def test_a_message_that_is_no_json_leaves_the_channel_whole() -> None:
    """The sender's mistake is the sender's error; the next message goes through."""
    client, server = met()
    with pytest.raises(ValueError, match="JSON"):
        client.send({"x": float("nan")})
    with pytest.raises(TypeError):
        client.send({"x": b"bytes"})
    assert server.feed(said(client, {"x": 1})) == [{"x": 1}]

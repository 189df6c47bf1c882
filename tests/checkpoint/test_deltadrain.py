from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from threading import Event

import pytest

from ftslurm.checkpoint.deltadrain import Packing, clean_packed, drain_packed
from ftslurm.checkpoint.drain import Target
from ftslurm.core.deltas import Account, Rules, Sent
from ftslurm.core.rankindex import Encoding
from ftslurm.errors import DataDamaged, StorageError
from tests.checkpoint.packable import FAST, SLOW, Node, bytes_of, loaded, manifest_digest, stepped, tensor
from tests.checkpoint.world import World

XOR, ZSTD = Encoding.XOR_ZSTD, Encoding.ZSTD
STATE = (tensor("w", 300_000),)
NEXT = (stepped(STATE[0]),)


@pytest.fixture
def node(tmp_path):
    """One node and a store."""
    return Node(tmp_path)


@pytest.fixture
def saved(node):
    """A node with (a durable base, the next generation)."""
    return node.save_durably(1, STATE), node.save(2, NEXT)


def flip(path, at):
    """Change one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# ---------------------------------------------------------------------------------------------------- when it pays


def test_on_a_slow_link_every_part_is_packed(node, saved):
    """And what was measured goes into the account."""
    base, name = saved
    account = SLOW
    for step in (2, 3, 4, 5):
        name = node.save(step, NEXT) if step > 2 else name
        out = node.drain(name, base, account)
        account = replace(out.account, sent=(*SLOW.sent, out.account.sent[-1]))  # the scratch of a test is no slow link
        assert out.references == {base}
    assert out.reason.startswith("xor+zstd pays: the link takes 0 MB/s, the break-even is ")
    assert len(account.trial(XOR).packed) == 3
    assert out.account.sent[-1].sent_bytes == out.part.size_bytes


def test_on_a_fast_link_it_turns_itself_off(node, saved):
    """One part is packed, it does not pay, and the next ones go as they are; until it is tried again."""
    base, name = saved
    out = node.drain(name, base, FAST)
    assert out.references == {base}
    assert out.account.trial(XOR).rest == Rules().retry_after
    for rest in range(Rules().retry_after, Rules().retry_after - 3, -1):
        name = node.save(rest + 100, NEXT)
        account = Account(sent=FAST.sent, trials=out.account.trials)
        out = node.drain(name, base, account)
        assert out.report.ok
        assert out.references == frozenset()
        assert out.part.manifest_digest == manifest_digest(node.captured(name))
        assert out.reason.startswith("xor+zstd did not pay: the link takes ")
        assert out.reason.endswith(f"; to be tried again in {rest} generations")


def test_a_part_is_given_up_when_it_is_plain_that_it_cannot_pay(node, saved):
    """Where the link is faster than packing the rest is not packed."""
    base, name = saved
    rules = Rules(probe_bytes=1 << 20)
    packing = Packing(folder=node.scratch.packed, base=base, account=FAST, rules=rules)
    out = drain_packed(node.captured(name).root, "n1", node.target, packing)
    assert out.report.ok
    assert out.reason.startswith("packing is slower than the link (")
    assert out.references == frozenset()
    assert out.account.trial(XOR).rest == rules.retry_after


def test_the_first_part_goes_as_it_is(node):
    """It measures the link."""
    name = node.save(1, STATE)
    out = node.drain(name, account=Account())
    assert out.reason == "the link has not been measured yet"
    (sent,) = out.account.sent
    assert sent.sent_bytes == out.part.size_bytes
    assert manifest_digest(node.durable(name)) == manifest_digest(node.captured(name))


# ------------------------------------------------------------------------------------------- one part, one content


def test_a_drain_that_is_repeated_brings_the_same(node, saved):
    """The way is chosen once: a change of mind would write over what may be committed by then."""
    base, name = saved
    first = node.drain(name, base)
    again = node.drain(name, base, FAST)
    assert again.reason == "as before"
    assert (again.part, again.references, again.folder) == (first.part, {base}, first.folder)
    assert again.account == FAST


def test_what_went_as_it_was_is_not_packed_later(node, saved):
    """Also when the agent has lost its memory in between."""
    base, name = saved
    first = node.drain(name, base, Account())
    again = node.drain(name, base, SLOW)
    assert again.part == first.part
    assert again.references == frozenset()


@pytest.mark.parametrize("account", [SLOW, FAST, Account()])
@pytest.mark.parametrize("lost", ["folder", "bytes"])
def test_what_is_committed_is_never_written_over(node, saved, lost, account):
    """A committed part whose packed copy is lost or damaged is read back where it lies, and told again."""
    base, name = saved
    first = node.difference(name, base)
    if lost == "folder":
        shutil.rmtree(node.scratch.packed)
    else:
        flip(node.packed(name).data / "00000.bin", 5000)
    again = node.drain(name, base, account)
    assert again.report.ok
    assert (again.part, again.references) == (first.part, {base})
    assert lost == "bytes" or again.folder == node.durable(name).root
    assert loaded(node.durable(name), NEXT) == bytes_of(NEXT)


def test_a_committed_part_is_repaired_from_the_packed_one(node, saved):
    """As with parts that went as they were: what is wrong there is brought again."""
    base, name = saved
    node.difference(name, base)
    flip(node.durable(name).data / "00000.bin", 5000)
    assert node.drain(name, base).report.ok
    assert loaded(node.durable(name), NEXT) == bytes_of(NEXT)


def test_a_committed_part_that_cannot_be_repaired_is_told(node, saved):
    """There is no other part with these digests."""
    base, name = saved
    node.difference(name, base)
    shutil.rmtree(node.scratch.packed)
    flip(node.durable(name).data / "00000.bin", 5000)
    out = node.drain(name, base)
    assert out.report.damaged
    assert out.part is None


def test_a_damaged_packed_part_is_made_again(node, saved):
    """It was not committed yet, so it may become another one."""
    base, name = saved
    node.drain(name, base)
    flip(node.packed(name).data / "00000.bin", 5000)
    shutil.rmtree(node.durable(name).root)
    out = node.difference(name, base)
    assert out.references == {base}
    assert loaded(node.durable(name), NEXT) == bytes_of(NEXT)


# ------------------------------------------------------------------------------------- what cannot be packed goes raw


def as_it_was(node, out, name):
    """The part was drained as it was captured; returns the reason."""
    assert out.report.ok, out
    assert out.references == frozenset()
    assert out.part.manifest_digest == manifest_digest(node.captured(name)) == manifest_digest(node.durable(name))
    node.commit(name, out.part)
    assert loaded(node.durable(name), NEXT) == bytes_of(NEXT)
    return out.reason


def test_a_base_that_is_not_durable_serves_nobody(node):
    """A difference is drained after its base."""
    base, name = node.save(1, STATE), node.save(2, NEXT)
    reason = as_it_was(node, node.drain(name, base), name)
    assert reason == f"not packed: {node.durable(base).commit} is missing"


def test_a_base_that_was_captured_elsewhere_serves_nobody(node, saved):
    """Its bytes are needed here."""
    base, name = saved
    shutil.rmtree(node.captured(base).root)
    assert "it was not captured here" in as_it_was(node, node.drain(name, base), name)


def test_a_damaged_base_serves_nobody(node, saved):
    """Its bytes are verified like the part's own."""
    base, name = saved
    flip(node.captured(base).data / "00000.bin", 1_100_000)
    assert "00000.bin: chunk 1: wrong bytes" in as_it_was(node, node.drain(name, base), name)
    assert not node.packed(name).data.exists()


def test_a_base_of_another_world_serves_nobody(node, saved):
    """A reader would refuse it."""
    base, _ = saved
    node.world_size = 2
    name = node.save(3, {0: NEXT, 1: NEXT})
    out = node.drain(name, base)
    assert out.report.ok
    assert out.reason == f"not packed: {base} is no base for {name}: another run or world"


def test_what_refers_to_another_generation_is_no_difference_from_this_one(node, saved):
    """A generation hangs on one base alone."""
    base, other = saved
    node.difference(other, "")
    name = node.save(3, [*NEXT, tensor("x", 5)], base=base)
    second = node.save(4, [*NEXT, *STATE[:0]], base=other)
    assert node.drain(name, base).report.ok
    out = node.drain(second, base)
    assert out.reason == f"not packed: {base} is no base for what refers to {other} already"
    assert out.references == {other}


def test_only_entries_that_the_store_has_too_are_differences(node, saved):
    """What lies on scratch under the base's name must be what a reader finds in the store."""
    base, name = saved
    shutil.rmtree(node.captured(base).root)
    node.save(1, NEXT)  # another content under the same name
    out = node.drain(name, base)
    assert out.references == frozenset()
    node.commit(name, out.part)
    assert loaded(node.durable(name), NEXT) == bytes_of(NEXT)


@pytest.mark.parametrize("module", ["numpy", "zstandard"])
def test_without_the_libraries_it_goes_as_it_is(node, saved, monkeypatch, module):
    """The agent's Python need not have what the program's has."""
    base, name = saved
    for known in [each for each in sys.modules if each.split(".")[-1] in {"packing", "delta", "window", module}]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, module, None)
    out = node.drain(name, base)
    monkeypatch.undo()
    assert module in as_it_was(node, out, name)


def test_files_of_the_programs_own_go_as_they_are(tmp_path):
    """Files mode has nothing to pack."""
    world = World(tmp_path)
    captured = world.capture("n1", 1, {"step_1.pt": b"program's own"})
    packing = Packing(folder=world.scratch("n1").packed, account=SLOW)
    out = drain_packed(captured.folder, "n1", Target(destination=str(world.store), patience_s=0), packing)
    assert out.report.ok
    assert out.part == captured.manifest.part(captured.digest)
    assert out.reason.startswith("not packed: 000000001-0000 of n1 does not consist of data files and indexes")


def test_full_scratch_does_not_stop_the_drain(node, saved):
    """Where there is no room for a packed part it goes as it is."""
    base, name = saved
    node.packed(name).root.parent.mkdir(parents=True)
    node.packed(name).root.write_text("in the way")
    out = node.drain(name, base)
    assert out.report.error  # not even the choice can be kept: it is told, not raised
    node.packed(name).root.unlink()
    assert node.drain(name, base).report.ok


def test_a_damaged_part_is_told(node, saved):
    """Packing finds it first; the drain says so, as it always does."""
    base, name = saved
    flip(node.captured(name).data / "00000.bin", 1_100_000)
    out = node.drain(name, base)
    assert out.report.damaged
    assert out.part is None
    assert "chunk 1: wrong bytes" in out.report.error


def test_a_part_that_is_not_there_is_told(node, saved):
    """Nothing is raised."""
    base, name = saved
    shutil.rmtree(node.captured(name).root)
    out = node.drain(name, base)
    assert out.report.damaged
    assert "was not captured here" in out.report.error


def test_it_stops_on_request(node, saved):
    """Nothing is kept of what was begun, so that it can be chosen anew."""
    base, name = saved
    stop = Event()
    stop.set()
    packing = Packing(folder=node.scratch.packed, base=base, account=SLOW)
    out = drain_packed(node.captured(name).root, "n1", node.target, packing, stop=stop)
    assert out.report.error == "stopped on request"
    assert not node.packed(name).root.exists()


def test_another_host_is_not_asked_about_the_base(node, saved):
    """What it holds cannot be looked at, so there are no differences; the error is that of the host."""
    base, name = saved
    target = Target(destination="-bad:/there", patience_s=0)
    out = drain_packed(node.captured(name).root, "n1", target, Packing(folder=node.scratch.packed, base=base))
    assert out.report.error


# ----------------------------------------------------------------------------------------------------------- cleaning


def test_packed_parts_leave_scratch_with_the_watermark(node, saved):
    """What is durable, or superseded by what is, needs no packed copy on the node."""
    base, name = saved
    third = node.save(3, NEXT)
    for each in (name, third):
        node.drain(each, base)
    assert clean_packed(node.scratch.packed, name) == (name,)
    assert not node.packed(name).root.exists()
    assert node.packed(third).root.exists()
    assert clean_packed(node.scratch.packed, name) == ()
    with pytest.raises(DataDamaged):
        clean_packed(node.scratch.packed, "../etc")


def test_cleaning_tells_what_goes_wrong(node):
    """A folder that is none."""
    node.scratch.packed.write_text("in the way")
    with pytest.raises(StorageError, match="cannot clean"):
        clean_packed(node.scratch.packed, "000000001-0000")


def test_sent_is_measured_only_when_something_was_sent(node, saved):
    """A part that lay there already says nothing about the link."""
    base, name = saved
    node.drain(name, base)
    shutil.rmtree(node.scratch.packed)
    out = node.drain(name, base)
    assert out.report.copied_bytes == 0
    assert out.account.sent == SLOW.sent
    assert Sent(sent_bytes=1, took_s=1e9) in out.account.sent

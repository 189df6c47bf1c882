from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ftslurm.insight import tail
from ftslurm.insight.tail import Growing, Lines, start_of_last

pieces = st.lists(st.sampled_from([b"\n", b"a", b"bc\r", b"\xff"]), max_size=30).map(b"".join)


@given(pieces, st.integers(0, 8), st.integers(1, 5))
def test_the_last_lines_are_those_that_tail_prints(tmp_path_factory, data, lines, block):
    """For any bytes and any block size, the last n lines are the last n of all lines."""
    path = tmp_path_factory.mktemp("tail") / "log"
    path.write_bytes(data)
    before, tail.BLOCK = tail.BLOCK, block
    try:
        start = start_of_last(path, lines)
    finally:
        tail.BLOCK = before
    # splitlines would also split at a carriage return, which is no end of a line here.
    every = data.replace(b"\r", b"R").splitlines(keepends=True)
    assert data[start:].replace(b"\r", b"R") == b"".join(every[-lines:] if lines else [])


def test_a_file_that_is_not_there_has_no_lines(tmp_path):
    """Nothing has been written yet is no error."""
    assert start_of_last(tmp_path / "nothing", 5) == 0
    assert list(Growing(tmp_path / "nothing").chunks()) == []


def test_only_what_is_new_comes(tmp_path):
    """Each look gives what was appended since; a file that was written anew is read from its start."""
    path = tmp_path / "log"
    file = Growing(path)
    path.write_bytes(b"one\ntw")
    assert b"".join(file.chunks()) == b"one\ntw"
    with path.open("ab") as out:
        out.write(b"o\n")
    assert b"".join(file.chunks()) == b"o\n"
    assert list(file.chunks()) == []
    path.write_bytes(b"new\n")
    assert b"".join(file.chunks()) == b"new\n"


def test_lines_are_whole():
    """A line is given out when its newline has come, the last one at the end without it."""
    lines = Lines()
    assert lines.take(b"a\nb") == [b"a"]
    assert lines.take(b"c\n\nd") == [b"bc", b""]
    assert lines.end() == [b"d"]
    assert lines.end() == []

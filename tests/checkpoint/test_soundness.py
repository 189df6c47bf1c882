from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import pytest

from ftslurm.checkpoint.soundness import fault_of, tells_its_end


def fault(path: Path, content: bytes) -> str:
    """What is said about a file with this content."""
    path.write_bytes(content)
    with path.open("rb") as file:
        return fault_of(file.fileno(), path)


def a_zip(comment: bytes = b"", entries: int = 3) -> bytes:
    """A zip as torch.save writes them: stored, several entries."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.comment = comment
        for number in range(entries):
            archive.writestr(f"archive/data/{number}", bytes([number]) * 3000)
    return out.getvalue()


def safetensors(sizes: list[int], header: object = None) -> bytes:
    """The format's layout: length of the header, header, tensors."""
    offsets = [(sum(sizes[:index]), sum(sizes[: index + 1])) for index in range(len(sizes))]
    tensors = {f"t{n}": {"dtype": "U8", "shape": [b - a], "data_offsets": [a, b]} for n, (a, b) in enumerate(offsets)}
    text = json.dumps({"__metadata__": {"a": "b"}, **tensors} if header is None else header).encode()
    return struct.pack("<Q", len(text)) + text + b"x" * sum(sizes)


def test_no_part_of_a_zip_passes_for_the_whole(tmp_path: Path) -> None:
    """Whatever a killed writer has left of a zip is refused, at every length."""
    whole = a_zip()
    assert fault(tmp_path / "a.pt", whole) == ""
    assert [size for size in range(4, len(whole), 7) if not fault(tmp_path / "a.pt", whole[:size])] == []
    assert fault(tmp_path / "a.pt", whole[:-1]) != ""


@pytest.mark.parametrize("comment", [b"", b"a comment", b"x" * 0xFFFF])
def test_a_zip_may_have_a_comment(tmp_path: Path, comment: bytes) -> None:
    """A comment after the directory is part of the format."""
    assert fault(tmp_path / "a.zip", a_zip(comment)) == ""


@pytest.mark.parametrize("entries", [0, 1, 70_000])
def test_small_and_large_zips(tmp_path: Path, entries: int) -> None:
    """An empty zip and one with a 64-bit directory are sound."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(entries):
            archive.writestr(str(number), b"")
    assert fault(tmp_path / "a.zip", out.getvalue()) == ""


def test_a_directory_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    """The directory of one zip at the end of another's data."""
    one, other = a_zip(entries=2), a_zip(entries=9)
    assert fault(tmp_path / "a.pt", one[:5000] + other[other.rindex(b"PK\x01\x02") :]) != ""
    assert fault(tmp_path / "a.npz", one[1000:]) != ""


def test_safetensors_tell_their_size(tmp_path: Path) -> None:
    """Any other size than the header's is refused, and so is a header that cannot be."""
    path = tmp_path / "a.safetensors"
    whole = safetensors([10, 0, 100_000])
    assert fault(path, whole) == ""
    assert "tells" in fault(path, whole[:-1])
    assert "tells" in fault(path, whole + b"x")
    assert "cut off" in fault(path, whole[:50])
    assert "cut off" in fault(path, b"abc")
    assert "unsound" in fault(path, safetensors([5], header={"t": {"data_offsets": "x"}}))
    assert "no object" in fault(path, safetensors([5], header=[]))
    assert "unsound" in fault(path, struct.pack("<Q", 3) + b"{{{")


def test_other_formats_must_only_not_be_empty(tmp_path: Path) -> None:
    """A pickle or raw file tells nothing about its end."""
    assert fault(tmp_path / "a.bin", b"") == "it is empty"
    assert fault(tmp_path / "a.pt", b"\x80\x02 a pickle of old") == ""


def test_what_tells_its_end(tmp_path: Path) -> None:
    """Only for these a sound structure proves that the writer came to the end."""
    for name, content, told in [("a.pt", a_zip(), True), ("a.bin", b"abc", False), ("a.safetensors", b"abc", True)]:
        path = tmp_path / name
        path.write_bytes(content)
        with path.open("rb") as file:
            assert tells_its_end(file.fileno(), path) == told


def test_what_torch_and_numpy_write_is_sound(tmp_path: Path) -> None:
    """The real writers' files pass, compressed ones and those of the old format too."""
    numpy = pytest.importorskip("numpy")
    torch = pytest.importorskip("torch")
    state = {"w": torch.arange(300_000), "name": "x", "nested": [torch.zeros(3)]}
    torch.save(state, tmp_path / "new.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    numpy.savez(tmp_path / "plain.npz", a=numpy.arange(100_000))
    numpy.savez_compressed(tmp_path / "small.npz", a=numpy.arange(100_000))
    for path in sorted(tmp_path.iterdir()):
        with path.open("rb") as file:
            assert fault_of(file.fileno(), path) == "", path.name

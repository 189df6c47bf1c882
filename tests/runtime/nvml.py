"""A fake NVML: the library of tests/data/nvml, compiled once for a test session."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "data" / "nvml" / "fake_nvml.c"
LIBRARY = "libnvidia-ml.so.1"


@dataclass(frozen=True)
class FakeNvml:
    """A folder with the library; `word` says what it plays."""

    folder: Path

    @property
    def file(self) -> Path:
        """The file that holds the word."""
        return self.folder / "mode"

    def play(self, word: str) -> None:
        self.file.write_text(word)

    def environ(self, gpus: int, file: Path | None = None) -> dict[str, str]:
        """Return the environment in which programs find this NVML."""
        own = {
            "LD_LIBRARY_PATH": str(self.folder),
            "FAKE_NVML_FILE": str(file or self.file),
            "FAKE_NVML_GPUS": str(gpus),
        }
        return {**{name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}, **own}


def build(folder: Path) -> FakeNvml:
    """Compile the library into a folder; a C compiler is one of the tests' prerequisites."""
    argv = ["cc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(folder / LIBRARY), str(SOURCE)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    fake = FakeNvml(folder)
    fake.play("healthy")
    return fake

"""An image for the stand-in of apptainer (tests/programs/container): a folder with the oldest Python that can be had.

It has neither ftslurm nor its Python; where there is no older one, the machine's own stands in.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs" / "container"
APPTAINER = PROGRAMS / "apptainer"
OLDEST = (3, 8)
_LEFT_OUT = shutil.ignore_patterns(
    "test", "tests", "site-packages", "idlelib", "config-*", "__pycache__", "include", "*.a"
)


def old_python() -> Path:
    """The folder of a Python from 3.8 on, as old as there is: a version of pyenv's, else the machine's own."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = sorted((_release(path), path) for path in root.glob("3.*") if (path / "bin/python3").exists())
    return next((path for release, path in found if release >= OLDEST), Path("/usr"))


def _release(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in path.name.split(".") if part.isdigit())


def make_image(folder: Path) -> Path:
    """Make an image; its Python is `python3` there."""
    python = old_python()
    folder.mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (folder / name).symlink_to(f"usr/{name}")
    (folder / "python").symlink_to(python)
    (folder / "mounts").write_text("/usr\n/proc\n/dev\n")
    if python != Path("/usr"):
        # At its own place, by which it finds its library.
        shutil.copytree(python, folder / python.relative_to("/"), symlinks=True, ignore=_LEFT_OUT)
    return folder


def version_in(image: Path) -> tuple[int, ...]:
    """The release of the image's Python; fails where the image does not work."""
    code = "import sys; print(*sys.version_info[:2])"
    argv = [str(APPTAINER), "exec", str(image), "python3", "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    return tuple(map(int, done.stdout.split()))

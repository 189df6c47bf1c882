"""Writes the files below <lab>/etc from templates/lab: Slurm's, sshd's, /etc/hosts and the lab's own accounts."""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import Any

from ftslurm.lab.layout import LOGIN, USER, LabSpec, Layout

_JOBS_PER_GENERATION = 1000
_GENERATIONS = 60000  # job ids stay below Slurm's default MaxJobId of 67 million


def templates() -> Path:
    """The folder of the lab's templates: inside an installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "templates" / "lab"
    return inside if inside.is_dir() else package.parent / "templates" / "lab"


def values(spec: LabSpec, layout: Layout) -> dict[str, Any]:
    """What the templates may name."""
    return {
        "base": str(layout.base),
        "login": LOGIN,
        "login_address": spec.address(LOGIN),
        "host_address": spec.host_address,
        "nodes": [{"name": node, "address": spec.address(node)} for node in spec.nodes],
        "munge_socket": str(layout.munge_socket),
        "first_job_id": (spec.generation % _GENERATIONS) * _JOBS_PER_GENERATION + 1,
        "slurmd_timeout_s": spec.slurmd_timeout_s,
        "prolog_flags": spec.prolog_flags,
        "proctrack": spec.proctrack,
        "cpus": spec.cpus,
        "memory_mb": spec.memory_mb,
        "gpus": spec.gpus,
    }


def render(spec: LabSpec, layout: Layout) -> dict[str, str]:
    """File name -> text, for every template."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(templates())
    jinja = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701  these are no web pages
    known = values(spec, layout)
    return {name.removesuffix(".j2"): jinja.get_template(name).render(known) for name in loader.list_templates()}


def write(spec: LabSpec, layout: Layout) -> None:
    """Write every configuration file of the lab."""
    layout.etc.mkdir(parents=True, exist_ok=True)
    files = render(spec, layout) | accounts(spec, layout)
    for name, text in files.items():
        path = layout.etc / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600 if name == "slurmdbd.conf" else 0o644)  # slurmdbd insists on it


def accounts(spec: LabSpec, layout: Layout) -> dict[str, str]:
    """The machine's own passwd and group with the lab's ordinary user added; the real files stay as they are."""
    passwd = _without_user(Path("/etc/passwd").read_text(encoding="utf-8"))
    group = _without_user(Path("/etc/group").read_text(encoding="utf-8"))
    home = layout.home(USER)
    return {
        "passwd": f"{passwd}{USER}:*:{spec.uid}:{spec.uid}:ordinary user of the lab:{home}:/bin/bash\n",
        "group": f"{group}{USER}:*:{spec.uid}:\n",
    }


def free_uid(wanted: int = 61234) -> int:
    """A user id that nobody on this machine has, the wanted one if possible."""
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    while wanted in taken:
        wanted += 1
    return wanted


def _without_user(text: str) -> str:
    kept = [line for line in text.splitlines() if line and not line.startswith(f"{USER}:")]
    return "\n".join(kept) + "\n"

"""Reads the command line of torchrun or `accelerate launch`, and writes it anew for an attempt.

Both start the ranks of one node and find the other nodes by what their options say. A fixed value there is wrong after
the first relaunch, so these options are always ftslurm's; all others, and the program with its arguments, stay as they
are, word for word. The rendezvous is the static one: the plan has fixed the nodes and their order, and restarts are
ftslurm's own, which no agent of torch's may begin (`max_restarts` 0).

Options are read as argparse reads them: `--x=y`, `--x y`, `--a-b` for `--a_b`, and any beginning that fits one alone.
They are written with underscores, which every release understands (torch 1.9 to 2.13, accelerate 0.20 to 1.15).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from ftslurm.errors import UsageError


class Kind(StrEnum):
    """Which program it is."""

    TORCHRUN = "torchrun"
    ACCELERATE = "accelerate launch"


_MODULES = {
    "torch.distributed.run": Kind.TORCHRUN,
    "torch.distributed.launch": Kind.TORCHRUN,
    "accelerate.commands.launch": Kind.ACCELERATE,
}
_NAMES = {"torchrun": Kind.TORCHRUN, "accelerate-launch": Kind.ACCELERATE}
_PYTHON = re.compile(r"python[0-9.]*")
_FLAGS = {
    Kind.TORCHRUN: frozenset({
        "help", "module", "no-python", "run-path", "standalone", "use-env", "virtual-local-rank",
    }),
    Kind.ACCELERATE: frozenset({
        "cpu", "debug", "downcast-bf16", "dynamo-use-dynamic", "dynamo-use-fullgraph",
        "dynamo-use-regional-compilation", "enable-cpu-affinity", "fp8-use-autocast-during-eval", "help", "ipex",
        "module", "multi-gpu", "no-python", "no-tpu-cluster", "quiet", "same-network", "tpu", "tpu-cluster",
        "tpu-use-sudo", "use-deepspeed", "use-fsdp", "use-megatron-lm", "use-parallelism-config", "use-xpu",
    }),
}  # fmt: skip
_OURS = {
    Kind.TORCHRUN: frozenset({
        "nnodes", "nproc-per-node", "node-rank", "rdzv-backend", "rdzv-endpoint", "rdzv-id", "standalone",
        "max-restarts", "master-addr", "master-port", "local-addr",
    }),
    Kind.ACCELERATE: frozenset({
        "num-machines", "num-processes", "machine-rank", "main-process-ip", "main-process-port", "rdzv-backend",
        "max-restarts", "deepspeed-multinode-launcher",
    }),
}  # fmt: skip
"""What a user's command line may say, and what never reaches the program of a node."""
_SHORT = {"-h": "help", "-m": "module", "-q": "quiet", "-r": "redirects", "-t": "tee"}
ENVIRONMENT = tuple(f"PET_{name.upper().replace('-', '_')}" for name in sorted(_OURS[Kind.TORCHRUN]))
"""By these variables torch takes the same options, also where accelerate does not say them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The part of one node in an attempt. `processes` is how many ranks every node has."""

    nnodes: int
    processes: int
    node_rank: int | str
    master_addr: str
    master_port: int | str
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchrunLine:
    """A command line in parts: what calls the launcher, each of its options, and the program with its arguments."""

    kind: Kind
    head: tuple[str, ...]
    options: tuple[tuple[str, tuple[str, ...]], ...]
    program: tuple[str, ...]

    def replaced(self) -> tuple[str, ...]:
        """Return the user's words that stand for something that every attempt says anew."""
        return tuple(word for name, words in self.options if name in _OURS[self.kind] for word in words)

    def said(self, name: str) -> str:
        """Return the value that the user gave an option, the last one where there are several; empty: none."""
        found = [words[-1].partition("=")[2] or words[-1] for each, words in self.options if each == name]
        return found[-1] if found else ""

    def rewritten(self, place: Place) -> tuple[str, ...]:
        """Return the command line for one node of an attempt."""
        kept = (word for name, words in self.options if name not in _OURS[self.kind] for word in words)
        said = _torchrun(place) if self.kind is Kind.TORCHRUN else _accelerate(place)
        return (*self.head, *said, *kept, *self.program)


def _torchrun(place: Place) -> tuple[str, ...]:
    host = f"[{place.master_addr}]" if ":" in place.master_addr else place.master_addr
    return (
        f"--nnodes={place.nnodes}",
        f"--nproc_per_node={place.processes}",
        f"--node_rank={place.node_rank}",
        "--rdzv_backend=static",
        f"--rdzv_endpoint={host}:{place.master_port}",
        f"--rdzv_id={place.run_id}",
        "--max_restarts=0",
    )


def _accelerate(place: Place) -> tuple[str, ...]:
    # DeepSpeed's own launcher for several nodes goes by ssh and a file of hosts; "standard" is torch's.
    return (
        f"--num_machines={place.nnodes}",
        f"--num_processes={place.nnodes * place.processes}",
        f"--machine_rank={place.node_rank}",
        f"--main_process_ip={place.master_addr}",
        f"--main_process_port={place.master_port}",
        "--rdzv_backend=static",
        "--max_restarts=0",
        "--deepspeed_multinode_launcher=standard",
    )


def read(command: Sequence[str], *, anywhere: bool = False) -> TorchrunLine | None:
    """Return the parts of a command line that calls torchrun or `accelerate launch`; None for any other.

    Args:
        command: the words.
        anywhere: also behind other words, as in `numactl -i all torchrun ...`.
    """
    words = tuple(command)
    for start in range(len(words) if anywhere else min(len(words), 1)):
        found = _head(words[start:])
        if found is not None:
            kind, length = found
            options, program = _split(kind, words[start + length :])
            return TorchrunLine(kind=kind, head=words[: start + length], options=options, program=program)
    return None


def _head(words: tuple[str, ...]) -> tuple[Kind, int] | None:
    """Which launcher these words begin with, and how many of them call it."""
    name = PurePosixPath(words[0]).name
    if name in _NAMES:
        return _NAMES[name], 1
    if name == "accelerate" and words[1:2] == ("launch",):
        return Kind.ACCELERATE, 2
    return _module(words) if _PYTHON.fullmatch(name) else None


def _module(words: tuple[str, ...]) -> tuple[Kind, int] | None:
    """As `_head`, of a call of Python: its options are passed over up to -m."""
    at = 1
    while at < len(words) and words[at].startswith("-"):
        word = words[at]
        if word.startswith("-m"):
            named = words[at + 1 : at + 2] if word == "-m" else (word[2:],)
            kind = _MODULES.get(named[0]) if named else None
            return None if kind is None else (kind, at + (2 if word == "-m" else 1))
        at += 2 if word in ("-W", "-X") else 1
    return None


def _split(kind: Kind, words: tuple[str, ...]) -> tuple[tuple[tuple[str, tuple[str, ...]], ...], tuple[str, ...]]:
    """The launcher's options, each with its words, and the rest, which begins with the first word that is none."""
    options: list[tuple[str, tuple[str, ...]]] = []
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] not in ("-", "--"):
        name = _name(kind, words[at])
        alone = name in _FLAGS[kind] or "=" in words[at] or (words[at][1] != "-" and len(words[at]) > 2)
        length = 1 if alone else 2
        options.append((name, words[at : at + length]))
        at += length
    return tuple(options), words[at:]


def _name(kind: Kind, word: str) -> str:
    if not word.startswith("--"):
        return _SHORT.get(word[:2], word[:2])
    given = word[2:].partition("=")[0].replace("_", "-")
    known = _FLAGS[kind] | _OURS[kind]
    fitting = [name for name in known if name.startswith(given)]
    return fitting[0] if given not in known and len(fitting) == 1 else given


def processes_of(line: TorchrunLine, nodes: int, gpus: int) -> int:
    """Return how many ranks a node gets by the user's own words.

    Args:
        line: the command line.
        nodes: the nodes that it will run on: accelerate counts the processes of all machines.
        gpus: the GPUs of a node, which the words `gpu` and `auto` mean; 0 where there are none.

    Raises:
        UsageError: nobody can know before the nodes have been asked, or it does not divide evenly.
    """
    torch = line.kind is Kind.TORCHRUN
    option = "--nproc-per-node" if torch else "--num_processes"
    said = line.said(option[2:].replace("_", "-")) or ("1" if torch else "auto")
    if said in ("gpu", "auto") and gpus:
        return gpus
    total = _number(said)
    if not total:
        raise UsageError(
            f"how many processes {line.kind} starts on a node cannot be known here: {option} is {said}",
            hint=f"give {option} as a number, or --gpus-per-node to `ftslurm run`",
        )
    machines = 1 if torch else _number(line.said("num-machines") or "1") or nodes
    if total % machines:
        raise UsageError(f"{total} processes ({option}) cannot be spread evenly over {machines} nodes")
    return total // machines


def _number(text: str) -> int:
    """The positive number that a text is; 0 for any other."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 7 else 0

"""Command lines of torchrun and `accelerate launch` as people write them, and what becomes of them in an attempt."""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys

import pytest

from ftslurm import torchrunline
from ftslurm.errors import UsageError
from ftslurm.torchrunline import Kind, Place, processes_of, read
from tests.lab.longer import long_test

PLACE = Place(nnodes=3, processes=8, node_rank=2, master_addr="10.0.0.1", master_port=23456, run_id="gpt-1")
TORCH = (
    "--nnodes=3 --nproc_per_node=8 --node_rank=2 --rdzv_backend=static --rdzv_endpoint=10.0.0.1:23456"
    " --rdzv_id=gpt-1 --max_restarts=0"
)
ACCELERATE = (
    "--num_machines=3 --num_processes=24 --machine_rank=2 --main_process_ip=10.0.0.1 --main_process_port=23456"
    " --rdzv_backend=static --max_restarts=0 --deepspeed_multinode_launcher=standard"
)

LINES = [
    # written, (head, what stays, program), replaced
    ("torchrun train.py", ("torchrun", "", "train.py"), ""),
    (
        "torchrun --standalone --nproc_per_node=gpu train.py --lr 1e-3",
        ("torchrun", "", "train.py --lr 1e-3"),
        "--standalone --nproc_per_node=gpu",
    ),
    (
        (
            "torchrun --nnodes 1:4 --nproc-per-node 8 --max-restarts 3 --rdzv-id $JOB --rdzv-backend c10d"
            " --rdzv-endpoint h:1 -m pkg.train --nnodes 7 -x"
        ),
        ("torchrun", "-m", "pkg.train --nnodes 7 -x"),
        "--nnodes 1:4 --nproc-per-node 8 --max-restarts 3 --rdzv-id $JOB --rdzv-backend c10d --rdzv-endpoint h:1",
    ),
    (
        (
            "/opt/env/bin/torchrun --nnodes=$N --node_rank=0 --master_addr=h --master_port=29500 --tee 3 -r3 -t 3"
            " --log_dir 'a b' train.py"
        ),
        ("/opt/env/bin/torchrun", "--tee 3 -r3 -t 3 --log_dir 'a b'", "train.py"),
        "--nnodes=$N --node_rank=0 --master_addr=h --master_port=29500",
    ),
    (
        "python -m torch.distributed.run --rdzv_conf=timeout=900 --local_addr h --no_python ./run.sh --standalone",
        ("python -m torch.distributed.run", "--rdzv_conf=timeout=900 --no_python", "./run.sh --standalone"),
        "--local_addr h",
    ),
    (
        "python3.11 -u -X faulthandler -W ignore -mtorch.distributed.run --nproc-per-node 2 -- train.py",
        ("python3.11 -u -X faulthandler -W ignore -mtorch.distributed.run", "", "-- train.py"),
        "--nproc-per-node 2",
    ),
    (
        "python -m torch.distributed.launch --use_env --nproc_per_node 4 train.py",
        ("python -m torch.distributed.launch", "--use_env", "train.py"),
        "--nproc_per_node 4",
    ),
    ("torchrun --nnode 2 --node 1 --standa train.py", ("torchrun", "", "train.py"), "--nnode 2 --node 1 --standa"),
    ("torchrun --monitor-interval 1 --role x train.py", ("torchrun", "--monitor-interval 1 --role x", "train.py"), ""),
    ("torchrun --some-day=1 train.py", ("torchrun", "--some-day=1", "train.py"), ""),
    (
        (
            "accelerate launch --multi_gpu --num_machines 4 --num_processes 32 --machine_rank $SLURM_PROCID"
            " --main_process_ip $HEAD --main_process_port 29500 --mixed_precision bf16 train.py --num_processes 1"
        ),
        ("accelerate launch", "--multi_gpu --mixed_precision bf16", "train.py --num_processes 1"),
        (
            "--num_machines 4 --num_processes 32 --machine_rank $SLURM_PROCID --main_process_ip $HEAD"
            " --main_process_port 29500"
        ),
    ),
    (
        "accelerate launch --config_file ds.yaml --rdzv_backend c10d --same_network -m pkg.train",
        ("accelerate launch", "--config_file ds.yaml --same_network -m", "pkg.train"),
        "--rdzv_backend c10d",
    ),
    (
        "python -m accelerate.commands.launch --use-deepspeed --zero-stage 3 --deepspeed_multinode_launcher pdsh t.py",
        ("python -m accelerate.commands.launch", "--use-deepspeed --zero-stage 3", "t.py"),
        "--deepspeed_multinode_launcher pdsh",
    ),
    ("accelerate-launch --cpu -q train.py", ("accelerate-launch", "--cpu -q", "train.py"), ""),
]


@pytest.mark.parametrize(("written", "parts", "replaced"), LINES, ids=[line[0][:40] for line in LINES])
def test_a_line_is_rewritten(written: str, parts: tuple[str, str, str], replaced: str) -> None:
    """The world is the attempt's; every other option, and the program with its arguments, stays word for word."""
    line = read(shlex.split(written))
    assert line is not None
    head, kept, program = map(shlex.split, parts)
    ours = shlex.split(TORCH if line.kind is Kind.TORCHRUN else ACCELERATE)
    assert list(line.rewritten(PLACE)) == [*head, *ours, *kept, *program]
    assert list(line.replaced()) == shlex.split(replaced)


@pytest.mark.parametrize(
    "written",
    [
        "python train.py", "python -m pkg.train torchrun", "python", "python -m", "bash -c 'torchrun train.py'",
        "accelerate config", "accelerate", "srun torchrun x", "mytorchrun x", "numactl -i all torchrun x", "",
    ],
)  # fmt: skip
def test_other_commands_are_left_alone(written: str) -> None:
    """Only the name of the command itself decides, unless somebody has said that it is one."""
    assert read(shlex.split(written)) is None


def test_words_before_it_stay_where_somebody_says_that_it_is_one() -> None:
    """With `launcher: torchrun` a prefix such as numactl or a container's is no obstacle."""
    line = read(shlex.split("apptainer exec --nv x.sif torchrun --standalone train.py"), anywhere=True)
    assert line is not None
    assert list(line.rewritten(PLACE)) == shlex.split(f"apptainer exec --nv x.sif torchrun {TORCH} train.py")


def test_an_address_of_ipv6_is_bracketed() -> None:
    """Its colons are not that of the port."""
    line = read(["torchrun", "x"])
    assert line is not None
    place = Place(nnodes=1, processes=1, node_rank=0, master_addr="fd00::1", master_port=1, run_id="r")
    assert "--rdzv_endpoint=[fd00::1]:1" in line.rewritten(place)


@pytest.mark.parametrize(
    ("written", "nodes", "gpus", "processes"),
    [
        ("torchrun --nproc_per_node 4 x", 2, 8, 4),
        ("torchrun --nproc-per-node=gpu x", 2, 8, 8),
        ("torchrun --nproc-per-node auto x", 2, 4, 4),
        ("torchrun x", 2, 8, 1),
        ("accelerate launch --num_processes 16 --num_machines 2 x", 4, 0, 8),
        ("accelerate launch --num_processes 16 --num_machines ${N} x", 4, 0, 4),
        ("accelerate launch --num_processes 4 x", 2, 0, 4),
        ("accelerate launch x", 2, 8, 8),
    ],
)
def test_how_many_ranks_a_node_gets(written: str, nodes: int, gpus: int, processes: int) -> None:
    """The user's own words say it; `gpu` and `auto` are what Slurm gives."""
    line = read(shlex.split(written))
    assert line is not None
    assert processes_of(line, nodes, gpus) == processes


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("torchrun --nproc_per_node gpu x", "--nproc-per-node is gpu"),
        ("torchrun --nproc_per_node cpu x", "--nproc-per-node is cpu"),
        ("torchrun --nproc_per_node 0 x", "--nproc-per-node is 0"),
        ("accelerate launch x", "--num_processes is auto"),
        ("accelerate launch --num_processes 9 --num_machines 2 x", "cannot be spread evenly"),
    ],
)
def test_a_number_that_nobody_knows_is_asked_for(written: str, said: str) -> None:
    """A world size is never guessed."""
    line = read(shlex.split(written))
    assert line is not None
    with pytest.raises(UsageError, match=said):
        processes_of(line, 2, 0)


PARSERS = """
import sys
from {module} import {parser}
for action in {parser}()._actions:
    for word in action.option_strings:
        if word.startswith("--"):
            print(word[2:].replace("_", "-"), action.nargs == 0)
"""


@long_test("it imports torch and accelerate")
@pytest.mark.parametrize(
    ("kind", "package", "module", "parser"),
    [
        (Kind.TORCHRUN, "torch", "torch.distributed.run", "get_args_parser"),
        (Kind.ACCELERATE, "accelerate", "accelerate.commands.launch", "launch_command_parser"),
    ],
)
def test_the_options_are_those_of_the_installed_release(kind: Kind, package: str, module: str, parser: str) -> None:
    """A bare flag taken for an option with a value would swallow the program's name, and the other way round."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    code = PARSERS.format(module=module, parser=parser)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    found = dict(line.split() for line in done.stdout.splitlines())
    flags = {name for name, alone in found.items() if alone == "True"}
    assert flags <= torchrunline._FLAGS[kind]
    assert torchrunline._OURS[kind] <= found.keys()
    assert not torchrunline._FLAGS[kind] & (found.keys() - flags)

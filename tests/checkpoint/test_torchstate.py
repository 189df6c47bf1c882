from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from ftslurm.checkpoint import torchplan
from ftslurm.checkpoint.objects import Packer, unpack
from ftslurm.checkpoint.torchplan import SavedTensor, as_array, reads
from ftslurm.checkpoint.torchstate import TorchState
from ftslurm.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.5),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
    "tensor lr": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.1)),
}


class Extra(nn.Module):
    """A module that keeps more than tensors, and hands out copies of some."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def get_extra_state(self) -> object:
        return {"count": self.count}

    def set_extra_state(self, state: object) -> None:
        self.count = state["count"]


def model(seed: int) -> nn.Sequential:
    """With a buffer, a weight without gradient, one that is not used, and state that is no tensor."""
    torch.manual_seed(seed)
    made = nn.Sequential(
        nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 1), Extra(), nn.ParameterList([torch.ones(2)])
    )
    made[2].bias.requires_grad_(False)
    return made


def train(module: nn.Sequential, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    """A few steps; the last part gets no gradient."""
    for step in range(steps):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        module[2](module[1](module[0](x))).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def kept(state: TorchState) -> tuple[dict[str, tuple[SavedTensor, bytes]], object]:
    """What one rank saves, as bytes and JSON."""
    packer = Packer()
    sources, record = state.sources(packer)
    assert not packer.arrays
    found = {}
    for source in sources:
        target = bytearray(source.nbytes)
        source.copy_to(memoryview(target))
        found[source.key] = SavedTensor(source.dtype, source.shape, ((source.offsets, source.sizes),)), bytes(target)
    return found, json.loads(json.dumps(record))


def load(state: TorchState, saved: dict[str, tuple[SavedTensor, bytes]], record: object) -> None:
    """Put it back."""
    tensors = state.destinations(saved.keys())
    for read in reads(tensors, {key: described for key, (described, _) in saved.items()}):
        array = as_array(read.target)
        array[...] = np.frombuffer(saved[read.key][1], array.dtype).reshape(read.sizes)
    state.finish(tensors, unpack(record, lambda spec: None))


def same(one: object, other: object) -> bool:
    """Equal in every bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_round_trip(kind: str, steps: int) -> None:
    """Model and optimizer come back exactly, whatever the optimizer keeps; so does one that has nothing yet."""
    module = model(1)
    optimizer = OPTIMIZERS[kind](module.parameters())
    train(module, optimizer, steps)
    module[3].count = 7
    saved, record = kept(TorchState(module, optimizer, {}, (0, 1)))
    other = model(2)
    its = OPTIMIZERS[kind](other.parameters())
    if steps:  # a program may make a first pass before it restores
        other[0].weight.grad = torch.ones_like(other[0].weight)
    load(TorchState(other, its, {}, (0, 1)), saved, record)
    assert same(other.state_dict(), module.state_dict())
    assert same(its.state_dict(), optimizer.state_dict())
    assert other[3].count == 7
    assert (other[0].weight.grad is not None) == bool(steps)
    its.zero_grad()
    train(module, optimizer)
    train(other, its)
    assert same(other.state_dict(), module.state_dict())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_looking_changes_nothing(kind: str) -> None:
    """A save leaves a fresh optimizer fresh, the weights and their gradients as they are, and draws no random number."""
    module = model(1)
    optimizer = OPTIMIZERS[kind](module.parameters())
    before = {key: torch.clone(value) for key, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    state, drawn = json.dumps(str(optimizer.state_dict())), torch.get_rng_state()
    kept(TorchState(module, optimizer, {}, (0, 1)))
    assert all(same(value, module.state_dict()[key]) for key, value in before.items())
    assert json.dumps(str(optimizer.state_dict())) == state
    assert all(value.grad is None for value in module.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_each_tensor_is_written_once() -> None:
    """Of ranks that all have the same, each writes a part, and together they write everything, buffers on rank 0."""
    module = model(1)
    optimizer = OPTIMIZERS["adamw"](module.parameters())
    train(module, optimizer)
    alone, _ = kept(TorchState(module, optimizer, {}, (0, 1)))
    parts = [kept(TorchState(module, optimizer, {}, (rank, 3)))[0] for rank in range(3)]
    assert sorted(key for part in parts for key in part) == sorted(alone)
    assert all(parts)
    assert "model.1.running_mean" in parts[0]


def test_several_by_name() -> None:
    """Several models and optimizers are kept under their names."""
    nets = {"actor": nn.Linear(2, 2), "critic": nn.Linear(2, 1)}
    optimizers = {name: torch.optim.Adam(net.parameters()) for name, net in nets.items()}
    nets["actor"](torch.ones(2)).sum().backward()
    optimizers["actor"].step()
    saved, record = kept(TorchState(nets, optimizers, {"t": torch.ones(2)}, (0, 1)))
    assert {
        "model.actor.weight",
        "model.critic.bias",
        "optimizer.state.actor.weight.exp_avg",
        "extra.t",
    } <= saved.keys()
    assert not any("state.critic" in key for key in saved)
    others = {"actor": nn.Linear(2, 2), "critic": nn.Linear(2, 1)}
    its = {name: torch.optim.Adam(net.parameters()) for name, net in others.items()}
    load(TorchState(others, its, {"t": torch.zeros(2)}, (0, 1)), saved, record)
    assert same(its["actor"].state_dict(), optimizers["actor"].state_dict())
    assert not its["critic"].state


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.complex128])
def test_types_and_strides(dtype: torch.dtype) -> None:
    """Every type of element, of scalars and of tensors that are not contiguous."""
    whole = torch.randn(6, 8, dtype=torch.float64).to(dtype)
    tensors = {"t": whole.t(), "every": whole[::2, 1::3], "scalar": whole[0, 0].clone(), "flags": whole.real > 0}
    saved, record = kept(TorchState(None, None, tensors, (0, 1)))
    others = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    others["t"] = torch.zeros_like(whole).t()
    load(TorchState(None, None, others, (0, 1)), saved, record)
    assert same(others, tensors)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(2, 3)), r"model.0.weight is float32\[2, 2\] there, float32\[3, 2\] here"),
        (lambda: nn.Sequential(nn.Linear(2, 2).double()), r"float32\[2, 2\] there, float64\[2, 2\] here"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), r"model\.1\.weight is not in the checkpoint"),
        (lambda: nn.Sequential(nn.Linear(2, 2, bias=False)), r"model\.0\.bias is not in the program"),
    ],
)
def test_another_program(changed: object, message: str) -> None:
    """A checkpoint of another model is the user's mistake, and said so."""
    saved, _ = kept(TorchState(nn.Sequential(nn.Linear(2, 2)), None, {}, (0, 1)))
    tensors = TorchState(changed(), None, {}, (0, 1)).destinations(saved.keys())
    with pytest.raises(UsageError, match=message):
        reads(tensors, {key: described for key, (described, _) in saved.items()})


def test_through_a_buffer(monkeypatch) -> None:
    """What cannot be read into at once, as on a GPU, comes through a buffer of limited size, in several turns."""
    monkeypatch.setattr(torchplan, "_BOUNCE_BYTES", 100)
    monkeypatch.setattr(torchplan.Read, "direct", property(lambda _: False))
    saved, _ = kept(TorchState(model(1), None, {}, (0, 1)))
    other = model(2)
    wanted = reads(
        TorchState(other, None, {}, (0, 1)).destinations(saved), {key: each for key, (each, _) in saved.items()}
    )
    turns = 0
    for batch, arrays in torchplan.landings(wanted):
        turns += 1
        for read, array in zip(batch, arrays, strict=True):
            array[...] = np.frombuffer(saved[read.key][1], array.dtype).reshape(read.sizes)
    assert turns > 1
    assert all(same(value, other.state_dict()[key]) for key, value in model(1).state_dict().items() if "3." not in key)


class Hoarder(torch.optim.SGD):
    """Keeps what cannot be kept."""

    def step(self, closure: object = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["lock"] = open  # a function


def test_unsupported_state() -> None:
    """What an optimizer keeps and nobody can save is named at save time, in one line."""
    module = nn.Linear(2, 2)
    optimizer = Hoarder(module.parameters(), lr=0.1)
    optimizer.step()
    with pytest.raises(UsageError, match=r"optimizer.state.weight.lock cannot be saved: it is a") as caught:
        kept(TorchState(module, optimizer, {}, (0, 1)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tensor", [torch.eye(2).to_sparse(), torch.empty(2, device="meta")])
def test_unsupported_tensors(tensor: torch.Tensor) -> None:
    """Tensors without plain memory are named."""
    with pytest.raises(UsageError, match=r"extra\.t cannot be saved"):
        kept(TorchState(None, None, {"t": tensor}, (0, 1)))

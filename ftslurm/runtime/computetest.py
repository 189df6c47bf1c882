"""Does this node compute what it should? A small matrix product against its known result.

The entries are small whole numbers, so that the product is exact in every floating-point format that holds its inputs
and sums (float64, float32, TF32): a single wrong bit shows, and so do NaN and Inf. On the CPU the test is plain Python.
On GPUs it needs torch, so this file is also a program that runs under the ranks' Python (3.8 and later), and imports
nothing of ftslurm: `computetest.py` prints one line of JSON, `[{"device": "gpu0", "wrong": 0}, ...]`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

CPU_SIZE = 24
GPU_SIZE = 1024
PERIOD = 7


def entry(row: int, column: int) -> int:
    """Return an entry of both factors: from -3 to 3."""
    return (row * 3 + column * 5 + row * column) % PERIOD - PERIOD // 2


def wrong_on_cpu(size: int = CPU_SIZE) -> int:
    """Return how many values of the product in floating point differ from the product in whole numbers."""
    numbers = [[entry(row, column) for column in range(size)] for row in range(size)]
    floats = [[float(number) for number in row] for row in numbers]
    wrong = 0
    for row in range(size):
        for column in range(size):
            exact = sum(numbers[row][k] * numbers[k][column] for k in range(size))
            computed = sum(floats[row][k] * floats[k][column] for k in range(size))
            wrong += computed != exact
    return wrong


def wrong_on_gpus(size: int = GPU_SIZE) -> list[dict[str, Any]]:
    """Return the number of wrong values for every GPU that torch can use; none where there is no torch or no GPU."""
    try:
        import torch
    except ImportError:
        return []
    if not torch.cuda.is_available():
        return []
    rows = torch.arange(size).unsqueeze(1)
    columns = torch.arange(size).unsqueeze(0)
    numbers = (rows * 3 + columns * 5 + rows * columns) % PERIOD - PERIOD // 2
    exact = (numbers.double() @ numbers.double()).float()
    found = []
    for index in range(torch.cuda.device_count()):
        factor = numbers.float().to(f"cuda:{index}")
        computed = (factor @ factor).cpu()
        # NaN is unequal to everything, itself included.
        found.append({"device": f"gpu{index}", "wrong": int((computed != exact).sum())})
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(wrong_on_gpus()) + "\n")

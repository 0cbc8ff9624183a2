"""How many training steps of trials a GPU makes a second: one network at a time, and K at once.

    python -m bench.gpu                  on a machine with an NVIDIA GPU: the table for RESULTS.md
    python -m bench.gpu --cells gru      a part of it
    python -m bench.gpu --most 512       not more networks at once than this
    python -m bench.gpu --device cpu     a rehearsal, tiny and without a graph

Ways: a network of torch.nn, which on a GPU is cuDNN's, one after another, never waited for; K runs
in `search.lanes`, as a search trains them: the whole step (minibatches, losses, gradients,
clipping, optimizers) is one CUDA graph, after which losses and norms are read and judged. K doubles
until memory is full or no more steps are made a second. Each turn of K at once is timed beside one
of torch.nn, and ratios are of medians. No epoch ends while the clock runs, so nothing is validated.
cuDNN may round to TF32, as torch lets it; ours does not.

Before a cell is timed, every way trains an epoch with each optimizer, in float64 and in float32,
whose losses must be those of torch.nn on the CPU; else the bench ends with exit code 1.

Shapes: K networks, B minibatch, T time, F features, H hidden, N examples, O outputs.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.gpu_ways import Way, in_lanes, one_network
from bench.waves import PLAIN, waves
from search.data.splits import Splits
from search.models import CELLS
from search.steps import KINDS
from search.training import Run, is_out_of_memory
from search.trial import Goal

MARK = 50.0
"""What is wanted of K networks at once, in steps a second of one; HFTA (Wang et al. 2021) says
15.1 of its own."""
GAIN = 1.05
"""K is doubled as long as it brings so many times the steps a second."""
CHECKS = ((torch.float64, 8, 1e-6), (torch.float32, 3, 1e-3))
"""How many losses are compared with the CPU's, and how much they may differ, relative. In float32
RMSprop made of a rounding a quarter of the loss within 8 steps at this rate, in float64 4e-9."""
WARM_UP = 3
"""Steps before the clock runs."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Scale:
    """What is measured.

    Attributes:
        batch: B.
        window: T.
        hidden: H.
        most: The largest K.
        steps: Timed steps of a turn.
        turns: Of each way.
    """

    batch: int
    window: int
    hidden: int
    most: int
    steps: int
    turns: int

    def splits(self, minibatches: int, dtype: torch.dtype = torch.float32) -> Splits:
        """Returns data of so many minibatches."""
        return waves(minibatches * self.batch, self.batch, self.window, dtype)


FULL = Scale(batch=32, window=50, hidden=64, most=16_384, steps=48, turns=3)
REHEARSAL = Scale(batch=16, window=8, hidden=16, most=4, steps=2, turns=1)


def make_runs(
    cell: str, scale: Scale, splits: Splits, count: int, device: torch.device, kinds: Sequence[str]
) -> list[Run]:
    """Returns untrained runs with seeds of their own, optimizers in turn."""
    params = replace(PLAIN, cell=cell, hidden_units=scale.hidden, batch_size=scale.batch)
    return [
        Run(replace(params, optimizer=kinds[at % len(kinds)]), splits, at, Goal(), device)
        for at in range(count)
    ]


@contextmanager
def exactly(dtype: torch.dtype) -> Iterator[None]:
    """New networks are of this dtype, and cuDNN does not round to TF32."""
    torch.set_default_dtype(dtype)
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def largest_difference(
    cell: str, scale: Scale, device: torch.device, dtype: torch.dtype, steps: int
) -> float:
    """Returns the largest relative difference of any way's losses to torch.nn's on the CPU."""
    here = scale.splits(steps, dtype)
    there = here.to(device)
    kinds = list(KINDS)

    def fresh(splits: Splits, place: torch.device) -> list[Run]:
        return make_runs(cell, scale, splits, len(kinds), place, kinds)

    def losses(ways: Sequence[Way]) -> Tensor:
        """Returns (steps, K)."""
        made = [torch.cat([way().cpu() for way in ways]) for _ in range(steps)]
        return torch.stack(made).double()

    expected = losses([one_network(run) for run in fresh(here, CPU)])
    found = [
        losses([one_network(run) for run in fresh(there, device)]),
        losses([in_lanes(fresh(there, device))]),
    ]
    return max(float(((one - expected) / expected).abs().max()) for one in found)


def rate(way: Way, count: int, steps: int, device: torch.device) -> float:
    """Returns the training steps a second of a way that trains so many networks."""
    for _ in range(WARM_UP):
        way()
    synchronize(device)
    started = time.perf_counter()
    for _ in range(steps):
        way()
    synchronize(device)
    return count * steps / (time.perf_counter() - started)


def synchronize(device: torch.device) -> None:
    """Waits for all that a GPU was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Measured:
    """A way with K networks.

    Attributes:
        rate: Training steps a second, of all networks together.
        one: Those of torch.nn, one network at a time, in the same turns.
        gibibytes: The most memory that was in use on the GPU; 0 on a CPU.
    """

    rate: float
    one: float
    gibibytes: float


def measured(
    make: Callable[[int], Way], one: Way, count: int, scale: Scale, device: torch.device
) -> Measured | None:
    """Times K networks and one in turn; None if memory is too small for K."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        way = make(count)
        pairs = [
            (rate(one, 1, scale.steps, device), rate(way, count, scale.steps, device))
            for _ in range(scale.turns)
        ]
    except RuntimeError as error:
        # To break off a capture for want of memory raises another error on the way out.
        causes = [one for one in (error, error.__context__) if one is not None]
        if not any(map(is_out_of_memory, causes)):
            raise
        return None
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    alone, together = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    return Measured(together, alone, peak / 2**30)


def doubling(
    make: Callable[[int], Way], one: Way, scale: Scale, device: torch.device
) -> dict[int, Measured | None]:
    """Returns what was measured by K; None: memory was too small."""
    found: dict[int, Measured | None] = {}
    count, before = 1, 0.0
    while count <= scale.most:
        found[count] = last = measured(make, one, count, scale, device)
        if last is None or last.rate < GAIN * before:
            break
        count, before = 2 * count, last.rate
    return found


def table_of(cell: str, scale: Scale, device: torch.device) -> list[str]:
    """Returns the lines of a cell: one for each K, then what the best is."""
    there = scale.splits(scale.turns * (scale.steps + WARM_UP) + 1).to(device)

    def lanes(count: int) -> Way:
        return in_lanes(make_runs(cell, scale, there, count, device, ["adam"]))

    one = one_network(make_runs(cell, scale, there, 1, device, ["adam"])[0])
    found = doubling(lanes, one, scale, device)
    lines = [f"| {cell} | {count} | {words(measure)} |" for count, measure in found.items()]
    ratio, count = max((one.rate / one.one, count) for count, one in found.items() if one)
    best = f"{ratio:.1f} times torch.nn one at a time, at K {count}"
    return [*lines, f"| {cell} | best | {best}; the mark is {MARK:.0f} |"]


def words(one: Measured | None) -> str:
    """Returns steps a second, times one at a time, and memory."""
    if one is None:
        return "memory too small"
    return f"{one.rate:.0f} ({one.rate / one.one:.1f} x, {one.gibibytes:.1f} GiB)"


def description(device: torch.device) -> str:
    """Says what it was measured with."""
    version = f"torch {torch.__version__}"
    if device.type == "cpu":
        return f"A rehearsal on a CPU, without a graph: no figure here means anything; {version}"
    driver = "unknown"
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        driver = said.splitlines()[0].strip() if said.strip() else driver
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return (
        f"{torch.cuda.get_device_name(device)}, driver {driver}, {version}, "
        f"CUDA {torch.version.cuda}, cuDNN {cudnn}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, checks and measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--most", type=int, help="the largest K")
    chosen = parser.parse_args(arguments)
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        needs = "an NVIDIA GPU and a torch built for it"
        print(
            f"bench.gpu needs {needs}; torch {torch.__version__} sees none here. "
            "--device cpu rehearses it",
            file=sys.stderr,
        )
        return 2
    scale = REHEARSAL if device.type == "cpu" else FULL
    scale = replace(scale, most=chosen.most or scale.most)
    print(description(device))
    print(f"B {scale.batch}, T {scale.window}, H {scale.hidden}, F 1, Adam, clipped\n")
    print("| cell | K | steps a second |\n|---|--:|--:|")
    for cell in chosen.cells:
        for dtype, steps, tolerance in CHECKS:
            with exactly(dtype):
                difference = largest_difference(cell, scale, device, dtype, steps)
            if not difference <= tolerance:
                print(
                    f"bench.gpu: losses of {cell} in {dtype} differ from torch.nn's on the CPU by "
                    f"{difference:.1e}, more than {tolerance:.0e}; nothing of it is timed",
                    file=sys.stderr,
                )
                return 1
        print("\n".join(table_of(cell, scale, device)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

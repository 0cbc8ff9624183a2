"""Which code trains an LSTM layer on this CPU: ours or torch's, as measured here once, and kept.

Torch calculates RNN and GRU layers by the same products as we do, with more calls between them. For
LSTM layers in single precision it has code of its own (oneDNN's). Which of both is quicker depends
on processor, units, minibatch and steps: torch's took 0.8 to 1.7 of our time (`studies/LOG.md`). So
the first trial of some sizes measures both, for as long as a few minibatches take.

What has been measured lies beside compiled code (`search.object_code`), a line for each sizes, in
one file that all processes of a machine add to. Of two lines of the same sizes the first counts,
for all. A trial keeps to what it has begun with, wherever it goes on, and it is stored with it, so
that `search.replay` takes the same. Networks are evaluated by our code.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from search.layer_functions import CompiledTape
from search.layer_memory import give_up_workspaces
from search.layer_tapes import Tape
from search.object_code import FINGERPRINT, cache_folders
from search.packing import Packing, full

SMALLEST = 96
"""Units below which torch's layer is not asked: of 64 and fewer it took 0.90 to 1.52 of our time,
mostly more than ours."""
GAIN = 0.9
"""Torch's layer is taken if it takes less than this part of our time: where both are nearly alike,
noise would decide, here so and there so."""
MOST_STEPS = 32
"""More are not measured; of so many, what comes once in a minibatch is a small part."""
MOST_BYTES = 1 << 28
"""Of a pass; larger ones are not measured, for which there might be too little memory."""
OURS, TORCHS = "ours", "torch's"
"""Whose layers."""
PAIRS = 3
"""How often both are measured, in turns, after once that does not count."""
_SETTINGS = ("ATEN_", "DNNL_", "MKL_", "ONEDNN_")
"""What variables of the environment begin with that libraries of products heed."""


class Sizes(NamedTuple):
    """Of a layer in training.

    Attributes:
        rows: B.
        steps: T.
        features: F.
        hidden: H.
    """

    rows: int
    steps: int
    features: int
    hidden: int

    def rounded(self) -> Sizes:
        """Returns the nearest of those that are measured: powers of two, and half way between."""
        return Sizes(*map(_rounded, self._replace(steps=min(self.steps, MOST_STEPS))))


class TorchsTape(Tape):
    """Of torch's own layer, whose way back autograd knows; all rows have all steps."""

    def __init__(self, cell: str, into: Sequence[Tensor], *, wanted: bool) -> None:
        self._cell, self._into, self._wanted = cell, into, wanted
        self._inputs = self._states = torch.empty(0)
        self._weights: Sequence[Tensor] = ()

    @torch.enable_grad()
    def there(
        self, inputs: Tensor, packing: Packing, start: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Calls torch's layer."""
        steps = inputs.detach().view(packing.steps, packing.rows, inputs.shape[1])
        self._inputs = steps.requires_grad_(self._wanted)
        self._weights = [weight.detach().requires_grad_() for weight in weights]
        self._states, *cells = run_torchs(self._cell, self._inputs, start, self._weights)
        states = self._states.detach().view(packing.total, -1)
        return states, [one.detach() for one in cells[1:]]

    def back(self, gradient: Tensor, places: Tensor | slice | None = None) -> Tensor | None:
        """Has autograd go back."""
        grad = gradient
        if places is not None:
            grad = gradient.new_zeros(self._states.shape).flatten(0, 1)
            grad[places] = gradient
        leaves = [*self._weights, *([self._inputs] if self._wanted else [])]
        found = torch.autograd.grad(self._states, leaves, grad.view(self._states.shape))
        for into, one in zip(self._into, found, strict=False):
            into.copy_(one)
        return found[-1].flatten(0, 1) if self._wanted else None


def run_torchs(
    cell: str, inputs: Tensor, start: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Runs one layer of one network as `torch.nn` does.

    Args:
        cell: ``rnn``, ``gru`` or ``lstm``.
        inputs: (T, B, F).
        start: (B, H) the hidden state; for LSTM also the cells.
        weights: (G, F), (G, H), (G,), (G,), in the order of `torch.nn`'s module.

    Returns:
        (T, B, H) the hidden state at every step, and (B, H) the state after the last.
    """
    run = {"rnn": torch.rnn_tanh, "gru": torch.gru, "lstm": torch.lstm}[cell]
    first = [state.unsqueeze(0) for state in start]
    steps, *ends = run(  # type: ignore[operator]
        inputs,
        first if cell == "lstm" else first[0],
        list(weights),
        has_biases=True,
        num_layers=1,
        dropout=0.0,
        train=torch.is_grad_enabled(),
        bidirectional=False,
        batch_first=False,
    )
    return steps, *(end[0] for end in ends)


def may_choose(cell: str, hidden: int) -> bool:
    """Says whether there may be something to choose, of layers of a cell with so many units."""
    return cell == "lstm" and hidden >= SMALLEST


def choose(cell: str, sizes: Sizes, precision: torch.dtype) -> str | None:
    """Returns whose layers train minibatches in which all rows have all steps.

    Args:
        cell: ``rnn``, ``gru`` or ``lstm``.
        sizes: Of the layer with the most inputs.
        precision: Of the weights.

    Returns:
        `OURS` or `TORCHS`; None where there is nothing to choose: ours.
    """
    asked = may_choose(cell, sizes.hidden) and precision == torch.float32
    if not asked or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    # On several threads it would be another measurement, of which the clock sees one thread.
    if torch.get_num_threads() != 1:
        return OURS
    return TORCHS if _ratio(sizes.rounded()) < GAIN else OURS


_RATIOS: dict[Sizes, float] = {}
"""What is known in this process: torch's time over ours."""


def _ratio(sizes: Sizes) -> float:
    if sizes not in _RATIOS:
        _RATIOS.update(_read())
    if sizes not in _RATIOS:
        measured = _measure_if_it_fits(sizes)
        if measured is None:  # Another time there may be room.
            return 1.0
        _keep(sizes, measured)
        # Another process may have kept it first.
        _RATIOS.update({sizes: measured, **_read()})
    return _RATIOS[sizes]


def _measure_if_it_fits(sizes: Sizes) -> float | None:
    rows, steps, features, hidden = sizes
    # Gates and cells of all steps, inputs and states, and their gradients; weights and theirs.
    numbers = 2 * rows * steps * (features + 8 * hidden) + 16 * hidden * (features + hidden)
    if 4 * numbers > MOST_BYTES:
        return None
    try:
        return measure(sizes)
    except (MemoryError, RuntimeError):  # Torch's lack of memory is the latter.
        give_up_workspaces()
        return None


def measure(sizes: Sizes) -> float:
    """Returns how long torch's LSTM layer of these sizes takes, there and back; ours takes 1."""
    random = torch.Generator().manual_seed(0)
    rows, steps, features, hidden = sizes
    shapes = [(4 * hidden, features), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,)]
    weights = [torch.empty(shape).uniform_(-0.1, 0.1, generator=random) for shape in shapes]
    inputs = torch.randn(steps * rows, features, generator=random)
    grad = torch.randn(steps * rows, hidden, generator=random)
    start = (torch.zeros(rows, hidden),) * 2

    def seconds(kind: type[Tape]) -> float:
        begun = time.thread_time()  # As of one thread, it does not count what others do meanwhile.
        tape = kind("lstm", [torch.empty(shape) for shape in shapes], wanted=True)
        tape.there(inputs, full(steps, rows), start, weights)
        tape.back(grad)
        return time.thread_time() - begun

    with torch.no_grad():
        pairs = [(seconds(TorchsTape), seconds(CompiledTape)) for _ in range(1 + PAIRS)]
    return statistics.median(theirs / max(ours, 1e-9) for theirs, ours in pairs[1:])


def _rounded(size: int) -> int:
    """Returns the nearest, by their ratio, of 1, 2, 3, 4, 6, 8, 12, 16 and so on."""
    below = 1 << (size.bit_length() - 1)
    return min((below, below * 3 // 2, below * 2), key=lambda one: abs(math.log(one / size)))


_FILE = "layers-{}.txt"
_END = "."
"""The last word of a line, without which it was cut off."""


def _read() -> dict[Sizes, float]:
    """Returns what is kept, the first place's first; what is not a line of ours is nothing."""
    found: dict[Sizes, float] = {}
    for folder in cache_folders():
        with contextlib.suppress(OSError):
            lines = (folder / _name()).read_text("ascii", "replace").splitlines()
            for words in map(str.split, lines):
                with contextlib.suppress(ValueError, TypeError):
                    *sizes, ratio, end = words
                    if end == _END:
                        found.setdefault(Sizes(*map(int, sizes)), float(ratio))
    return found


def _keep(sizes: Sizes, ratio: float) -> None:
    """Adds a line; where nothing can be kept, each process has only its own."""
    # In one piece, which no other's comes between; after what half a line may be left of.
    line = f"\n{' '.join(map(str, sizes))} {ratio:.3f} {_END}\n".encode("ascii")
    for folder in cache_folders():
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            descriptor = os.open(folder / _name(), flags, 0o666)
            try:
                written = os.write(descriptor, line)
            finally:
                os.close(descriptor)
            if written == len(line):
                break


def _name() -> str:
    """Returns the file's name, by a fingerprint of all that the ratio of both depends on."""
    settings = sorted(item for item in os.environ.items() if item[0].startswith(_SETTINGS))
    parts = FINGERPRINT, torch.__version__, torch.backends.cpu.get_cpu_capability(), settings
    return _FILE.format(hashlib.sha256(repr(parts).encode()).hexdigest()[:12])

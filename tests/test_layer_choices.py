"""Torch's LSTM layer trains where it is the quicker: measured once, kept, and equal to ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CPU, LOSS, hyper, series, sine, start, text, train
from torch import Tensor

from search import layer_choices
from search.dimensions import CELLS
from search.gradients import ByAutograd, ByHand
from search.layer_choices import (
    GAIN,
    MOST_STEPS,
    OURS,
    SMALLEST,
    TORCHS,
    Sizes,
    TorchsTape,
    choose,
    measure,
)
from search.layer_functions import CompiledTape
from search.layer_tapes import Tape
from search.models import SequenceModel, build
from search.packing import full
from search.training import Run, one_thread

LARGE = Sizes(16, 20, 3, 128)
"""What is measured as it is, but for its steps."""


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine on which nothing has been measured; returns where it is kept."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(layer_choices, "_RATIOS", {})
    with one_thread():
        yield tmp_path / "kept"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Sizes]:
    """Stands in for the clock: torch's layer takes half of our time; returns what is measured."""
    found: list[Sizes] = []

    def half(sizes: Sizes) -> float:
        found.append(sizes)
        return 0.5

    monkeypatch.setattr(layer_choices, "measure", half)
    return found


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goes on as another process would, which knows only what is kept."""
    monkeypatch.setattr(layer_choices, "_RATIOS", {})


def lines(kept: Path) -> list[str]:
    """Returns the lines that are kept."""
    return [line for file in kept.glob("layers-*.txt") for line in file.read_text().split("\n")]


@settings(max_examples=60, deadline=None)
@given(
    cell=st.sampled_from(CELLS),
    rows=st.integers(1, 9),
    steps=st.integers(1, 9),
    features=st.integers(1, 20),
    hidden=st.integers(1, 40),
    wanted=st.booleans(),
    places=st.sampled_from(["all", "last", "some"]),
    precision=st.sampled_from([torch.float32, torch.float64]),
)
def test_both_tapes_are_equal(
    cell: str,
    rows: int,
    steps: int,
    features: int,
    hidden: int,
    wanted: bool,
    places: str,
    precision: torch.dtype,
) -> None:
    """States, last cells and all gradients are: to 1e-11 in double, to 1e-4 in single precision."""
    torch.manual_seed(rows)
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[cell] * hidden
    shapes = [(gates, features), (gates, hidden), (gates,), (gates,)]
    weights = [torch.randn(shape, dtype=precision) / 3 for shape in shapes]
    inputs = torch.randn(steps * rows, features, dtype=precision)
    begin = [torch.randn(rows, hidden, dtype=precision)] * (2 if cell == "lstm" else 1)
    shown: Tensor | slice | None = None
    if places == "last":
        shown = slice(-rows, None)
    elif places == "some":
        shown = torch.randperm(steps * rows)[: 1 + rows // 2]
    grad = torch.randn(steps * rows, hidden, dtype=precision)
    grad = grad if shown is None else grad[shown]
    found = []
    for kind in (CompiledTape, TorchsTape):
        into = [torch.empty(shape, dtype=precision) for shape in shapes]
        tape: Tape = kind(cell, into, wanted=wanted)
        with torch.no_grad():
            states, cells = tape.there(inputs, full(steps, rows), begin, weights)
            passed = tape.back(grad, shown)
        assert (passed is not None) == wanted
        assert not states.requires_grad
        found.append([states, *cells, *into, *([passed] if passed is not None else [])])
    close = 1e-11 if precision == torch.float64 else 1e-4
    assert len(found[0]) == len(found[1])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=close, atol=close)


def test_the_quicker_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's layer trains if it takes clearly less than our time, else ours."""
    for ratio, layers in ((GAIN - 0.01, TORCHS), (GAIN + 0.01, OURS), (3.0, OURS)):
        forget(monkeypatch)
        monkeypatch.setattr(layer_choices, "_keep", lambda *_: None)
        monkeypatch.setattr(layer_choices, "measure", lambda _, ratio=ratio: ratio)
        assert choose("lstm", LARGE, torch.float32) == layers


def test_only_what_may_gain_is_measured(asked: list[Sizes]) -> None:
    """Of other cells, double precision and small layers there is nothing to choose."""
    assert choose("gru", LARGE, torch.float32) is None
    assert choose("rnn", LARGE, torch.float32) is None
    assert choose("lstm", LARGE, torch.float64) is None
    assert choose("lstm", LARGE._replace(hidden=SMALLEST - 1), torch.float32) is None
    assert asked == []
    assert choose("lstm", LARGE, torch.float32) == TORCHS
    assert asked == [Sizes(16, 24, 3, 128)]


def test_what_is_not_measured_is_ours(
    asked: list[Sizes], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On several threads, for layers that may not fit, and where memory is short, it is ours."""
    torch.set_num_threads(2)
    assert choose("lstm", LARGE, torch.float32) == OURS
    assert lines(kept) == []
    torch.set_num_threads(1)
    assert choose("lstm", Sizes(256, 32, 4096, 4096), torch.float32) == OURS
    assert asked == []

    def short(_: Sizes) -> float:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    measured = layer_choices.measure
    monkeypatch.setattr(layer_choices, "measure", short)
    assert choose("lstm", LARGE, torch.float32) == OURS
    # It is for now: nothing is kept.
    assert lines(kept) == []
    monkeypatch.setattr(layer_choices, "measure", measured)
    assert choose("lstm", LARGE, torch.float32) == TORCHS


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 5000))
def test_near_sizes_are_one(rows: int, steps: int, features: int, hidden: int) -> None:
    """What is measured is at most a quarter away, but for steps, of which there are few."""
    sizes = Sizes(rows, steps, features, hidden)
    rounded = sizes.rounded()
    assert rounded.rounded() == rounded
    assert rounded.steps <= MOST_STEPS
    wanted = sizes._replace(steps=min(steps, MOST_STEPS))
    assert all(0.8 <= one / other <= 1.25 for one, other in zip(rounded, wanted, strict=True))


def test_measured_once_on_a_machine(
    asked: list[Sizes], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process finds what one has measured, in a readable line, and measures nothing."""
    for _ in range(3):
        assert choose("lstm", LARGE, torch.float32) == TORCHS
        forget(monkeypatch)
    assert len(asked) == 1
    assert [line for line in lines(kept) if line] == ["16 24 3 128 0.500 ."]


def test_the_first_line_counts(asked: list[Sizes], kept: Path) -> None:
    """Who has measured while another did takes what the other has kept; broken lines are none."""
    choose("lstm", LARGE._replace(hidden=512), torch.float32)
    [file] = kept.glob("layers-*.txt")
    more = (
        "nonsense\n16 24 3 .\n16 24 3 x 0.5 .\n16 24 3 128 0.\n16 24 3 128 0.5\n"
        "16 24 3 128 1.500 .\n16 24 3 128 0.100 .\n64 24 3 128 1.2"
    )
    file.write_text(file.read_text() + more)
    assert choose("lstm", LARGE, torch.float32) == OURS
    assert len(asked) == 1
    # Half a line, of a process that was killed, does not spoil the next.
    assert choose("lstm", LARGE._replace(rows=64), torch.float32) == TORCHS
    assert lines(kept)[-2:] == ["64 24 3 128 0.500 .", ""]


def test_where_nothing_can_be_kept(
    asked: list[Sizes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process measures for itself, once."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "below"))
    for _ in range(3):
        assert choose("lstm", LARGE, torch.float32) == TORCHS
    assert len(asked) == 1


def test_another_machine_measures_anew(
    asked: list[Sizes], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured with other settings of the libraries, or another torch, does not count."""
    choose("lstm", LARGE, torch.float32)
    for name in ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"):
        forget(monkeypatch)
        monkeypatch.setenv(name, "SSE4_2")
        choose("lstm", LARGE, torch.float32)
    forget(monkeypatch)
    monkeypatch.setattr(torch, "__version__", "1.0")
    choose("lstm", LARGE, torch.float32)
    assert len(asked) == len(list(kept.glob("layers-*.txt"))) == 4


def test_places_are_read_alike(
    asked: list[Sizes], kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that went to the second place, as the first is another user's, is found there."""
    (tmp_path / "file").write_text("")
    folders = [tmp_path / "first", kept]
    monkeypatch.setattr(layer_choices, "cache_folders", lambda: iter(folders))
    choose("lstm", LARGE._replace(rows=64), torch.float32)
    [file] = folders[0].glob("layers-*.txt")
    content = file.read_text()
    file.unlink()
    folders[0].rmdir()
    folders[0].symlink_to(tmp_path / "file")  # Nothing can be written there.
    choose("lstm", LARGE, torch.float32)
    folders[0].unlink()
    folders[0].mkdir()
    file.write_text(content)
    for sizes in (LARGE, LARGE._replace(rows=64)):
        forget(monkeypatch)
        assert choose("lstm", sizes, torch.float32) == TORCHS
    assert len(asked) == 2


def test_measures_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The median of three pairs counts, after one that does not; both layers really run."""
    now, costs = [0.0], iter([900.0, 1.0, 3.0, 4.0, 3.0, 4.0, 50.0, 1.0])
    back = dict.fromkeys((TorchsTape, CompiledTape), 0)

    def patch(kind: type[Tape]) -> None:
        original = kind.back

        def counted(tape: Tape, *rest: Tensor) -> Tensor | None:
            back[kind] += 1
            now[0] += next(costs)
            return original(tape, *rest)

        monkeypatch.setattr(kind, "back", counted)

    patch(TorchsTape)
    patch(CompiledTape)
    monkeypatch.setattr(layer_choices.time, "thread_time", lambda: now[0])
    assert measure(Sizes(4, 3, 2, 8)) == 0.75
    assert back == {TorchsTape: 4, CompiledTape: 4}


@pytest.mark.parametrize("task", [sine, text])
def test_gradients_are_autograds(task: object, asked: list[Sizes]) -> None:
    """A network whose layers are torch's has autograd's loss and gradients, with dropout, too."""
    assert callable(task)
    splits = task()
    torch.manual_seed(0)
    model = build(hyper(cell="lstm", hidden_units=96, hidden_layers=2, dropout=0.3), splits)
    assert isinstance(model, SequenceModel)
    batch = next(iter(splits.train.batches(8, torch.Generator().manual_seed(0))))
    found = []
    for way in (ByAutograd(model.train(), splits), ByHand(model, splits)):
        torch.manual_seed(3)
        loss, _ = way.find(batch, None)
        found.append([torch.tensor(loss), *(w.grad.clone() for w in model.parameters())])  # type: ignore[union-attr]
    assert way.layers == TORCHS
    assert [sizes.features for sizes in asked] == [96]
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_run_with_torchs_layers(asked: list[Sizes], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same to the last bit when it goes on elsewhere, and near the one with ours."""
    params = {"cell": "lstm", "hidden_units": 100, "epochs": 4, "batch_size": 8}
    whole = start(sine(), **params)
    train(whole, 4)
    assert whole.layers == TORCHS
    half, again = start(sine(), **params), start(sine(), **params)
    train(half, 2)
    # Where it goes on, ours would be taken.
    monkeypatch.setattr(layer_choices, "_RATIOS", dict.fromkeys(asked, 2.0))
    again.load_state_dict(half.state_dict())
    train(again, 2)
    assert again.layers == TORCHS
    assert again.batch_losses == whole.batch_losses
    ours = start(sine(), **params)
    train(ours, 4)
    assert ours.layers == OURS
    assert ours.batch_losses == pytest.approx(whole.batch_losses, rel=1e-3)
    assert ours.batch_losses != whole.batch_losses


def test_a_run_is_told_whose_layers(asked: list[Sizes]) -> None:
    """Told whose layers it had, as by `replay`, a run comes to the same bits."""
    params = {"cell": "lstm", "hidden_units": 100, "epochs": 2, "batch_size": 8}
    whole = start(sine(), **params)
    train(whole, 2)
    again = Run(hyper(**params), sine(), 1, LOSS, CPU, None, TORCHS)
    other = Run(hyper(**params), sine(), 1, LOSS, CPU, None, OURS)
    train(again, 2)
    train(other, 2)
    assert again.batch_losses == whole.batch_losses != other.batch_losses
    assert (again.layers, other.layers) == (TORCHS, OURS)
    assert len(asked) == 1


def test_a_run_of_an_older_version_goes_on_with_ours(asked: list[Sizes]) -> None:
    """Then there was nothing to choose."""
    params = {"cell": "lstm", "hidden_units": 100}
    state = start(sine(), **params).state_dict()
    del state["layers"]
    again = start(sine(), **params)
    again.load_state_dict(state)
    train(again, 1)
    assert again.layers == OURS
    assert asked == []
    small = start(sine(), cell="gru")
    before = small.state_dict()
    del before["layers"]
    small.load_state_dict(before)
    assert small.layers is None


@pytest.mark.parametrize("rows", [1, 13, 64])
def test_series_of_different_lengths_are_ours(asked: list[Sizes], rows: int) -> None:
    """Torch's layer would calculate what comes after their ends; also where one is alone."""
    run = start(series(), cell="lstm", hidden_units=128, batch_size=rows)
    train(run, 1)
    assert run.layers is None
    assert asked == []


def test_what_is_measured_are_the_rows_that_there_are(asked: list[Sizes]) -> None:
    """Where there are fewer examples than a minibatch may have, it is of so many."""
    train(start(sine(), cell="lstm", hidden_units=96, batch_size=512), 1)
    assert [sizes.rows for sizes in asked] == [48]


def test_two_processes_choose_alike(kept: Path) -> None:
    """Processes that measure at the same time come to the same choice: that of the first line."""
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from search.layer_choices import Sizes, choose, _RATIOS\n"
        "for hidden in (96, 128, 192):\n"
        "    choose('lstm', Sizes(8, 8, 4, hidden), torch.float32)\n"
        "print(sorted(_RATIOS.items()))"
    )
    command = [sys.executable, "-c", code]
    made = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(3)
    ]
    said = {process.communicate(timeout=120)[0] for process in made}
    assert len(said) == 1
    assert len([line for line in lines(kept) if line]) >= 3

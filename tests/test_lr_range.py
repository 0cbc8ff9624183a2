"""The learning-rate range test: what it reads off a curve, what it suggests, what it prints."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from legible import figure_of, require_legible
from networks import hyper, series, sine, text
from refusing import Files, Refuse, csv, forecast, put
from rich.console import Console
from tiny import rnn_search, write_study

from search import range_picture as module
from search.cli import main
from search.data.splits import Splits
from search.dimensions import CELLS, HYPERPARAMETERS, Fixed
from search.lr_range import (
    HIGHEST,
    LOWEST,
    MOST_STEPS,
    STEPS,
    Sweep,
    read,
    schedule,
    smooth,
    suggest_range,
    sweep,
    sweeps,
)
from search.range_picture import range_picture
from search.range_testing import RangeTest, print_test

CPU = torch.device("cpu")
RATES = schedule(200)
KIND = ("gru", "adam")
FILES: Files = {"s.toml": forecast(), "d.csv": csv()}


def loss_at(rate: float) -> float:
    """Returns a loss that falls from 0.001 on, is lowest at 0.1 and blows up from 1 on."""
    fall = min(max(math.log10(rate) + 3, 0.0), 2.0)
    return 4.0 - fall + 20 * max(math.log10(rate), 0.0)


def made(scale: float = 1.0, offset: float = 0.0) -> Sweep:
    """Returns the reading of `loss_at`, scaled and shifted."""
    losses = [scale * loss_at(rate) + offset for rate in RATES]
    return read(KIND, RATES, losses, [scale * 4.0 + offset] * len(RATES))


def test_the_marks_of_a_textbook_curve() -> None:
    """Onset, steepest point, lowest point and divergence come in this order, where they belong."""
    found = made()
    assert found.onset is not None
    assert found.steepest is not None
    assert found.lowest is not None
    assert found.divergence is not None
    assert 0.001 < found.onset < 0.006
    assert found.onset <= found.steepest < 0.2
    # The average lags behind by some steps.
    assert 0.1 <= found.lowest < 1.5
    assert 1.0 < found.divergence < 4.0


@given(st.floats(0.01, 100))
@example(0.001)
def test_the_scale_of_the_loss_does_not_matter(scale: float) -> None:
    """A loss in other units has its marks at the same rates."""
    one, other = made(), made(scale)
    marks = ("onset", "steepest", "lowest", "divergence")
    for mark in marks:
        assert getattr(one, mark) == pytest.approx(getattr(other, mark), rel=0.1)


def test_hard_batches_do_not_look_like_divergence() -> None:
    """What a batch costs the untrained network, too, is not counted against the rate."""
    hard = [3.0 if step % 7 == 0 else 0.0 for step in range(len(RATES))]
    losses = [loss_at(rate) + more for rate, more in zip(RATES, hard, strict=True)]
    found = read(KIND, RATES, losses, [4.0 + more for more in hard])
    expected = made()
    marks = ("onset", "steepest", "lowest", "divergence")
    assert [getattr(found, m) for m in marks] == [getattr(expected, m) for m in marks]


def test_a_loss_that_is_not_finite_is_divergence() -> None:
    """A test that ends with an infinite loss diverged at that rate, if it had not before."""
    losses = [loss_at(rate) for rate in RATES if rate < 0.5]
    untrained = [4.0] * (len(losses) + 1)
    found = read(KIND, RATES[: len(losses) + 1], [*losses, math.inf], untrained)
    assert found.divergence == RATES[len(losses)]
    assert len(found.smoothed) == len(losses)


def test_a_loss_that_never_falls_has_no_marks() -> None:
    """Where nothing is learned there is no range to suggest."""
    found = read(KIND, RATES, [1.0] * len(RATES), [1.0] * len(RATES))
    assert (found.onset, found.steepest, found.lowest, found.divergence) == (None,) * 4
    assert suggest_range([found]) is None
    assert suggest_range([found, made()]) == suggest_range([made()])


def test_a_loss_that_hovers_has_not_diverged() -> None:
    """An average that never fell, and lies a little above its start, is back from nowhere."""
    found = read(KIND, RATES, [1.001] * len(RATES), [1.0] * len(RATES))
    assert found.divergence is None


@given(st.lists(st.sampled_from([0.01, 0.1, 1.0, 3.0]), min_size=1, max_size=4))
def test_the_suggestion_spans_all_tests(factors: list[float]) -> None:
    """The suggested range holds every test's onset and lowest point, in round numbers."""
    one = made()
    tests = []
    for factor in factors:
        rates = [rate * factor for rate in RATES]
        losses = [loss_at(rate / factor) for rate in rates]
        tests.append(read(KIND, rates, losses, [4.0] * len(rates)))
    found = suggest_range(tests)
    assert found is not None
    low, high = found
    for test in tests:
        assert test.onset is not None
        assert test.lowest is not None
        assert low < test.onset < test.lowest <= high
    assert one.lowest is not None
    for end in found:
        assert float(f"{end:.0e}") == end


@given(st.integers(1, 10**6))
def test_the_schedule(batches: int) -> None:
    """The rate rises by the same factor at each step, over one epoch or two where that will do."""
    rates = schedule(batches)
    assert rates[0] == LOWEST
    assert rates[-1] == pytest.approx(HIGHEST)
    assert STEPS <= len(rates) <= MOST_STEPS
    if 2 * batches >= STEPS and batches <= MOST_STEPS:
        assert len(rates) in (batches, 2 * batches)
    factors = {round(after / before, 6) for before, after in itertools.pairwise(rates)}
    assert len(factors) == 1


@given(st.lists(st.floats(-10, 10), min_size=1))
def test_the_average_is_unbiased(values: list[float]) -> None:
    """The moving average lies between the values' extremes, and is the value if they are equal."""
    smoothed = smooth(values)
    assert len(smoothed) == len(values)
    assert min(values) - 1e-9 <= min(smoothed)
    assert max(smoothed) <= max(values) + 1e-9
    assert smooth([values[0]] * 5) == pytest.approx([values[0]] * 5)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("data", [sine, series, text], ids=["forecast", "classify", "language"])
def test_a_real_test_of_each_task(cell: str, data: object) -> None:
    """On data that can be learned the marks are there, the range holds 0.01, and it repeats."""
    splits = data()  # type: ignore[operator]
    assert isinstance(splits, Splits)
    params = hyper(cell=cell, hidden_units=16, batch_size=16)
    found = sweep(params, splits, 0, CPU)
    suggested = suggest_range([found])
    assert suggested is not None
    assert suggested[0] <= 0.01 <= suggested[1]
    assert found == sweep(params, splits, 0, CPU)
    assert found.losses != sweep(params, splits, 1, CPU).losses


@pytest.mark.parametrize("data", [sine, series, text], ids=["forecast", "classify", "language"])
def test_what_learns_nothing_loses_what_the_untrained_network_does(data: object) -> None:
    """Steps clipped to nothing leave every batch's loss, states carried on, where it was."""
    splits = data()  # type: ignore[operator]
    params = hyper(optimizer="sgd", gradient_clipping=1e-9)
    found = sweep(params, splits, 0, CPU)
    assert found.smoothed == pytest.approx([found.start] * len(found.rates), abs=1e-5)
    assert found.losses[0] != sweep(params, splits, 1, CPU).losses[0]


def test_the_untrained_network_drops_nothing_out() -> None:
    """What a batch costs without training is measured without dropout, and so is less by chance."""
    start = sweep(hyper(), sine(), 0, CPU).start
    assert sweep(hyper(dropout=0.5), sine(), 0, CPU).start == pytest.approx(start, abs=1e-6)


def test_the_seed_decides_the_weights() -> None:
    """Another seed begins with other weights, not only with another order of the batches."""
    whole = hyper(batch_size=1000)
    starts = [sweep(whole, sine(), seed, CPU).start for seed in (0, 1)]
    assert abs(starts[0] - starts[1]) > 1e-3


def test_weights_decay_as_in_training() -> None:
    """The decay of weights is the first trial's, too."""
    plain, decayed = (sweep(hyper(weight_decay=by), sine(), 0, CPU) for by in (0.0, 0.1))
    assert plain.losses[0] == decayed.losses[0]
    assert plain.losses[-1] != decayed.losses[-1]


def test_an_epoch_has_its_last_batch_too() -> None:
    """A last batch that is not full is counted among the steps of an epoch."""
    splits = sine(202)
    assert splits.train.size % 2 == 1
    batches = sum(1 for _ in splits.train.batches(2, None))
    assert len(sweep(hyper(batch_size=2), splits, 0, CPU).rates) == len(schedule(batches))


def test_torch_s_own_random_state_is_left_alone() -> None:
    """A test draws nothing from the generator of its caller."""
    before = torch.get_rng_state()
    sweep(hyper(hidden_units=4), sine(), 0, CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_everything_else_is_as_in_the_first_trial() -> None:
    """The other hyperparameters are the starting point's or the fixed ones."""
    space = {name: known.default for name, known in HYPERPARAMETERS.items()}
    space["hidden_units"] = Fixed(3)
    found = list(sweeps(space, sine(), ["rnn", "gru"], ["adam", "sgd"], 0, CPU))
    pairs = [(one.cell, one.optimizer) for one in found]
    assert pairs == [("rnn", "adam"), ("rnn", "sgd"), ("gru", "adam"), ("gru", "sgd")]
    params = hyper(cell="rnn", optimizer="adam", hidden_units=3, hidden_layers=1, batch_size=32)
    assert found[0] == sweep(params, sine(), 0, CPU)


@pytest.mark.parametrize("cells", [1, 3])
@pytest.mark.parametrize("optimizers", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["9.odd-name_x", "$M$" * 33, "i" * 100])
def test_the_picture_is_legible(cells: int, optimizers: int, name: str) -> None:
    """Title, legend, ticks and key lie apart and inside, however few or many the tests are."""
    names = ("adam", "sgd", "rmsprop", "adagrad")[:optimizers]
    tests = [replace(made(), cell=c, optimizer=o) for c in CELLS[:cells] for o in names]
    require_legible(figure_of(module, lambda: range_picture(tests, (0.001, 0.3), 3.8, name)))


def test_what_is_no_number_is_null_in_json() -> None:
    """The last loss of a sweep that has blown up is null, which every reader of JSON knows."""
    losses, smoothed = (1.0, math.inf), (1.0, math.nan)
    blown = Sweep("rnn", "sgd", (0.1, 1.0), losses, smoothed, 1.0, None, None, None, 1.0)
    told = RangeTest("tiny", (blown,), None, "", 1.0, Path("x.png")).to_json()
    written = json.dumps(told, allow_nan=False)
    assert json.loads(written)["sweeps"][0]["losses"] == [1.0, None]
    assert json.loads(written)["sweeps"][0]["smoothed"] == [1.0, None]


def test_each_line_has_its_own_range(capsys: pytest.CaptureFixture[str]) -> None:
    """A line suggests what its test does; the study file gets what spans all, low before high."""
    lower = read(("rnn", "sgd"), [rate / 10 for rate in RATES], made().losses, [4.0] * len(RATES))
    tests = (made(), lower)
    print_test(Console(width=120), RangeTest("t", tests, (0.002, 0.3), "x", 1.0, Path("x.png")))
    said = capsys.readouterr().out.splitlines()
    for line, one in zip(said[2:], tests, strict=False):
        alone = suggest_range([one])
        assert alone is not None
        assert line.split()[:2] == [one.cell, one.optimizer]
        assert line.endswith(f"{alone[0]:g} to {alone[1]:g}")
    assert "  learning_rate = { low = 0.002, high = 0.3 }" in said


def test_only_what_is_asked_for_is_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a study's cells and optimizers those that are named, with the seed that is given."""
    monkeypatch.chdir(tmp_path)
    put(tmp_path, FILES)
    told = []
    for seed in ("1", "2"):
        only = ("--cell", "rnn", "--optimizer", "sgd", "--seed", seed)
        assert main(["lr-range", "s.toml", *only, "--json"]) == 0
        (one,) = json.loads(capsys.readouterr().out)["sweeps"]
        assert (one["cell"], one["optimizer"]) == ("rnn", "sgd")
        told.append(one["losses"])
    assert told[0] != told[1]


@pytest.mark.slow
def test_on_the_command_line(tmp_path: Path) -> None:
    """It prints one line a test and what to write, draws a picture, and makes no database."""
    write_study(tmp_path)
    run = rnn_search(tmp_path, "lr-range", "tiny.toml", "--cell", "gru", "--optimizer", "adam")
    assert run.returncode == 0, run.stderr
    assert "learning_rate = { low = " in run.stdout
    assert (tmp_path / "tiny-lr-range.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.rglob("*.db"))
    as_json = rnn_search(tmp_path, "lr-range", "tiny.toml", "--json", "--out", "x.png")
    assert as_json.returncode == 0, as_json.stderr
    # As strict readers do: a sweep that blows up has a loss that is no number.
    told = json.loads(as_json.stdout, parse_constant=pytest.fail)
    assert len(told["sweeps"]) == 12
    assert told["picture"] == "x.png"
    line = next(line for line in run.stdout.splitlines() if "learning_rate" in line)
    study = (tmp_path / "tiny.toml").read_text().replace("[space]", f"[space]\n{line}")
    (tmp_path / "new.toml").write_text(study)
    assert rnn_search(tmp_path, "check", "new.toml").returncode == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--cell", "elman"), "--cell elman: not in the study's space"),
        (("--optimizer", "adm"), "did you mean 'adam'?"),
        (("--out", "x.pdf"), "--out x.pdf: must be a .png file in a folder that exists"),
        (("--out", "no/x.png"), "--out no/x.png: must be a .png file in a folder that exists"),
        (("--device", "tpu"), "--device tpu: use auto, cpu, cuda, cuda:N or all"),
    ],
)
def test_nonsense(refuse: Refuse, options: tuple[str, ...], says: str) -> None:
    """What cannot be tested is refused in one line, and nothing is written."""
    refuse(FILES, says, "lr-range", "s.toml", *options)


def test_a_picture_that_cannot_be_written(refuse: Refuse) -> None:
    """It is refused before anything is trained for it."""
    (refuse.folder / "x.png").mkdir()
    says = "x.png cannot be written; give another file with --out"
    refuse(FILES, says, "lr-range", "s.toml", "--out", "x.png")


def test_a_network_of_the_users_own_is_refused(refuse: Refuse) -> None:
    """A study that builds its own network has no cells to test; its code is not imported."""
    own = forecast() + '[model]\nfactory = "mine:build"\n'
    refuse({**FILES, "s.toml": own}, "builds its own network", "lr-range", "s.toml")

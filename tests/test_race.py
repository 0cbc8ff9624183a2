"""The bench that races searches: its clock's lines, its store, its tables, and two of its races."""

from __future__ import annotations

import io
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from tiny import tiny_config, write_study

from bench.race import products
from bench.race.__main__ import keys, race
from bench.race.contestants import CONTESTANTS
from bench.race.evaluated import show_evaluated
from bench.race.expert import epochs as expertly
from bench.race.exported import export, read
from bench.race.lines import FILE, STARTED, Lines, Race
from bench.race.network import STARTS, Network, in_order, suggest, validation_loss
from bench.race.picture import draw
from bench.race.plain import epochs as plainly
from bench.race.prepare import prepare
from bench.race.progress import (
    best_at,
    ever_ahead,
    half_in_time,
    improvements,
    last_behind,
    median_curve,
    quartiles,
    ratios,
    read_lines,
    time_to,
    times_to_final,
)
from bench.race.runner import ROOT, RaceError, environment, run_race
from bench.race.store import Key, Result, Store
from bench.race.tables import all_tables, grouped, ratio_table
from search.config import load_config
from search.data import load_splits
from search.models import SequenceModel
from search.space import HyperParams, distributions, fit_to_data, starting_points
from search.training import evaluate

FAST = ((2.0, 1.0), (5.0, 0.5), (20.0, 0.4))
SLOW = ((8.0, 0.9), (60.0, 0.45))


def result(
    contestant: str, curve: tuple[tuple[float, float], ...], seed: int = 0, data: str = "sunspots"
) -> Result:
    """Returns an invented result of a race of 180 s."""
    params = {"learning_rate": 0.01}
    return Result(Key(data, contestant, seed, 180.0), curve, 9, params, (0.6, 0.5, 0.7), 0.02, {})


def test_the_best_so_far_is_that_of_all_processes(tmp_path: Path) -> None:
    """Lines of several processes become one curve; late, unfinished and worse ones are no part."""
    lines = [
        {"seconds": 3.0, "ended": True, "loss": 0.5, "params": {"a": 1}},
        {"seconds": 1.0, "ended": True, "loss": 0.9, "params": {"a": 2}},
        {"seconds": 4.0, "ended": True, "loss": 0.6, "params": {"a": 3}},
        {"seconds": 5.0, "ended": True},
        {"seconds": 6.0, "ended": True, "loss": math.nan, "params": {"a": 4}},
        {"seconds": 99.0, "ended": True, "loss": 0.1, "params": {"a": 5}},
    ]
    file = tmp_path / FILE
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"seconds": 7, "los')
    in_time = read_lines(file, 10.0)
    assert [line["seconds"] for line in in_time] == [1.0, 3.0, 4.0, 5.0, 6.0]
    assert [(line["seconds"], line["loss"]) for line in improvements(in_time)] == [
        (1.0, 0.9),
        (3.0, 0.5),
    ]
    assert read_lines(tmp_path / "none", 10.0) == []


def test_lines_are_timed_from_the_start_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is that of whoever started the process; only what is better names a loss."""
    monkeypatch.setenv(STARTED, repr(time.time() - 100.0))
    asked = Race(tmp_path / "x", 180.0, 0, tmp_path)
    assert 79.0 < asked.left() <= 80.0
    lines = Lines(asked)
    for loss in (0.5, 0.7, None, 0.4):
        lines.write(loss, {"lr": loss})
    lines.write(0.3, {}, asked.started + 7.0, ended=False)
    found = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [line.get("loss") for line in found] == [0.5, None, None, 0.4, 0.3]
    assert all(99.0 < line["seconds"] < 130.0 for line in found[:4])
    assert (found[4]["seconds"], found[4]["ended"]) == (7.0, False)


def test_what_is_reached_when() -> None:
    """Losses at moments and moments of losses are read from the steps; what is not is infinite."""
    assert best_at(FAST, 1.9) == math.inf
    assert (best_at(FAST, 2.0), best_at(FAST, 19.0), best_at(FAST, 180.0)) == (1.0, 0.5, 0.4)
    assert (time_to(FAST, 0.5), time_to(FAST, 0.45), time_to(FAST, 0.1)) == (5.0, 20.0, math.inf)
    assert times_to_final([FAST], [SLOW, ()]) == [20.0, 2.0]
    assert times_to_final([()], [()]) == [math.inf]
    assert last_behind([FAST], [SLOW], 180.0) == 0.0
    assert last_behind([SLOW], [FAST], 180.0) == pytest.approx(180.0)


def test_pairs_of_single_races_are_counted() -> None:
    """Of one seed: half the time, later or never; of all: ahead at some moment after 20 s."""
    late, lost = ((2.0, 1.0), (100.0, 0.4)), ((2.0, 1.0),)
    assert half_in_time([FAST, late, lost], [SLOW] * 3, 180.0) == ["half", "later", "never"]
    assert ever_ahead(SLOW, [FAST, late, lost], 20.0, 180.0) == 2
    assert ever_ahead(FAST, [SLOW, FAST], 20.0, 180.0) == 1


def test_losses_are_compared_as_medians_of_all_pairs_at_each_moment() -> None:
    """Ours over theirs; without a loss of theirs 0, of ours infinite, of nobody's 1."""
    assert ratios([FAST], [FAST, SLOW, SLOW], [10.0]) == [0.5 / 0.9]
    assert ratios([FAST], [SLOW, ()], [1.0, 10.0]) == [1.0, 0.5 / 0.9]
    assert ratios([()], [SLOW], [10.0]) == [math.inf]
    found = {"sunspots": {"ours": FAST, "ray": SLOW}, "vowels": {"ours": SLOW, "ray": FAST}}
    sets = {
        data: {name: [result(name, curve, data=data)] for name, curve in its.items()}
        for data, its in found.items()
    }
    # From second 20 to 180 one side has 0.4 where the other goes from 0.9 to 0.45.
    assert "| ray | 0.8889 | 2.25 | 2.25 |" in ratio_table(sets, 180.0)


def test_quartiles_are_values_that_were_measured() -> None:
    """No mean of a loss and of nothing yet: the median of an even number is the worse one."""
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([math.inf, 1.0]) == (1.0, math.inf, math.inf)
    assert quartiles([3.0, 1.0, 2.0]) == (1.0, 2.0, 3.0)
    assert quartiles([4.0, 3.0, 1.0, 2.0]) == (1.0, 3.0, 4.0)
    assert quartiles([5.0, 1.0, 4.0, 2.0, 3.0]) == (2.0, 3.0, 4.0)
    assert median_curve([FAST, SLOW, ()], [10.0]) == [(0.5, 0.9, math.inf)]


def test_tables_say_what_was_reached_and_claimed() -> None:
    """Made-up races give the times of the goals, the losses at moments and the retrained losses."""
    results = [result("ours", FAST), result("optuna", SLOW), result("ray", ())]
    text = all_tables([*results, result("ours", FAST, data="vowels")], 180.0)
    assert "| optuna | 20.0 s |  | 20.0 s |" in text
    assert "| ray | 2.0 s |  | 2.0 s |" in text
    assert "| optuna | never |  | never |" in text
    assert "| sunspots | optuna | 1 / 0 / 0 | 0 of 1 |" in text
    assert "| ours | 1 | 0.5 | 0.4 | 0.4 | 0.4 | 0.4 | 9 | 2 |" in text
    assert "| ours | 0.4 | 0.6 | 1.5 |" in text
    assert "| ray | 1 | - | - | - | - | - | 9 | 2 |" in text
    assert text.index("| ours | 1 |") < text.index("| optuna | 1 |") < text.index("| ray | 1 |")


def test_the_picture_shows_each_contestant(tmp_path: Path) -> None:
    """With one contestant more the picture has other pixels, and an empty curve is no obstacle."""
    seeds = [result("ours", FAST, seed) for seed in range(3)]
    files = [tmp_path / "one.png", tmp_path / "two.png", tmp_path / "empty.png"]
    for file, more in zip(files, ([], [result("optuna", SLOW)], [result("ray", ())]), strict=True):
        draw("sunspots", grouped([*seeds, *more])["sunspots"], 180.0, file)
    one, two, empty = (matplotlib.image.imread(io.BytesIO(file.read_bytes())) for file in files)
    assert one.shape == two.shape == empty.shape == (450, 800, 4)
    assert (np.abs(one - two).max(axis=2) > 0.2).sum() > 500


def test_a_store_gives_back_what_it_got(tmp_path: Path) -> None:
    """A result read is the one that was written, and only races of the length asked for come."""
    store = Store(tmp_path / "results")
    assert store.results() == []
    mine, short = result("ours", FAST), result("ours", SLOW)
    short = replace(short, key=replace(short.key, seconds=45.0))
    for one in (mine, short):
        store.add(one)
    assert store.results(180.0) == [mine]
    assert store.results() == [mine, short]


def test_a_race_that_was_run_is_not_run_again(tmp_path: Path) -> None:
    """What is in the store is left out; a file that was begun and not finished is no result."""
    store = Store(tmp_path)
    wanted = keys(["sunspots"], ["ours", "optuna"], 2, 180.0)
    assert [(key.contestant, key.seed) for key in wanted] == [
        ("ours", 0),
        ("optuna", 0),
        ("optuna", 1),
        ("ours", 1),
    ]
    store.add(result("ours", FAST))
    (tmp_path / wanted[1].file).with_suffix(".part").write_text('{"key"')
    assert store.missing(wanted) == wanted[1:]
    assert len(store.results()) == 1


def test_who_cannot_race_is_named(tmp_path: Path) -> None:
    """A race that a contestant cannot run is no failure: the reason is said, nothing is stored."""
    store = Store(tmp_path / "results")
    said = race([Key("vowels", "neuralforecast", 0, 1.0)], store, tmp_path, 1.0)
    assert said == ["neuralforecast has not run on vowels: is for forecast only"]
    assert not store.folder.exists()
    absent = replace(CONTESTANTS["kerastuner"], needs=("torch", "no_such_package"))
    assert absent.obstacle("classify") == "no_such_package not installed; make bench does it"


def test_the_space_is_ours() -> None:
    """Contestants search the default space, and the expert starts with our first three trials."""
    import optuna

    config = tiny_config_of_defaults()
    trial = optuna.create_study().ask()
    params = suggest(trial, (16, 32, 64, 128))
    assert trial.distributions == distributions(config.space)
    assert list(params) == list(config.space)
    assert [dict(point) for point in STARTS] == starting_points(config.space)[: len(STARTS)]


def tiny_config_of_defaults() -> object:
    """Returns a study's configuration that says nothing of its space."""
    from search.config import make_config

    data = {"task": "forecast", "source": "example:sunspots"}
    return make_config({"name": "defaults", "data": data}, "here")


@pytest.mark.parametrize("name", ["elnino", "vowels", "shakespeare"])
def test_the_figure_is_ours(name: str, tmp_path: Path) -> None:
    """The same weights have the same validation loss by the race's measure and by ours."""
    path = prepare(name, tmp_path)
    data, config = read(path), load_config(path.with_suffix(".toml"))
    splits = load_splits(config.data)
    torch.manual_seed(0)
    network = Network(STARTS[0], data.facts)
    ours = SequenceModel(
        HyperParams.of(STARTS[0]),
        splits.input_size,
        splits.output_size,
        per_step=splits.per_step,
    )
    weights = network.state_dict()
    ours.load_state_dict(weights)
    batches = in_order(data.valid, data.facts.streams or 7)
    measured = validation_loss(network, batches, data.facts)
    assert measured == pytest.approx(evaluate(ours, splits, "valid")["loss"], rel=1e-5)
    assert (
        data.facts.batch_sizes
        == fit_to_data(config, splits.train.size)[0].space["batch_size"].values
    )  # type: ignore[union-attr]


def test_the_series_ends_with_the_rows_of_the_validation_part(tmp_path: Path) -> None:
    """Forecasting the last value of each window over the exported rows gives our persistence."""
    config = tiny_config(tmp_path)
    splits = load_splits(config.data)
    export(config, splits, tmp_path / "tiny.safetensors")
    data = read(tmp_path / "tiny.safetensors")
    assert data.series is not None
    rows = data.facts.valid_rows
    errors = data.series[-rows:] - data.series[-rows - 1 : -1]
    rmse = float(errors.square().mean().sqrt())
    assert rmse == pytest.approx(splits.baselines("valid")["persistence"]["rmse"], rel=1e-6)


@pytest.mark.parametrize("loop", [plainly, expertly])
@pytest.mark.parametrize("name", ["vowels", "shakespeare"])
def test_loops_learn(loop: object, name: str, tmp_path: Path) -> None:
    """Either loop brings the validation loss well down within some epochs."""
    data = read(prepare(name, tmp_path))
    torch.manual_seed(0)
    losses = list(loop({**STARTS[0], "epochs": 8}, data))  # type: ignore[operator]
    assert len(losses) == 8
    assert min(losses) < 0.85 * losses[0]


def test_a_contestant_that_fails_leaves_no_result(tmp_path: Path) -> None:
    """A race of a contestant that ends with an error is an error with what it printed."""
    broken = replace(CONTESTANTS["optuna"], name="broken", module="no_such_module")
    with pytest.raises(RaceError, match=r"No module named bench\.race\.no_such_module"):
        run_race(broken, tmp_path / "x.safetensors", Key("sunspots", "broken", 0, 60.0))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["ours", "expert", "optuna"])
def test_a_race(name: str, tmp_path: Path) -> None:
    """A contestant finds something, in time, and retrains it with three other seeds."""
    config = load_config(write_study(tmp_path))
    path = tmp_path / "tiny.safetensors"
    export(config, load_splits(config.data), path)
    # On a busy machine it takes long until the first trial has ended, and threads of one process
    # that wait for one another take longest.
    contestant = replace(CONTESTANTS[name], threads=1)
    for seconds in (15.0, 60.0, 200.0):
        found = run_race(contestant, path, Key("tiny", name, 0, seconds))
        if found.improvements:
            break
    assert found.trials >= len(found.improvements) > 0
    times, losses = zip(*found.improvements, strict=True)
    assert list(times) == sorted(times)
    assert times[0] > 0.0
    assert times[-1] <= seconds
    assert list(losses) == sorted(losses, reverse=True)
    assert found.params is not None
    assert set(found.params) == set(STARTS[0])
    assert len(found.retrained) == 3
    assert all(0.0 < loss < 10.0 for loss in found.retrained)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_both_choices_are_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a search, the best trial and what `evaluate` chooses are trained with further seeds."""
    monkeypatch.setattr("bench.race.evaluated.TIMES", 1)
    show_evaluated(tmp_path, ["sunspots"], 1, 40.0)
    *_, line = capsys.readouterr().out.splitlines()
    _, name, seed, claimed, best, chosen, took, _ = line.split("|")
    assert (name.strip(), int(seed)) == ("sunspots", 0)
    assert all(0.1 < float(loss) < 10.0 for loss in (claimed, best, chosen))
    assert int(took) > 0


@pytest.mark.slow
def test_an_interrupted_race_leaves_nothing(tmp_path: Path) -> None:
    """After Ctrl-C in the middle of a race no process of it goes on and the store has no file."""
    store = tmp_path / "results"
    command = [sys.executable, "-m", "bench.race", "long", "--sets", "elnino", "--seconds", "60"]
    options = ["--contestants", "optuna", "--seeds", "1", "--store", str(store)]
    process = subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        env=environment(1, {"TMPDIR": str(tmp_path)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not (begun := list(tmp_path.glob("race-*/race.db"))):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=240)
    assert process.returncode != 0
    assert not begun[0].exists()
    assert not store.exists()


@pytest.mark.parametrize("backward", [False, True])
def test_products_alone_are_those_that_a_network_needs(
    backward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is timed are all multiplications of two layers and a head, each made once."""
    rows, steps, turns, features, units, outputs, wide = 3, 5, 4, 2, 4, 1, 12
    params = {"cell": "gru", "hidden_layers": 2, "hidden_units": units}
    multiply, counted = torch.mm, 0

    def counting(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        nonlocal counted
        counted += left.shape[0] * left.shape[1] * right.shape[1]
        return multiply(left, right, out=out)

    run = products._products(params, features, outputs, (rows, steps, turns), backward=backward)
    monkeypatch.setattr(torch, "mm", counting)
    run()
    inputs, states = steps * (features + units), turns * 2 * units
    forward = rows * wide * (inputs + states) + rows * units * outputs
    # Gradients of states, of all weights, and of the second layer's inputs.
    back = rows * wide * (states + inputs + states + steps * units)
    assert counted == forward + (back if backward else 0)

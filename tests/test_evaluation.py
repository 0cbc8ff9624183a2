"""The parts of an evaluation: candidates, seeds, retrainings, the winner, the ensemble."""

from __future__ import annotations

import io
import json
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from networks import CPU, LOSS, hyper, same_tensors, series, sine, text, train
from networks import start as start_run
from rich.console import Console

from search.checkpoints import load_weights
from search.data.splits import Splits
from search.ensembles import combine
from search.errors import RunError
from search.evaluating import print_evaluation
from search.evaluation import (
    Candidate,
    Contest,
    choose_seeds,
    choose_winner,
    differ,
    mean_and_std,
    student,
    told_apart,
)
from search.looks import Evaluation, Look, evaluate_together, load_models, look_at_test
from search.retraining import Result, Retrainer, Retraining, read_result
from search.space import HyperParams
from search.trainers import EpochDone, Event, LocalTrainers, TrainerDied, TrialEnded
from search.training import evaluate
from search.trial import Curve, Decision, Epoch, Goal, Outcome, derive_seed
from search.trial_files import RESULT, WEIGHTS
from search.worker import Job, TrialRules

Make = Callable[[], Splits]


class Silent:
    """An observer that keeps how retrainings ended."""

    def __init__(self) -> None:
        self.endings: list[tuple[int, Outcome]] = []
        self.lines: list[str] = []

    def started(self, worker: int, retraining: Retraining) -> None:
        """A retraining starts."""

    def advanced(self, worker: int, retraining: Retraining, epoch: Epoch) -> None:
        """A retraining has trained an epoch."""

    def ended(self, worker: int, retraining: Retraining, decision: Decision, curve: Curve) -> None:
        """A retraining is over."""
        self.endings.append((retraining.index, decision.outcome))

    def tick(self) -> None:
        """Some time has passed."""

    def say(self, line: str) -> None:
        """Something happened."""
        self.lines.append(line)


def retrain(splits: Splits, wanted: list[Retraining]) -> tuple[list[Result], Silent]:
    """Trains on one real trainer."""
    trainers = LocalTrainers(splits, TrialRules(LOSS, 0, divergence=True), 1, "cpu")
    observer = Silent()
    return Retrainer(trainers, LOSS, observer, {"device": "cpu"}).run(wanted), observer


def retraining(folder: Path, index: int = 0, seed: int = 7, **changes: object) -> Retraining:
    """Returns a retraining of tiny hyperparameters."""
    return Retraining(index, 3, seed, hyper(**changes), folder / f"{index}")


def test_a_retraining_is_the_plain_run(tmp_path: Path) -> None:
    """Result and weights are those of a run with that seed, and are read back as they were."""
    one = retraining(tmp_path, seed=11, epochs=3)
    (result,), observer = retrain(sine(), [one])
    run = start_run(sine(), seed=11, epochs=3)
    train(run, 3)
    best = run.curve.best(LOSS)
    assert best is not None
    assert (result.outcome, result.epoch, result.figures) == (
        Outcome.COMPLETE,
        best.index,
        best.figures,
    )
    assert observer.endings == [(0, Outcome.COMPLETE)]
    weights = load_weights(one.folder)
    assert weights is not None
    assert same_tensors(weights, run.best_weights)
    assert read_result(one) == result
    assert {file.name for file in one.folder.iterdir()} == {RESULT, WEIGHTS, "losses.safetensors"}


def test_a_diverged_retraining_has_no_figure(tmp_path: Path) -> None:
    """A retraining that diverges is a result without figures, kept, and not trained again."""
    one = retraining(tmp_path, learning_rate=1e12, optimizer="sgd")
    other = retraining(tmp_path, index=1)
    results, _ = retrain(sine(), [one, other])
    assert [result.outcome for result in results] == [Outcome.DIVERGED, Outcome.COMPLETE]
    assert (results[0].figures, results[0].epoch, results[0].complete) == ({}, None, False)
    assert read_result(one) == results[0]


def test_a_damaged_result_does_not_count(tmp_path: Path) -> None:
    """A result that is not what was written, or whose weights are gone, is trained again."""
    one = retraining(tmp_path, epochs=1)
    (result,), _ = retrain(sine(), [one])
    file = one.folder / RESULT
    written = file.read_text()
    for damage in ("not JSON", "[1]", '{"params": {}}', "", written.replace('"epoch"', '"age"')):
        file.write_text(damage)
        assert read_result(one) is None, damage
    file.write_text(written)
    assert read_result(one) == result
    (one.folder / WEIGHTS).unlink()
    assert read_result(one) is None
    assert retrain(sine(), [one])[0] == [result]
    assert read_result(one) == result


def test_a_result_of_another_configuration_does_not_count(tmp_path: Path) -> None:
    """A folder that holds another configuration's result is not taken for this one's."""
    retrain(sine(), [retraining(tmp_path, epochs=1)])
    assert read_result(retraining(tmp_path, epochs=2)) is None


@given(st.integers(0, 2**63 - 1), st.integers(1, 12), st.integers(0, 12), st.integers(0, 50))
def test_seeds_of_an_evaluation(study_seed: int, count: int, more: int, trials: int) -> None:
    """Seeds are distinct, no trial's own, and the first of them stay when there are more."""
    seeds = choose_seeds(study_seed, count, trials)
    assert len(set(seeds)) == count
    assert not set(seeds) & {derive_seed(study_seed, "training", n) for n in range(trials)}
    assert choose_seeds(study_seed, count + more, trials)[:count] == seeds


def contest(trial: int, values: list[float | None]) -> Contest:
    """Returns a contest whose retrainings came to these values; None: diverged."""
    results = []
    for seed, value in enumerate(values):
        one = Retraining(seed, trial, seed, hyper(), Path())
        done = Outcome.DIVERGED if value is None else Outcome.COMPLETE
        figures = {} if value is None else {"loss": value, "accuracy": value}
        results.append(Result(one, done, "a reason", None, figures))
    return Contest(Candidate(trial, 0.0, {}, hyper()), tuple(results))


outcomes = st.lists(st.none() | st.floats(0, 1), min_size=2, max_size=4)


@given(st.lists(outcomes, min_size=1, max_size=5), st.booleans())
def test_the_winner_fails_least_and_is_best_on_average(
    values: list[list[float | None]], minimize: bool
) -> None:
    """No configuration has fewer failures, and none with as few has a better mean."""
    goal = Goal("loss" if minimize else "accuracy", minimize)
    contests = [contest(trial, found) for trial, found in enumerate(values)]
    least = min(found.count(None) for found in values)
    rivals = [c for c, found in zip(contests, values, strict=True) if found.count(None) == least]
    if not any(rival.complete for rival in rivals):
        with pytest.raises(RunError, match="every retraining failed"):
            choose_winner(contests, goal)
        return
    winner = choose_winner(contests, goal)
    assert any(winner is rival for rival in rivals)
    mean = winner.spread(goal.metric)[0]
    assert not any(goal.better(rival.spread(goal.metric)[0], mean) for rival in rivals)


def test_an_evaluation_is_printed_as_it_is() -> None:
    """Targets may have brackets in their names, and no figure is cut short on a narrow terminal."""
    names = ("loss", "rmse flow [/h]", "rmse temp [c]", "rmse temp [f]", "mae speed [m/s]")
    each = [{name: 0.1234 + at / 10 + one for at, name in enumerate(names)} for one in range(2)]
    won = contest(0, [0.25, 0.75])
    look = Look(each, each[0], {"ridge": {"loss": 7.125}})
    metric = "loss"
    told = Evaluation("tiny", "forecast", metric, Goal(metric), [won], won, look, [{}], [], {})
    screen = io.StringIO()
    print_evaluation(Console(file=screen, width=60), told)
    lines = screen.getvalue().splitlines()
    words = screen.getvalue().split()
    for name in names:
        assert any(f"  {name}" in line for line in lines), name
    for figures in each:
        assert all(f"{value:.4g}" in words for value in figures.values())
    assert "7.125" in words
    assert all(len(line) <= 60 for line in lines if "seed" in line and "#" not in line)
    assert "…" not in screen.getvalue()


def test_what_made_the_winner_win() -> None:
    """Where failures decided and not the mean, that is said, with whose mean is better."""
    steady, lucky = contest(5, [0.3, 0.3]), contest(3, [0.1, None])
    look = Look([{"loss": 0.5}] * 2, {"loss": 0.5}, {})
    for rivals, said in (
        ([steady], "Winner: #5, by the mean of its validation loss\n"),
        (
            [lucky, steady],
            "Winner: #5, because fewer of its seeds diverged or failed; #3 has a better mean of "
            "the validation loss\n",
        ),
    ):
        shared = "loss", LOSS, rivals, choose_winner(rivals, LOSS), look
        before = [{"time": "then", "trial": 7, "study": "old", "mean": 0.1, "metric": "loss"}]
        told = Evaluation("tiny", "forecast", *shared, [{"time": "now", "trial": 5}], before, {})
        screen = io.StringIO()
        print_evaluation(Console(file=screen, width=200), told)
        assert said in screen.getvalue()
        assert "look 2 at the test part; the first was at then (trial #7 of 'old')." in (
            screen.getvalue()
        )


def test_one_lucky_seed_loses() -> None:
    """A configuration with the best single value loses to one that is better on average."""
    lucky, steady = contest(0, [0.1, 0.9, 0.9]), contest(1, [0.3, 0.3, 0.35])
    assert choose_winner([lucky, steady], LOSS) is steady


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
def test_mean_and_std(values: list[float]) -> None:
    """They are the sample's mean and standard deviation; one value says nothing of the latter.

    Nor does one that is not finite.
    """
    assert math.isnan(mean_and_std([*values, math.inf])[1])
    assert math.isnan(mean_and_std([*values, math.nan])[1])
    mean, std = mean_and_std(values)
    assert math.isclose(mean, statistics.mean(values), rel_tol=1e-9, abs_tol=1e-9)
    assert std == statistics.stdev(values) if len(values) > 1 else math.isnan(std)
    assert all(math.isnan(value) for value in mean_and_std([]))


@pytest.mark.parametrize("task", ["classify", "language"])
def test_an_ensemble_of_classes_has_the_mean_probability(task: str) -> None:
    """Its outputs, taken as logits, give the mean of the networks' probabilities."""
    outputs = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)) * 4
    mean = outputs.softmax(-1).mean(0)
    assert torch.allclose(combine(task, outputs).softmax(-1), mean, atol=1e-6)
    assert torch.allclose(combine("forecast", outputs), outputs.mean(0), atol=1e-6)


@pytest.mark.parametrize("make", [sine, series, text])
@pytest.mark.parametrize("part", ["valid", "test"])
def test_networks_together_have_their_own_figures(make: Make, part: str) -> None:
    """In one pass every network has the figures it has alone, to float precision."""
    splits = make()
    runs = [start_run(splits, seed=seed) for seed in (1, 2, 3)]
    for run in runs:
        train(run, 1)
    models = [run.model for run in runs]
    each, ensemble = evaluate_together(models, splits, part)
    for figures, model in zip(each, models, strict=True):
        assert figures == pytest.approx(evaluate(model, splits, part), rel=1e-6)
    losses = [figures["loss"] for figures in each]
    # Jensen: of squared errors and of logarithms, the mean's is at most the mean of theirs.
    assert ensemble["loss"] <= statistics.fmean(losses) + 1e-6
    twice = evaluate_together([models[0], models[0]], splits, part)[1]
    assert math.isclose(twice["loss"], losses[0], rel_tol=1e-5)


def test_a_look_is_at_the_test_part(tmp_path: Path) -> None:
    """The figures of a look are those of the winner's networks on the test part, and on no other.

    So are those of the baselines.
    """
    splits, wanted = sine(), [retraining(tmp_path, index=seed, seed=seed) for seed in (0, 1)]
    results, _ = retrain(splits, wanted)
    winner = Contest(Candidate(3, 0.0, {}, hyper()), tuple(results))
    look, models = look_at_test(winner, splits, "cpu"), load_models(results, splits, "cpu")
    assert (look.each, look.ensemble) == evaluate_together(models, splits, "test")
    for figures, model in zip(look.each, models, strict=True):
        assert figures == pytest.approx(evaluate(model, splits, "test"), rel=1e-6)
        assert figures["loss"] != pytest.approx(evaluate(model, splits, "valid")["loss"], rel=0.01)
    assert look.baselines == splits.baselines("test")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    """Weights that do not fit the configuration stop the evaluation, naming the folder."""
    one = retraining(tmp_path, epochs=1)
    (result,), _ = retrain(sine(), [one])
    assert len(load_models([result], sine(), str(CPU))) == 1
    params: HyperParams = hyper(hidden_units=9)
    other = Retraining(0, 3, 7, params, one.folder)
    wrong = Result(other, result.outcome, result.reason, result.epoch, result.figures)
    with pytest.raises(RunError, match="no weights that fit"):
        load_models([wrong], sine(), "cpu")


class Deadly:
    """Trainers that die with every retraining a few times, then train it in one epoch."""

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths
        self.job: Job | None = None

    def surroundings(self, worker: int) -> dict[str, str]:
        """Computes with what is here."""
        return {}

    def free(self) -> list[int]:
        """Returns the one worker, if it has nothing to do."""
        return [] if self.job else [0]

    def start(self, worker: int, job: Job) -> None:
        """Takes a retraining."""
        self.job = job

    def events(self, timeout: float) -> Iterator[Event]:
        """Yields a death, or an epoch and the end."""
        assert self.job is not None
        number, self.job = self.job.number, None
        self.deaths -= 1
        if self.deaths >= 0:
            yield TrainerDied(0, number, -9)
            return
        yield EpochDone(0, number, Epoch(1, 0.5, {"loss": 0.5}, 0.1, 0.1))
        decision = Decision(Outcome.COMPLETE, "trained 1 epochs")
        yield TrialEnded(0, number, decision, "", {"layers": "ours"})


@pytest.mark.parametrize(("deaths", "outcome"), [(2, Outcome.COMPLETE), (3, Outcome.FAILED)])
def test_a_deadly_retraining_fails_in_the_end(
    tmp_path: Path, deaths: int, outcome: Outcome
) -> None:
    """The third trainer that dies fails a retraining; that is not kept, so it is tried again."""
    trainers, observer, one = Deadly(deaths), Silent(), retraining(tmp_path)
    retrainer = Retrainer(trainers, LOSS, observer, {})  # type: ignore[arg-type]
    (result,) = retrainer.run([one])
    assert result.outcome == outcome
    assert len(observer.lines) == deaths
    assert (one.folder / RESULT).exists() == result.complete
    if result.complete:
        stored = json.loads((one.folder / RESULT).read_text())
        assert stored["surroundings"] == {"layers": "ours"}


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=13))
def test_what_differs(values: list[float]) -> None:
    """Values differ from others, in either order, exactly from Welch's bar on."""
    assume(statistics.stdev(values) > 0.1)
    count, twice = len(values), [*values, *values]
    spread = statistics.variance(values) / count + statistics.variance(twice) / (2 * count)
    bar = student(count) * math.sqrt(spread)
    for gap, apart in ((0.0, False), (0.99 * bar, False), (1.01 * bar, True), (1e6, True)):
        others = [value + gap for value in twice]
        assert differ(values, others) == differ(others, values) == apart, gap
    assert not differ(values, [1e6])
    assert not differ(values, [math.inf, math.inf])


def test_as_much_as_chance_explains() -> None:
    """What chance explains is Student's t, of one degree of freedom less than there are values."""
    explained = [student(count) for count in (2, 3, 10, 11, 50)]
    assert explained == [12.71, 4.30, 2.26, 2.23, 2.23]
    assert not differ([0.0, 1.0, 2.0], [3.5, 4.5, 5.5])
    assert differ([0.0, 1.0, 2.0], [3.53, 4.53, 5.53])
    assert not differ([0.0, 1.0], [8.9, 9.9])
    assert differ([0.0, 1.0], [9.1, 10.1])


def test_winners_that_could_have_lost() -> None:
    """A rival within the seeds' noise is named; one beyond it differs."""
    winner, near, far = [1.0, 1.2, 0.8], [1.1, 1.4, 0.8], [5.0, 5.1, 4.9]
    said = told_apart(winner, {3: near, 4: far}, "macro_f1")
    assert said.startswith("By the macro f1 of its retrainings it cannot be told apart from #3:")
    assert told_apart(winner, {4: far}, "loss").endswith("differs from #4 beyond chance.")
    assert told_apart([1.0], {4: [5.0]}, "loss").startswith("By the loss of its retrainings it can")
    assert told_apart(winner, {}, "loss") == told_apart(winner, {3: []}, "loss") == ""

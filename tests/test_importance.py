"""Importances: what matters is found, what does not is not, and too few trials say nothing."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from search import importance
from search.dimensions import HYPERPARAMETERS, Dimension, Fixed
from search.importance import FEWEST, RESAMPLES, Tried, importances

SPACE: dict[str, Dimension] = {name: known.default for name, known in HYPERPARAMETERS.items()}


def tried(count: int, judge: Callable[[dict[str, object]], float], seed: int = 0) -> list[Tried]:
    """Returns trials at random places that are judged by their parameters."""
    chooser = random.Random(seed)
    found = []
    for _ in range(count):
        params: dict[str, object] = {
            "learning_rate": 10 ** chooser.uniform(-4, 0),
            "batch_size": chooser.choice([16, 32, 64, 128]),
            "epochs": chooser.randint(4, 36),
            "hidden_layers": chooser.randint(1, 3),
            "hidden_units": chooser.randint(16, 128),
            "cell": chooser.choice(["rnn", "lstm", "gru"]),
            "optimizer": chooser.choice(["adam", "sgd", "rmsprop", "adagrad"]),
            "decay": "none",
            "dropout": chooser.uniform(0, 0.5),
            "weight_decay": 0.0,
            "gradient_clipping": 0.0,
        }
        found.append(Tried(params, judge(params)))
    return found


def off(params: dict[str, object]) -> float:
    """Returns how far the learning rate is from 0.01, in decades; too high a rate diverges."""
    decades = math.log10(float(str(params["learning_rate"]))) + 2
    return math.inf if decades > 1.5 else abs(decades)


def test_what_decides_is_found() -> None:
    """Where the learning rate alone decides, it alone is above chance, and nearly all there is."""
    found = importances(tried(100, off), SPACE, 0)
    assert [one.name for one in found if one.matters] == ["learning_rate"]
    assert found[0].name == "learning_rate"
    assert found[0].middle > 0.6
    assert sum(one.middle for one in found) == pytest.approx(1, abs=0.3)
    for one in found:
        assert 0 <= one.low <= one.middle <= one.high <= 1


def test_noise_does_not_matter() -> None:
    """Where nothing decides, next to nothing is said to matter, whatever it looks like."""
    chooser = random.Random(0)
    claims = 0
    for seed in range(2):
        found = importances(tried(40, lambda _: chooser.random(), seed), SPACE, seed)
        assert len(found) == len(SPACE)
        claims += sum(one.matters for one in found)
    assert claims <= 1, "one in twenty of 22 would be chance"


def test_chance_is_what_one_in_twenty_would_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of resamples whose values were shuffled, one in twenty is above what is called chance."""
    measured = iter([*range(1, RESAMPLES + 1)] * 2)

    def measure(*_: object) -> dict[str, float]:
        return {"learning_rate": float(next(measured))}

    monkeypatch.setattr(importance, "_measure", measure)
    space = {name: Fixed(known.start) for name, known in HYPERPARAMETERS.items()}
    (found,) = importances(tried(50, off), {**space, "learning_rate": SPACE["learning_rate"]}, 0)
    assert found.chance == pytest.approx(38.05 / 20.5)
    assert (found.low, found.middle, found.high) == (1, 1, 1)


def test_too_few_trials_say_nothing() -> None:
    """With fewer trials than needed there is no importance at all."""
    assert importances(tried(FEWEST - 1, off), SPACE, 0) == []
    assert len(importances(tried(FEWEST, off), SPACE, 0)) == len(SPACE)


def test_what_diverged_is_never_among_the_best() -> None:
    """Where most trials diverged, what the few good ones have in common is found, if there are."""

    def seldom(params: dict[str, object]) -> float:
        decades = math.log10(float(str(params["learning_rate"])))
        return abs(decades + 3.0) if abs(decades + 3.0) < 0.1 else math.inf

    trials = tried(200, seldom)
    good = sum(math.isfinite(one.rank) for one in trials)
    assert 5 <= good < 20
    found = importances(trials, SPACE, 0)
    assert found[0].name == "learning_rate"
    assert found[0].middle > 0.5
    assert importances(tried(60, lambda _: math.inf), SPACE, 0) == []


def test_nothing_searched_has_no_importance() -> None:
    """A study all of whose hyperparameters are fixed has none."""
    fixed: dict[str, Dimension] = {
        name: Fixed(known.start) for name, known in HYPERPARAMETERS.items()
    }
    assert importances(tried(50, off), fixed, 0) == []


def test_the_same_seed_gives_the_same() -> None:
    """Resamples are drawn from the seed; what lies outside the space is left out."""
    trials = tried(40, off)
    outside = Tried({**trials[0].params, "learning_rate": 5.0}, -1.0)
    assert importances(trials, SPACE, 3) == importances([*trials, outside], SPACE, 3)

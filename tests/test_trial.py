"""The vocabulary of a trial: what it refuses, the best epoch, what is stored, and seeds."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.trial import Curve, Decision, Epoch, Goal, Outcome, derive_seed

values = st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=12)


def curve(losses: list[float], metric: str = "loss") -> Curve:
    """Returns a curve with these validation values."""
    return Curve(
        tuple(
            Epoch(index, 1.0, {"loss": 0.0, metric: value}, 0.1, 0.0)
            for index, value in enumerate(losses, start=1)
        )
    )


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_a_decision_needs_a_reason(reason: str) -> None:
    """A decision without a reason cannot be made."""
    with pytest.raises(ValueError, match="reason"):
        Decision(Outcome.PRUNED, reason)


def test_the_vocabulary_is_frozen() -> None:
    """What crosses process borders cannot be changed."""
    for thing, name in ((Decision(Outcome.FAILED, "x"), "reason"), (Curve(), "epochs")):
        with pytest.raises(FrozenInstanceError):
            setattr(thing, name, "other")


@pytest.mark.parametrize("indices", [[0], [2], [1, 3], [1, 1], [2, 1]])
def test_a_curve_has_no_gap(indices: list[int]) -> None:
    """Epochs that are not 1, 2, 3 in order are no curve."""
    with pytest.raises(ValueError, match="gap"):
        Curve(tuple(Epoch(index, 1.0, {"loss": 1.0}, 0.1, 0.0) for index in indices))


@given(values, st.booleans())
def test_the_best_epoch_is_the_first_of_the_best(losses: list[float], minimize: bool) -> None:
    """The best epoch is the first that no finite one is better than, and None if none is finite."""
    best = curve(losses, "score").best(Goal("score", minimize))
    finite = [value for value in losses if math.isfinite(value)]
    if not finite:
        assert best is None
    else:
        assert best is not None
        assert best.index == 1 + losses.index(min(finite) if minimize else max(finite))


def test_equal_epochs_are_told_apart_by_their_loss() -> None:
    """Where several epochs have the best accuracy, the best of them has the least loss."""
    figures = [(0.5, 0.1), (1.0, 0.3), (1.0, 0.2), (1.0, 0.2), (1.0, math.nan), (0.9, 0.0)]
    whole = Curve(
        tuple(
            Epoch(index, 1.0, {"accuracy": accuracy, "loss": loss}, 0.1, 0.0)
            for index, (accuracy, loss) in enumerate(figures, start=1)
        )
    )
    best = whole.best(Goal("accuracy", minimize=False))
    assert best is not None
    assert best.index == 3


def test_equal_trials_are_told_apart_by_their_loss() -> None:
    """Trials are sorted by value, then by loss, then by number; one without figures comes first."""
    trials = [(0, 0.9, 0.5), (1, 1.0, 0.4), (2, 1.0, 0.2), (3, 1.0, 0.2), (4, 0.9, 0.1)]
    goal = Goal("accuracy", minimize=False)
    ranked = sorted(goal.merit(number, value, {"loss": loss}) for number, value, loss in trials)
    assert [number for *_, number in ranked] == [2, 3, 1, 4, 0]
    assert goal.merit(5, 1.0, {}) < ranked[0]
    assert Goal().merit(0, 0.3, {}) < Goal().merit(1, 0.4, {})


@given(values, st.integers(0, 12))
def test_a_curve_grows_by_one_and_is_cut(losses: list[float], index: int) -> None:
    """A curve is the sum of its epochs, and its beginning is a curve with the same values."""
    whole, grown = curve(losses), Curve()
    for epoch in whole.epochs:
        grown = grown.then(epoch)
    assert grown.epochs == whole.epochs
    assert len(whole.until(index)) == min(index, len(losses))
    assert repr(whole.until(index).values(Goal())) == repr(whole.values(Goal())[:index])


@pytest.mark.parametrize("index", [0, 2, 4])
def test_a_curve_grows_without_a_gap(index: int) -> None:
    """An epoch that is not the next one is not added."""
    epochs = curve([3.0, 2.0, 1.0]).epochs
    with pytest.raises(ValueError, match="without a gap"):
        Curve(epochs[:2]).then(Epoch(index, 1.0, {"loss": 1.0}, 0.1, 0.1))


@given(values)
def test_a_compact_curve_is_json(losses: list[float]) -> None:
    """What is stored of a curve is strict JSON, None in place of what is not finite."""
    compact = curve(losses).compact()
    assert json.loads(json.dumps(compact, allow_nan=False)) == compact
    assert [value is None for value in compact["valid"]] == [not math.isfinite(v) for v in losses]
    for stored, value in zip(compact["valid"], losses, strict=True):
        assert stored is None or stored == pytest.approx(value, rel=1e-6)


def test_a_goal_knows_what_is_better() -> None:
    """Less is better to minimise, more to maximise, equal never, and anything beats the worst."""
    assert Goal().better(1, 2)
    assert not Goal().better(2, 1)
    assert Goal("accuracy", False).better(2, 1)
    assert not Goal("accuracy", False).better(1, 2)
    for goal in (Goal(), Goal("accuracy", False)):
        assert not goal.better(1, 1)
        assert goal.better(0, goal.worst)


@given(st.integers(0, 2**63 - 1), st.integers(0, 10**6))
def test_seeds_are_in_range_and_their_own(study: int, number: int) -> None:
    """A seed fits 31 bits, comes out again, and differs by study, purpose and trial."""
    seed = derive_seed(study, "training", number)
    assert 0 <= seed < 2**31
    assert seed == derive_seed(study, "training", number)
    others = (
        derive_seed(study + 1, "training", number),
        derive_seed(study, "proposal", number),
        derive_seed(study, "training", number + 1),
    )
    assert len({seed, *others}) == 4


def test_seeds_stay_what_they_were() -> None:
    """A stored study can be replayed by later versions: seeds are fixed for good."""
    seeds = [derive_seed(0, "training", number) for number in range(3)]
    assert seeds == [1651805682, 877146594, 27171258]

"""What a curve of losses says: the lesson's examples, every finding, what may change none."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import search
from search.diagnosis import ADVICE, PARTS, Finding, constant_of, diagnose_trial, read_finding
from search.trial import Curve, Epoch, Outcome

losses_ = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=40)
counts = st.none() | st.integers(1, 8)
constants = st.none() | st.floats(0.01, 100.0)
scales = st.sampled_from([2.0**power for power in (-40, -3, 1, 10, 40)])
"""Powers of two, by which a float is multiplied exactly."""
anything = st.lists(st.floats(), min_size=1, max_size=30)
FALLING = [2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.2]


def curve(train: list[float], valid: list[float]) -> Curve:
    """Returns the epochs of a trial."""
    pairs = enumerate(zip(train, valid, strict=True), start=1)
    return Curve(tuple(Epoch(i, t, {"loss": v}, 0.01, 0.1) for i, (t, v) in pairs))


def test_the_lesson_of_the_small_rate() -> None:
    """Training error that falls by almost nothing is too-slow: raise the learning rate."""
    finding = search.diagnose([8.4181, 8.4177, 8.4177, 8.4173, 8.4169])
    assert finding.name == "too-slow"
    assert finding.rate_factor == 3
    assert finding.advice.startswith("raise the learning rate")


def test_the_lesson_of_the_large_rate() -> None:
    """Training error that jumps is jumping: lower the learning rate."""
    finding = search.diagnose([8.71, 3.25, 4.93, 3.30, 4.82])
    assert finding.name == "jumping"
    assert finding.rate_factor == pytest.approx(1 / 3)
    assert finding.advice.startswith("lower the learning rate")


@pytest.mark.parametrize(
    ("train", "valid", "name"),
    [
        ([1.0, 1.1, 1.3, 1.7, 2.5], None, "diverging"),
        ([1.0, 3.0, 2.0, 0.9, 0.8], None, "jumping"),
        (FALLING, [2.0, 1.9, 1.6, 1.9, 1.5, 1.9], "jumping"),
        ([2.3, 2.301, 2.299, 2.3, 2.302], None, "too-slow"),
        ([2.3, 3.3, 2.3, 1.5, 2.9], [2.3, 2.299, 2.301, 2.3, 2.298], "too-slow"),
        ([2.3, 2.2, 2.15, 2.1, 2.05], [2.3, 2.25, 2.2, 2.15, 2.1], "too-slow"),
        (FALLING, [1.0, 0.6, 0.4, 0.5, 0.6, 0.7, 0.7, 0.7], "overfitting"),
        (FALLING[:7], [1.0, 0.6, 0.4, 0.5, 0.6, 0.7, 0.7], "undecided"),
        (FALLING[:2], [1.0, 1.3], "undecided"),
        ([2.0, 1.6, 1.2, 0.8, 0.4], None, "still-falling"),
        (FALLING, [2.0, 1.8, 1.6, 1.2, 0.9, 0.8, 0.5, 0.3], "still-falling"),
        ([2.0, 1.9, 1.0, 0.9], [2.0, 1.6], "still-falling"),
        ([2.0, 0.5, *[0.3] * 6], [2.0, 0.5, *[0.3] * 6], "plateau"),
        ([2.0, 0.5, *[0.3] * 5], [2.0, 0.5, *[0.3] * 5], "undecided"),
        ([2.0, 0.5, *[0.3] * 5, 0.31], [2.0, 0.5, *[0.3] * 5, 0.8], "plateau"),
        ([2.0, 0.5, *[0.3] * 5, 0.31], [2.0, 0.5, *[0.3] * 5, 1.3], "jumping"),
        (FALLING, [2.0, 1.0, 0.7, 0.5, 0.4, 0.33, 0.25, 0.26], "healthy"),
        (FALLING, [1, 0.8, 0.7, 0.65, 0.7, 0.8, 0.8, 0.9], "overfitting"),
        (FALLING, [3.0**power for power in range(8)], "overfitting"),
        ([2.0, 1.0, 0.8, 1.0, 1.3, 1.6], [2.0, 1.5, 1.2, 1.4, 1.7, 2.0], "jumping"),
        (FALLING, [1.0, 1.001] * 4, "overfitting"),
        ([8.4181 - 10, 8.4177 - 10, 8.4177 - 10, 8.4173 - 10, 8.4169 - 10], None, "too-slow"),
        ([-1.0, -2.0, -3.0, -3.5, -4.0], None, "still-falling"),
        ([1.0, 0.5], None, "undecided"),
    ],
)
def test_every_finding(train: list[float], valid: list[float] | None, name: str) -> None:
    """Each kind of curve has its finding, whose advice is that of the table."""
    finding = search.diagnose(train, valid)
    assert finding.name == name
    assert (finding.advice, finding.rate_factor) == ADVICE[name]


@pytest.mark.parametrize(
    ("train", "valid", "constants", "name"),
    [
        ([2, 1.8, 1.9], None, (), "jumping"),
        ([2, 1.98, 2], None, (), "too-slow"),
        ([1, 0.9, 1.3], None, (), "diverging"),
        ([1, 0.4, 0.5], [1, 1.1, 0.8], (), "jumping"),
        (
            [2, 2.3, 2, 1.9, 1.6, 1.8, 1.7, 1.7],
            [1, 0.7, 0.5, 0.3, 0.2, 0.05, 0.05, 0.25],
            (),
            "overfitting",
        ),
        (
            [2, 1.95, 1.65, 1.45, 1.5, 1.6, 1.6, 1.7],
            [1, 1, 0.8, 0.7, 0.7, 0.65, 0.35, 0.55],
            (),
            "healthy",
        ),
        ([1, 0.95, 1.1], [1, 1, 0.95], (), "still-falling"),
        ([2, 1.8, 1.7], [1, 1.2, 1.2], (), "undecided"),
        (
            [2, 1.95, 1.85, 1.95, 2.1, 2, 2.1, 2.2],
            [1, 1.1, 0.8, 0.95, 1.05, 1.15, 1.05, 1.15],
            (0.8,),
            "stuck",
        ),
        ([1, 1.6, 1.3], [2, 2.3, 1.7], (1.2, 1), "diverging"),
        ([1, 1.2, 1.3, 1.1], [2, 1.4, 1.4, 1.2], (1.2, 1), "still-falling"),
        ([1, 1, 0.6, 0.6], [1, 1.2, 1.1, 0.5], (1.2, 1), "still-falling"),
        ([2, 1.97, 1.95, 1.97, 1.94], [1, 1, 0.99, 1, 1], (None, 1), "undecided"),
        (
            [2, 1.99, 1.96, 1.95, 1.97, 1.99, 1.98, 1.99, 2],
            [1, 0.99, 1.01, 1.02, 1.03, 1.02, 1, 1.03, 1.01],
            (None, 1),
            "jumping",
        ),
    ],
    ids=[
        "what rises by more than 0.05 is not steady",
        "a range below 0.05 is nothing",
        "0.2 above the start is a leap",
        "validation jumps above 0.2",
        "a rise by more than 0.1 of the fall is overfitting",
        "less than half is lost again",
        "what ends above the start is not steady",
        "rises are validation's",
        "as good as the constant is stuck",
        "training is beside its own constant",
        "who comes back was above the highest constant",
        "good validation is beside the highest constant",
        "who has learned is not flat",
        "the fall is that before the best",
    ],
)
def test_the_edges_of_the_rules(
    train: list[float], valid: list[float] | None, constants: tuple[float | None, ...], name: str
) -> None:
    """A curve that is barely on one side of a threshold has the finding of that side."""
    assert search.diagnose(train, valid, 1, *constants).name == name


def test_more_validations_than_epochs_of_training() -> None:
    """The training loss of the time of a validation before the first of them is the first."""
    valid = [1.0, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0]
    assert search.diagnose(FALLING[:4], valid).name == "overfitting"


def test_stuck() -> None:
    """Validation that falls but never beats a constant prediction is stuck, if that is known."""
    valid = [2.0, 1.9, 1.8, 1.7, 1.5, 1.35, 1.2, 1.1]
    assert search.diagnose(FALLING, valid, constant_loss=1.0).name == "stuck"
    assert search.diagnose(FALLING, valid[:7], constant_loss=1.0).name == "still-falling"
    assert search.diagnose(FALLING, valid, constant_loss=1.2).name == "still-falling"
    assert search.diagnose(FALLING, valid).name == "still-falling"


def test_a_first_batch_that_is_easy_by_chance() -> None:
    """Training error is beside that of a constant prediction, not beside one batch's luck."""
    train = [0.7, 1.3, 1.0, 1.0, 1.1, 0.9, 0.95, 1.0, 0.94]
    valid = [0.69, 0.63, 0.58]
    finding = search.diagnose(train, valid, 3, constant_loss=0.7, constant_train_loss=1.0)
    assert finding.name == "too-slow"


def test_a_validation_part_that_is_easier() -> None:
    """Validation error is beside that of a constant prediction there, not beside training's."""
    train = [1.0, 0.99, 0.98, 0.97]
    easy = search.diagnose(train, [0.4, 0.397, 0.396, 0.394], 1, 0.4, constant_train_loss=1.0)
    assert easy.name == "too-slow"
    good = search.diagnose(train, [0.2, 0.18, 0.16, 0.14], 1, 0.4, constant_train_loss=1.0)
    assert good.name == "still-falling"


def test_learned_in_the_first_epoch() -> None:
    """Epochs that are all alike after a first one that taught everything are not too slow."""
    train = [2.0, 0.5, *[0.2, 0.21] * 20]
    valid = [0.200, 0.199, 0.198]
    assert search.diagnose(train, valid, 14).name != "too-slow"
    assert search.diagnose([2.0] * 42, [2.0] * 3, 14).name == "too-slow"


def test_the_noise_of_batches_is_no_jumping() -> None:
    """Batches of a falling epoch may differ as they like; the means of epochs count."""
    train = [height + noise for height in FALLING for noise in (0.5, -0.05, 0.3, 0.0)]
    assert search.diagnose(train, FALLING, 4).name == "healthy"
    assert search.diagnose(train, FALLING).name == "healthy"


@pytest.mark.parametrize("valid", [None, [0.9, 0.7]])
def test_an_epoch_that_has_not_ended(valid: list[float] | None) -> None:
    """Batches after the last whole epoch count if all of them are far above the start."""
    train = [1 - 0.02 * batch for batch in range(20)]
    assert search.diagnose([*train, 1e3, 1e6, 1e9], valid, 10).name == "diverging"
    assert search.diagnose([*train, 1e3, 0.6, 0.6], valid, 10).name == "still-falling"


def test_no_losses() -> None:
    """Without a loss there is nothing to judge, which is said; so is an epoch of no batches."""
    with pytest.raises(ValueError, match="train_losses is empty"):
        search.diagnose([])
    for count in (0, -1, 2.0, math.nan, "2"):
        with pytest.raises(ValueError, match="batches_per_epoch must be a whole number from 1 on"):
            search.diagnose([1.0], batches_per_epoch=count)  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_not_finite(broken: float) -> None:
    """A loss that is no number is diverging, in training or validation, first or last."""
    for train, valid in (([broken], None), ([2.0, 1.0, broken], None), ([2.0], [1.0, broken])):
        assert search.diagnose(train, valid).name == "diverging"


@given(losses_, st.none() | losses_, counts, constants, constants, scales)
def test_the_unit_of_the_loss(
    train: list[float],
    valid: list[float] | None,
    count: int | None,
    constant: float | None,
    constant_train: float | None,
    scale: float,
) -> None:
    """Multiplying every loss by the same number changes no finding."""
    scaled = search.diagnose(
        [scale * loss for loss in train],
        None if valid is None else [scale * loss for loss in valid],
        count,
        None if constant is None else scale * constant,
        None if constant_train is None else scale * constant_train,
    )
    plain = search.diagnose(train, valid, count, constant, constant_train)
    assert scaled.name == plain.name


@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.integers(150, 199)), min_size=2, max_size=(PARTS - 1) // 2
    ),
    st.sampled_from([0.0, 2.0**10, -(2.0**10)]),
)
def test_what_is_added_to_the_loss(zigzag: list[tuple[int, int]], offset: float) -> None:
    """The share of its range that a curve rises, which jumping is judged by, knows no offset."""
    values = [200.0, *(float(step) for pair in zigzag for step in pair)]
    finding = search.diagnose([value + offset for value in values])
    up = sum(max(0.0, after - before) for before, after in pairwise(values))
    assert finding.name == "jumping"
    assert finding.evidence["rises"] == pytest.approx(up / (200 - min(values)), rel=1e-3)


@given(anything, st.none() | anything, counts, st.none() | st.floats(), st.none() | st.floats())
def test_always_an_answer(
    train: list[float],
    valid: list[float] | None,
    count: int | None,
    constant: float | None,
    constant_train: float | None,
) -> None:
    """Whatever the losses: a known finding, with finite evidence that can be stored as JSON."""
    finding = search.diagnose(train, valid, count, constant, constant_train)
    assert all(math.isfinite(value) for value in finding.evidence.values())
    stored = json.loads(json.dumps(finding.to_attributes(), allow_nan=False))
    assert read_finding(stored) == finding
    whole = all(map(math.isfinite, [*train, *(valid or [])]))
    assert whole or finding.name == "diverging"


@given(losses_, counts)
def test_a_longer_look_changes_nothing_given(train: list[float], count: int | None) -> None:
    """Diagnosing is pure: what is given is left as it was, and the answer is the same again."""
    before = list(train)
    assert search.diagnose(train, train, count) == search.diagnose(tuple(train), train, count)
    assert train == before


def test_trials_without_a_finding() -> None:
    """A trial that failed, ran out of memory or trained no epoch has none."""
    whole = curve(FALLING, FALLING)
    for outcome in (Outcome.FAILED, Outcome.OUT_OF_MEMORY):
        assert diagnose_trial(outcome, whole, FALLING) is None
    assert diagnose_trial(Outcome.COMPLETE, Curve(), []) is None


def test_a_diverged_trial() -> None:
    """A trial that was ended because it diverged is diverging, with or without an epoch."""
    for epochs in (Curve(), curve(FALLING, FALLING)):
        finding = diagnose_trial(Outcome.DIVERGED, epochs, [])
        assert isinstance(finding, Finding)
        assert finding.name == "diverging"


def test_a_trial_is_judged_by_its_batches() -> None:
    """A trial's batch losses are judged epoch by epoch; without them the epochs' means are."""
    train = [height + noise for height in FALLING for noise in (0.5, -0.05, 0.3, 0.0)]
    whole = curve(FALLING, FALLING)
    by_batches = diagnose_trial(Outcome.PRUNED, whole, train)
    assert by_batches == search.diagnose(train, FALLING, 4)
    assert diagnose_trial(Outcome.PRUNED, whole, []) == search.diagnose(FALLING, FALLING, 1)


def test_stored_findings() -> None:
    """A finding is read back as it was stored; one that is not known any more is none."""
    assert read_finding({}) is None
    assert read_finding({"finding": "haunted", "evidence": {}, "advice": "run"}) is None


def test_the_constant_prediction() -> None:
    """A study stores what ignores the inputs; an older one has it if its task is no forecast."""
    persistence = {"persistence": {"loss": 0.5}}
    assert constant_of({"constant_loss": 0.7, "baselines": persistence}) == 0.7
    assert constant_of({"baselines": persistence}) is None
    assert constant_of({"baselines": {"majority": {"loss": 2.2, "accuracy": 0.1}}}) == 2.2
    assert constant_of({"baselines": {"unigram": {"loss": 2.5}, "bigram": {"loss": 1.0}}}) == 2.5

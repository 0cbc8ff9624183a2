"""Tests of `search.data.classification` and of the reading, in `search.data.labelled`."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from search.config import ClassifyData
from search.data import classification
from search.data.classification import (
    ClassifySplits,
    load_classification,
    nearest_series,
)
from search.data.series import SeriesPart
from search.errors import ConfigError, DataError

CPU = torch.device("cpu")


def ts(path: Path, cases: list[tuple[list[list[float]], str]]) -> Path:
    """Writes cases of channels of values as a .ts file."""
    labels = " ".join(sorted({label for _, label in cases}))
    lines = [f"@problemName toy\n@timeStamps false\n@classLabel true {labels}\n@data"]
    for channels, label in cases:
        lines.append(":".join([*(",".join(map(str, one)) for one in channels), label]))
    path.write_text("\n".join(lines).replace("nan", "?") + "\n")
    return path


def cases(
    count: int, labels: str, shortest: int = 2, seed: int = 0
) -> list[tuple[list[list[float]], str]]:
    """Random series of two channels and 2 to 6 more steps, the labels in turn."""
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(3, 2, (2, shortest + at % 5)).round(3).tolist(), labels[at % len(labels)])
        for at in range(count)
    ]


def load(path: Path, **keys: object) -> ClassifySplits:
    """Loads a file as a study with these keys would."""
    return load_classification(
        ClassifyData.model_validate({"task": "classify", "path": path} | keys)
    )


def fault(function: object, *args: object, **keys: object) -> str:
    """Returns the one line that a call fails with."""
    assert callable(function)
    with pytest.raises((DataError, ConfigError)) as caught:
        function(*args, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def all_series(got: ClassifySplits) -> list[tuple[bytes, int]]:
    """Every series of all parts in the data's own units, rounded, with its class."""
    found = []
    for part in (got.train, got.valid, got.test):
        assert isinstance(part, SeriesPart)
        for inputs, length, label in zip(part.inputs, part.lengths, part.labels, strict=True):
            values = inputs[:length].double().numpy() * got.scale + got.mean
            found.append(((values.round(3) + 0.0).tobytes(), int(label)))  # + 0.0: no minus zero
    return found


def test_every_series_is_in_one_part(tmp_path: Path) -> None:
    """One file is cut into three parts, which together hold each series once, with its label."""
    written = cases(40, "abc")
    got = load(ts(tmp_path / "toy.ts", written), test=0.2, valid=0.25)
    expected = Counter((np.array(one).T.tobytes(), "abc".index(label)) for one, label in written)
    assert Counter(all_series(got)) == expected
    assert [got.train.size, got.valid.size, got.test.size] == [24, 8, 8]


def test_standardised_by_the_training_part(tmp_path: Path) -> None:
    """Training's real steps have mean 0 and deviation 1 in each channel; padding is 0."""
    train = load(ts(tmp_path / "toy.ts", cases(40, "ab"))).train
    assert isinstance(train, SeriesPart)
    real = torch.arange(train.inputs.shape[1]) < train.lengths[:, None]
    assert train.inputs.dtype == torch.float32
    assert (train.inputs[~real] == 0).all()
    torch.testing.assert_close(train.inputs[real].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        train.inputs[real].std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0
    )


def test_a_pair_of_files_and_longer_series_in_test(tmp_path: Path) -> None:
    """The _TEST.ts beside a _TRAIN.ts is the test part, and may have longer series."""
    path = ts(tmp_path / "toy_TRAIN.ts", cases(16, "ab"))
    other = ts(tmp_path / "toy_TEST.ts", cases(6, "ab", shortest=20, seed=1))
    got = load(path)
    assert isinstance(got.test, SeriesPart)
    assert (got.train.size + got.valid.size, got.test.size) == (16, 6)
    assert got.test.inputs.shape[1] == 24
    assert any("toy_TEST.ts, beside toy_TRAIN.ts" in note for note in got.notes)
    named = load(path, test_path=other)
    assert named.fingerprint == got.fingerprint
    assert named.notes == ()


def test_a_constant_channel_is_not_scaled(tmp_path: Path) -> None:
    """A channel that never changes in training is 0 there, and the notes say so."""
    written = [([one[0], [0.1] * len(one[0])], label) for one, label in cases(20, "ab")]
    got = load(ts(tmp_path / "toy.ts", written))
    assert isinstance(got.train, SeriesPart)
    assert (got.train.inputs[..., 1] == 0).all()
    assert got.scale[1] == 1
    assert "channel 2 is constant in training and not scaled" in got.notes


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=20),
    st.integers(1, 25),
    st.none() | st.integers(0, 9),
)
def test_batches_hold_every_series_once(lengths: list[int], size: int, seed: int | None) -> None:
    """Batches hold each series once, trimmed to the longest, and never lose a real step."""
    inputs = torch.zeros(len(lengths), max(lengths), 1)
    for at, length in enumerate(lengths):
        inputs[at, :length] = at + 1
    part = SeriesPart(inputs, torch.tensor(lengths), torch.arange(len(lengths)))
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    order: list[int] = []
    for batch in part.batches(size, generator):
        chosen = batch.targets.tolist()
        order += chosen
        assert batch.inputs.shape == (len(chosen), max(lengths[at] for at in chosen), 1)
        assert (batch.lengths is None) == (len(set(lengths)) == 1)
        if batch.lengths is not None:
            assert batch.lengths.tolist() == [lengths[at] for at in chosen]
        sums = batch.inputs.sum((1, 2)).tolist()
        assert sums == [(at + 1) * lengths[at] for at in chosen]
        assert not batch.carries
    assert sorted(order) == list(range(len(lengths)))
    if seed is None:
        assert order == sorted(order)


def test_a_class_with_one_series_stays_in_training(tmp_path: Path) -> None:
    """What cannot be shared is trained on, and the notes say that validation lacks it."""
    got = load(ts(tmp_path / "toy.ts", [*cases(20, "ab"), ([[1, 2], [3, 4]], "c")]))
    assert isinstance(got.train, SeriesPart)
    assert got.train.labels.bincount(minlength=3)[2] == 1
    assert any("class 'c' has a single series" in note for note in got.notes)
    lone = ts(tmp_path / "lone.ts", cases(2, "ab"))
    assert "no class has two series" in fault(load, lone)


def test_copies_across_parts_are_counted(tmp_path: Path) -> None:
    """A test series that is also in training makes the test too easy, so it is noted."""
    written = cases(20, "ab")
    train = ts(tmp_path / "a.ts", written)
    test = ts(tmp_path / "b.ts", written[:3] + cases(4, "ab", seed=9))
    notes = load(train, test_path=test).notes
    assert "3 series of the test part also are in training or validation" in notes


def test_classes_are_in_numeric_order(tmp_path: Path) -> None:
    """Numbers sort as numbers, so that class 10 comes after 9; words as words."""
    labels = ["10", "9", "1"]
    written = [(one, labels[at % 3]) for at, (one, _) in enumerate(cases(30, "a"))]
    assert load(ts(tmp_path / "a.ts", written)).classes == ("1", "9", "10")
    assert load(ts(tmp_path / "b.ts", cases(30, "cab"))).classes == ("a", "b", "c")


def slow_macro_f1(truth: list[int], guess: list[int]) -> float:
    """Macro F1 from precision and recall, as scikit-learn defines it."""
    scores = []
    for label in {*truth, *guess}:
        hits = sum(t == g == label for t, g in zip(truth, guess, strict=True))
        precision = hits / max(1, guess.count(label))
        recall = hits / max(1, truth.count(label))
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    return sum(scores) / len(scores)


def test_figures_equal_those_of_the_whole_part(tmp_path: Path) -> None:
    """Loss, accuracy and macro F1 from added-up batches equal those of all at once."""
    got = load(ts(tmp_path / "toy.ts", cases(40, "abcde")))
    generator = torch.Generator().manual_seed(0)
    for guesses in (5, 2):  # With two, three classes are in neither truth nor guess.
        outputs = torch.randn(30, 5, generator=generator)
        outputs[:, guesses:] -= 100
        targets = torch.randint(guesses, (30,), generator=generator)
        tally = got.tally(outputs[:11], targets[:11]) + got.tally(outputs[11:], targets[11:])
        figures = got.figures(tally)
        guess = outputs.argmax(1)
        assert list(figures) == ["loss", "accuracy", "macro_f1"]
        assert figures["loss"] == pytest.approx(got.loss(outputs, targets).item(), rel=1e-5)
        assert figures["accuracy"] == pytest.approx((guess == targets).double().mean().item())
        assert figures["macro_f1"] == pytest.approx(slow_macro_f1(targets.tolist(), guess.tolist()))


def test_the_majority_is_that_of_training(tmp_path: Path) -> None:
    """Which class is most frequent in the part that is judged makes no difference."""
    train, test = cases(40, "aaab"), cases(8, "abbb")
    got = load(ts(tmp_path / "a.ts", train), test_path=ts(tmp_path / "b.ts", test))
    assert got.baselines("test")["majority"]["accuracy"] == 0.25


def test_majority_and_constant_loss(tmp_path: Path) -> None:
    """The majority's loss is by training's shares; the constant loss is their entropy."""
    got = load(ts(tmp_path / "toy.ts", cases(40, "aaab")), valid=0.25, test=0.25)
    assert isinstance(got.train, SeriesPart)
    shares = got.train.labels.bincount() / got.train.size
    expected = -(shares * shares.log()).sum().item()
    assert got.constant_loss == pytest.approx(expected)
    majority = got.baselines("valid")["majority"]
    assert majority["accuracy"] == pytest.approx(0.75, abs=0.05)
    assert majority["loss"] == pytest.approx(expected, abs=0.05)
    assert got.constant_valid_loss == majority["loss"]


@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99)
)
def test_nearest_series_equals_the_slow_way(n: int, m: int, t: int, s: int, seed: int) -> None:
    """1-NN finds the least Euclidean distance of the padded series, however long each part is."""
    generator = torch.Generator().manual_seed(seed)

    def part(count: int, steps: int) -> SeriesPart:
        inputs = torch.randn(count, steps, 2, generator=generator)
        return SeriesPart(inputs, torch.full((count,), steps), torch.zeros(count).long())

    asked, known = part(n, t), part(m, s)
    long = [
        torch.nn.functional.pad(p.inputs, (0, 0, 0, 5 - p.inputs.shape[1])) for p in (asked, known)
    ]
    distances = torch.cdist(
        long[0].flatten(1), long[1].flatten(1), compute_mode="donot_use_mm_for_euclid_dist"
    )
    found = nearest_series(asked, known)
    chosen = distances.gather(1, found[:, None])[:, 0]
    torch.testing.assert_close(chosen, distances.min(1).values)


def test_nearest_series_in_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutting the work into blocks, to save memory, changes nothing."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 4, 2, generator=generator)
    part = SeriesPart(inputs, torch.full((50,), 4), torch.zeros(50).long())
    other = SeriesPart(inputs[:30] + 0.3, part.lengths[:30], part.labels[:30])
    whole = nearest_series(other, part)
    monkeypatch.setattr(classification, "CHUNK_BYTES", 7 * 64)
    assert torch.equal(nearest_series(other, part), whole)


def test_many_training_series_are_thinned_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where 1-NN would take long it compares with some series, and the notes say with how many."""
    monkeypatch.setattr(classification, "OPERATIONS", 2 * 8 * 6 * 2 * 5)
    got = load(ts(tmp_path / "toy.ts", cases(40, "ab")))
    assert any(note.startswith("1-NN compares with 5 of 24") for note in got.notes)
    assert isinstance(got.train, SeriesPart)
    assert isinstance(got.test, SeriesPart)
    assert set(nearest_series(got.test, got.train).tolist()) <= {0, 4, 9, 14, 19}


def test_labels_that_cannot_be_learned(tmp_path: Path) -> None:
    """A single class, and a class that only the test file has, are named."""
    train = ts(tmp_path / "a.ts", cases(20, "ab"))
    assert "two classes" in fault(load, ts(tmp_path / "one.ts", cases(20, "a")))
    other = ts(tmp_path / "b.ts", cases(9, "abc"))
    assert "the label 'c' of the test file" in fault(load, train, test_path=other)


def test_labels_that_differ_in_case_are_noted(tmp_path: Path) -> None:
    """Upper and lower case may be meant, so they are only mentioned."""
    notes = load(ts(tmp_path / "a.ts", cases(20, "aA"))).notes
    assert "the labels 'A' and 'a' differ only in upper and lower case" in notes


@pytest.mark.parametrize(
    ("value", "said"),
    [("inf", "line 25: channel 1 is infinite at step 2"), ("1e300", "too large to scale")],
)
def test_values_that_cannot_be_standardised(tmp_path: Path, value: str, said: str) -> None:
    """Infinite and huge values are errors, not NaN in the middle of a search."""
    path = ts(tmp_path / "toy.ts", [*cases(20, "ab"), ([[1, 77777], [1, 2]], "c")])
    path.write_text(path.read_text().replace("77777", value))
    assert said in fault(load, path)


def test_huge_values_in_the_test_file_only(tmp_path: Path) -> None:
    """A test value that no float32 can hold once standardised is named with its line."""
    train = ts(tmp_path / "a.ts", cases(20, "ab"))
    test = ts(tmp_path / "b.ts", [([[1e300], [1]], "a"), ([[1], [1]], "b")])
    assert "b.ts, line 5: a value is too far" in fault(load, train, test_path=test)


def test_keys_and_files_that_do_not_fit(tmp_path: Path) -> None:
    """Columns of a .ts file, and a test file with other channels, are refused."""
    path = ts(tmp_path / "a.ts", cases(20, "ab"))
    assert "the key 'label' names a column" in fault(load, path, label="kind")
    other = ts(tmp_path / "b.ts", [([[1.0]], "a"), ([[1.0]], "b")])
    assert "has 1 channels but the training file has 2" in fault(load, path, test_path=other)


def test_splits_survive_pickle_and_are_deterministic(tmp_path: Path) -> None:
    """Loading twice gives the same fingerprint, and splits reach other processes whole."""
    path = ts(tmp_path / "toy.ts", cases(40, "ab"))
    got, again = load(path), load(path)
    assert got.fingerprint == again.fingerprint
    assert load(path, valid=0.5).fingerprint != got.fingerprint
    back = pickle.loads(pickle.dumps(got)).to(CPU)
    assert back.baselines("test") == got.baselines("test")
    assert torch.equal(back.train.inputs, got.train.inputs)


def test_generators_decide_the_order(tmp_path: Path) -> None:
    """Epochs of one generator differ; equal generators give equal epochs."""
    train = load(ts(tmp_path / "toy.ts", cases(40, "ab"))).train
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    epochs = [[b.inputs.sum().item() for b in train.batches(1, one)] for one in generators]
    epochs.append([b.inputs.sum().item() for b in train.batches(1, generators[0])])
    assert epochs[0] == epochs[1]
    assert all(one != other for one, other in pairwise(epochs[1:]))
    assert sorted(epochs[1]) == sorted(epochs[2])


def test_describe_says_what_was_read(tmp_path: Path) -> None:
    """`check` shows classes, channels, sizes and lengths."""
    got = load(ts(tmp_path / "toy.ts", cases(40, "ab") + cases(1, "c")))
    lines = got.describe()
    assert "3 classes, 2 channels" in lines[0]
    assert any(re.match("training: 2[45] series of 2 to 6 steps", line) for line in lines)
    assert any("class 'c' has a single series" in note for note in got.notes)
    assert not {*lines} & {*got.notes}


def test_padding_never_changes_outputs(tmp_path: Path) -> None:
    """A network that stops at each length answers alike in any batch and with any padding."""
    test = load(ts(tmp_path / "toy.ts", cases(40, "ab")), test=0.5).test
    assert isinstance(test, SeriesPart)
    torch.manual_seed(0)
    network = torch.nn.GRU(2, 3, batch_first=True)

    def answers(part: SeriesPart, size: int) -> torch.Tensor:
        found = []
        for batch in part.batches(size, None):
            assert batch.lengths is not None
            states, _ = network(batch.inputs)
            found.append(states[torch.arange(len(states)), batch.lengths - 1])
        return torch.cat(found)

    wider = SeriesPart(
        torch.nn.functional.pad(test.inputs, (0, 0, 0, 9)), test.lengths, test.labels
    )
    alone = answers(test, 1)
    for part in (test, wider):
        torch.testing.assert_close(answers(part, 7), alone)


def test_tables_for_training_and_test(tmp_path: Path) -> None:
    """A table in long form is cut and standardised like a .ts file."""
    lines = [f"s{at},{'ab'[at % 2]},{at},{t}" for at in range(20) for t in range(1 + at % 3)]
    (tmp_path / "a.csv").write_text("id,kind,x,y\n" + "\n".join(lines))
    (tmp_path / "b.csv").write_text("id,kind,y,x\nq,a,1,2\nr,b,4,5\n")
    got = load(
        tmp_path / "a.csv", test_path=tmp_path / "b.csv", series="id", label="kind", valid=0.3
    )
    assert isinstance(got.test, SeriesPart)
    assert (got.train.size, got.valid.size, got.channels) == (14, 6, ("x", "y"))
    raw = got.test.inputs[:, 0].double().numpy() * got.scale + got.mean
    np.testing.assert_allclose(raw, [[2, 1], [5, 4]], rtol=1e-6)

"""Tests of `search.data.language`."""

from __future__ import annotations

import pickle
import subprocess
from collections import Counter
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from search.config import LanguageData
from search.data import language_baselines
from search.data.language import LanguageSplits, TextPart, load_language, read_text
from search.data.splits import IGNORED
from search.errors import DataError

WORDS = "the quick brown fox jumps over the lazy dog. "


def config(**keys: object) -> LanguageData:
    """Returns a configuration with sequences of 8."""
    return LanguageData.model_validate(
        {"task": "language", "path": "x", "sequence_length": 8} | keys
    )


def part(length: int, steps: int) -> TextPart:
    """Returns a part in which every character occurs once, in ascending order."""
    return TextPart(torch.arange(length, dtype=torch.int32), length, steps)


def splits(text: str = WORDS * 50, **keys: object) -> LanguageSplits:
    """Cuts a text."""
    return load_language(config(**keys), text)


@given(st.integers(2, 200), st.integers(1, 20), st.integers(1, 12), st.none() | st.integers(0, 99))
def test_every_character_is_a_target_once(
    length: int, steps: int, streams: int, seed: int | None
) -> None:
    """In an epoch every character but the first is predicted once, from the one before it."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    seen: Counter[int] = Counter()
    for at, batch in enumerate(part(length, steps).batches(streams, generator)):
        assert batch.carries == (at > 0)
        assert batch.inputs.shape == batch.targets.shape
        assert batch.inputs.shape[0] <= streams
        assert batch.inputs.shape[1] <= steps
        real = batch.targets != IGNORED
        assert torch.equal(batch.targets[real], batch.inputs[real] + 1)
        seen.update(batch.targets[real].tolist())
    assert seen == Counter(range(1, length))


def test_streams_go_on_from_chunk_to_chunk() -> None:
    """A row's chunk starts where the row's chunk before it ended, as the carried state needs."""
    batches = list(part(100, 7).batches(4, None))
    assert [batch.inputs.shape for batch in batches] == [(4, 7)] * 3 + [(4, 4)]
    for before, after in pairwise(batches):
        assert torch.equal(after.inputs[:, 0], before.targets[:, -1])


def test_without_a_generator_the_text_is_in_order() -> None:
    """Validation reads the part from its start, the same every time."""
    first = [batch.inputs.tolist() for batch in part(50, 5).batches(1, None)]
    assert list(chain.from_iterable(rows[0] for rows in first)) == list(range(49))


def test_a_generator_moves_the_borders() -> None:
    """Epochs differ in where streams start, and equal generators give equal epochs."""
    generator, again = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    text = part(500, 10)
    epochs = [torch.cat([b.inputs for b in text.batches(4, generator)], 1) for _ in range(2)]
    assert not torch.equal(epochs[0], epochs[1])
    repeated = torch.cat([b.inputs for b in text.batches(4, again)], 1)
    assert torch.equal(epochs[0], repeated)


def test_no_more_streams_than_sequences() -> None:
    """A short part is not cut into streams shorter than a sequence."""
    assert next(iter(part(33, 8).batches(64, None))).inputs.shape == (4, 8)


def test_the_split_is_in_order_and_the_vocabulary_from_training() -> None:
    """Characters are indices of training's sorted characters; later ones that it lacks are V."""
    text = "ab" * 40 + "aZb" * 4 + "abbaabbaabba"
    got = splits(text, split=(80 / 104, 12 / 104, 12 / 104))
    assert (got.vocabulary, got.input_size, got.output_size) == ("ab", 3, 2)
    assert isinstance(got.valid, TextPart)
    assert got.valid.codes.tolist() == [0, 2, 1] * 4
    targets = torch.cat([batch.targets for batch in got.valid.batches(1, None)], 1)
    assert targets[0].tolist() == [IGNORED, 1, 0] * 3 + [IGNORED, 1]
    assert "of the validation part 4 of " in got.notes[0]


def test_loss_and_figures_count_only_real_targets() -> None:
    """The tallies of batches add up to the mean over all targets that are not ignored."""
    got = splits()
    outputs = torch.randn(3, 5, got.output_size)
    targets = torch.randint(got.output_size, (3, 5))
    targets[0, 1:] = IGNORED
    logs = outputs.log_softmax(-1)
    picked = [-logs[b, t, targets[b, t]] for b in range(3) for t in range(5) if b or not t]
    expected = torch.stack(picked).mean().item()
    assert got.loss(outputs, targets).item() == pytest.approx(expected)
    tally = got.tally(outputs[:1], targets[:1]) + got.tally(outputs[1:], targets[1:])
    assert tally.dtype == torch.float64
    figures = got.figures(tally)
    assert list(figures) == ["loss", "nats_per_char", "perplexity"]
    assert figures["loss"] == figures["nats_per_char"] == pytest.approx(expected)
    assert figures["perplexity"] == pytest.approx(np.exp(expected))


def test_a_batch_of_ignored_targets_has_no_loss() -> None:
    """Where nothing is to be predicted the loss is 0, not NaN."""
    got = splits()
    targets = torch.full((1, 2), IGNORED)
    assert got.loss(torch.randn(1, 2, got.output_size), targets).item() == 0


def test_a_huge_loss_has_an_infinite_perplexity() -> None:
    """A loss beyond what exp can hold does not end the run."""
    assert splits().figures(torch.tensor([1e6, 1.0]))["perplexity"] == np.inf


def test_baselines_match_slow_counting() -> None:
    """The n-gram models equal Witten and Bell's formulas written out with dictionaries."""
    rng = np.random.default_rng(0)
    words = rng.choice(["abcd ", "bcda ", "abdd ", "cab "], 200)
    text = "".join(words)[:600] + "".join(rng.choice(list("abcdé"), 40)) + "abcd dab bcda abcé cab"
    text = text.ljust(700, "d")
    got = splits(text, split=(600 / 700, 50 / 700, 50 / 700))
    train, test = text[:600], text[650:]

    def probability(history: str, char: str) -> float:
        if not history:
            return (train.count(char) + 1) / (len(train) + len(got.vocabulary))
        lower = probability(history[1:], char)
        span = len(history)
        after = Counter(
            train[at + span] for at in range(len(train) - span) if train[at : at + span] == history
        )
        total = sum(after.values())
        return (after[char] + len(after) * lower) / (total + len(after)) if total else lower

    *shorter, longest = got.baselines("test")
    assert shorter == ["unigram", "bigram", "trigram"]
    assert 4 <= int(longest.removesuffix("gram")) <= 8
    orders = [0, 1, 2, int(longest.removesuffix("gram")) - 1]
    for order, name in zip(orders, [*shorter, longest], strict=True):
        losses = [
            -np.log(probability(test[max(0, at - order) : at], test[at]))
            for at in range(1, len(test))
            if test[at] in got.vocabulary
        ]
        assert got.baselines("test")[name]["loss"] == pytest.approx(np.mean(losses)), name


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_ngram_models_are_distributions(history: list[int]) -> None:
    """After any history the probabilities that a model gives all characters add up to 1."""
    train = np.array([0, 1, 2, 0, 1, 3, 4, 4, 0, 2, 1], dtype=np.int64)
    asked = [np.array([*history, char], dtype=np.int64) for char in range(5)]
    for order in range(5):
        sums = sum(language_baselines.ngrams(train, codes, 5, 5)[order][-1] for codes in asked)
        assert sums == pytest.approx(1)


def test_the_length_of_an_ngram_is_what_the_end_of_training_says() -> None:
    """Where only the character three before tells the next, four are read; in noise, one."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 6, (1000, 3))
    repeated = np.concatenate([first, first], axis=1).ravel()
    assert language_baselines.best_length(repeated, 6) >= 4
    assert language_baselines.best_length(rng.integers(0, 6, 5000), 6) == 1
    assert language_baselines.best_length(np.array([0, 1, 0]), 2) == 1


def test_a_key_of_the_longest_ngram_fits() -> None:
    """However many characters a vocabulary has, no two contexts share a key."""
    assert language_baselines.longest_ngram(60) == language_baselines.LONGEST
    for size in (2, 234, 255, 5_000, 1_114_112):
        assert (size + 1) ** language_baselines.longest_ngram(size) < 2**63
        assert language_baselines.longest_ngram(size) >= 3


def test_constant_loss_is_the_entropy_of_training() -> None:
    """The best guess that ignores the inputs has the entropy of the characters' shares.

    In the validation part it has what these shares, with one more of each, say of that text.
    """
    got = splits("aaab" * 80 + "aabb" * 10 + "abbb" * 10, split=(0.8, 0.1, 0.1))
    assert got.constant_loss == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))
    a, b = (np.log(count / 322) for count in (241, 81))
    # Of the first character of a part nothing is said.
    assert got.constant_valid_loss == pytest.approx(-(19 * a + 20 * b) / 39)
    assert got.constant_valid_loss == got.baselines("valid")["unigram"]["loss"]
    assert got.constant_valid_loss != got.baselines("test")["unigram"]["loss"]


def test_limit_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    """The limit counts characters, after the mark is gone and line ends are plain."""
    path = tmp_path / "text.txt"
    text = "é\r\nß€\r\n" * 200
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    got = load_language(config(path=path, characters=501))
    sizes = [len(piece.codes) for piece in (got.train, got.valid, got.test)]
    assert sum(sizes) == 501
    assert got.vocabulary == "\nßé€"
    assert "plain line ends" in got.notes[0]
    whole = load_language(config(path=path), text.replace("\r\n", "\n")[:501])
    assert whole.fingerprint == got.fingerprint


def test_the_fingerprint_follows_text_and_options() -> None:
    """Equal inputs have equal fingerprints; a character or an option makes another."""
    one = splits().fingerprint
    assert one == splits().fingerprint
    assert one != splits(WORDS * 49 + WORDS.upper()).fingerprint
    assert one != splits(sequence_length=9).fingerprint


def test_splits_survive_pickle() -> None:
    """Splits reach other processes whole."""
    got = splits()
    back = pickle.loads(pickle.dumps(got))
    assert back.fingerprint == got.fingerprint
    assert torch.equal(back.train.codes, got.train.codes)
    assert back.to(torch.device("cpu")).baselines("valid") == got.baselines("valid")


def test_describe_says_what_was_read() -> None:
    """`check` shows sizes and units."""
    lines = splits().describe()
    assert any("training: 2025 characters, 253 sequences of 8" in line for line in lines)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"ab" * 50, "validation part has 5 of 100 characters"),
        (b"a" * 900, "all 'a'"),
        (b"abc\n" * 300 + b"\xff", r"byte 1200 \(in line 301\) is 0xff.*iconv"),
        (b"\xef\xbb\xbfabc\n\xff", r"byte 7 \(in line 2\)"),
        ("abc".encode("utf-16"), "UTF-16.*iconv"),
        (b"PK\x03\x04" + b"abc" * 300, "is a ZIP archive, as .docx"),
        (b"%PDF-1.7\n" + b"abc" * 300, "is a PDF, and no text"),
        (b"abc\n\0" * 300, r"binary: character 4 \(in line 2\)"),
        (b"ab" * 450 + b"xy" * 25 + b"ab" * 25, "no character of the validation part"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: bytes, said: str) -> None:
    """Each fault of a file has one line that names the place and the remedy."""
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        load_language(config(path=path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_remedy_for_another_encoding_is_one(tmp_path: Path) -> None:
    """What is said of a Western text makes it readable, quotation marks and all."""
    text = "\u201cIt\u2019s far\u201d, she said \u2013 caf\xe9 after caf\xe9. " * 30
    path = tmp_path / "my text.txt"
    path.write_bytes(text.encode("cp1252"))
    with pytest.raises(DataError, match="iconv") as caught:
        load_language(config(path=path))
    command = str(caught.value).partition("for example: ")[2]
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert read_text(tmp_path / "NEW") == text


def test_missing_files_and_folders(tmp_path: Path) -> None:
    """A path that is no file is an error of one line."""
    with pytest.raises(DataError, match="does not exist"):
        load_language(config(path=tmp_path / "none.txt"))
    with pytest.raises(DataError, match="is a folder"):
        load_language(config(path=tmp_path))


def test_a_text_of_two_characters_a_part() -> None:
    """The shortest text that is allowed trains and is judged without a fault."""
    got = splits("ababab", split=(1 / 3, 1 / 3, 1 / 3), sequence_length=1)
    assert [batch.targets.tolist() for batch in got.train.batches(4, None)] == [[[1]]]
    assert set(got.baselines("test")) == {"unigram", "bigram", "trigram"}

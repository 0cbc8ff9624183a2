"""The first and the last but one section of a report: what they say of the answer, and of cost."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from made import made_study, made_trial
from tiny import tiny_config

from search.dimensions import Choices, Dimension, Range
from search.documents import Bullets, Paragraph, Section, Table
from search.report import summarize
from search.report_answer import _at_edge, _beside, answer
from search.report_ending import TOLD, _commands, cost
from search.reporting import collect
from search.stored_study import LOOKS, StoredStudy
from search.trial import Outcome

RATE = Range(1e-4, 1.0, log=True)


def tables(section: Section) -> list[Table]:
    """Returns the tables of a section."""
    return [block for block in section.blocks if isinstance(block, Table)]


def words(section: Section) -> str:
    """Returns all sentences of a section."""
    said = []
    for block in section.blocks:
        said += [block.text] if isinstance(block, Paragraph) else []
        said += block.items if isinstance(block, Bullets) else []
    return "\n".join(said)


def costs(stored: StoredStudy) -> Section:
    """Returns the section on what a study cost."""
    return cost(collect(stored, summarize(stored)))


@pytest.mark.parametrize(
    ("name", "dimension", "value", "said"),
    [
        ("learning_rate", RATE, 0.8, True),
        ("learning_rate", RATE, 0.7, False),
        ("learning_rate", RATE, 1.3e-4, True),
        ("learning_rate", RATE, 1.5e-4, False),
        ("epochs", Range(4, 104), 101, True),
        ("epochs", Range(4, 104), 100, False),
        ("epochs", Range(4, 104), 7, True),
        ("epochs", Range(4, 104), 8, False),
        ("epochs", Range(1, 101), 1, False),
        ("dropout", Range(0.0, 0.5), 0.0, False),
        ("dropout", Range(0.0, 0.5), 0.5, True),
        ("batch_size", Choices((16, 32, 64)), 16, True),
        ("batch_size", Choices((16, 32, 64)), 32, False),
        ("batch_size", Choices((16, 32, 64)), 64, True),
        ("batch_size", Choices((1, 2, 4)), 1, False),
        ("cell", Choices(("gru", "lstm")), "lstm", False),
    ],
)
def test_what_lies_at_the_end_of_its_range(
    name: str, dimension: Dimension, value: Any, said: bool
) -> None:
    """Within 3 % of an end, by the logarithm where that is searched, if there is more beyond."""
    assert _at_edge(name, value, dimension) is said


@pytest.mark.parametrize(
    ("name", "mine", "naive", "noise", "said"),
    [
        ("rmse", 0.1, {"mean": 0.3, "ridge": 0.2}, 0.0, "The best naive method, ridge, has 0.2."),
        ("rmse", 0.25, {"mean": 0.3, "ridge": 0.2}, 0.06, "naive method ridge is as good, with"),
        ("rmse", 0.25, {"mean": 0.3, "ridge": 0.2}, 0.04, "no use yet: the naive method ridge"),
        ("rmse", 0.25, {"mean": 0.3, "ridge": 0.2}, math.nan, "no use yet: the naive"),
        ("accuracy", 0.6, {"majority": 0.5, "nearest": 0.7}, 0.0, "nearest is better, with 70.0 %"),
        ("accuracy", 0.8, {"majority": 0.5, "nearest": 0.7}, 0.0, "method, nearest, has 70.0 %"),
    ],
)
def test_the_answer_beside_the_best_naive_method(
    name: str, mine: float, naive: dict[str, float], noise: float, said: str
) -> None:
    """It is better, as good within the noise between seeds, or of no use, and that is said."""
    assert said in _beside(name, mine, naive, noise)


def test_the_table_of_the_best_begins_with_the_best(tmp_path: Path) -> None:
    """It has the ten best trials, the best of all first."""
    config = tiny_config(tmp_path)
    losses = [0.5 + (7 * number % 12) / 100 for number in range(12)]
    trials = [made_trial(config, number, valid=[loss]) for number, loss in enumerate(losses)]
    stored = made_study(tmp_path, trials)
    ranking = tables(answer(collect(stored, summarize(stored))))[-1]
    best = sorted(range(12), key=lambda number: losses[number])[:10]
    assert [row[0] for row in ranking.rows] == [f"#{number}" for number in best]


def test_whether_most_trials_failed(tmp_path: Path) -> None:
    """More than half are most, and half of them are so many."""
    config = tiny_config(tmp_path)
    for count, said in ((4, "Of these 2 failed"), (3, "Of these most failed")):
        ends = [Outcome.FAILED, Outcome.FAILED, Outcome.PRUNED, Outcome.DIVERGED][:count]
        folder = tmp_path / str(count)
        folder.mkdir()
        stored = made_study(folder, [made_trial(config, n, end) for n, end in enumerate(ends)])
        assert said in words(answer(collect(stored, summarize(stored))))


def test_what_each_outcome_cost(tmp_path: Path) -> None:
    """Trials, epochs, time and its share are told by outcome, and together."""
    config = tiny_config(tmp_path, space={"epochs": {"low": 2, "high": 9}})
    six = {"params": {"epochs": 6}}
    trials = [
        made_trial(config, 0, valid=[0.5, 0.4, 0.3], seconds=5.0),
        made_trial(config, 1, valid=[0.5, 0.4], seconds=1.0),
        made_trial(config, 2, Outcome.PRUNED, [0.9, 0.8], seconds=2.0, **six),
    ]
    section = costs(made_study(tmp_path, trials, space={"epochs": {"low": 2, "high": 9}}))
    rows = tables(section)[0].rows
    assert [row[:3] + row[4:] for row in rows] == [
        ["complete", "2", "5", "75 %"],
        ["pruned", "1", "2", "25 %"],
        ["together", "3", "7", "100 %"],
    ]
    assert "Pruned trials had asked for 6 epochs and got 2." in words(section)


def test_the_last_words_of_failures(tmp_path: Path) -> None:
    """The last line of each traceback is told, of the first failures, and how many there are."""
    config = tiny_config(tmp_path)
    told = "Traceback (most recent call last):\n  File 'a'\nValueError: number {}\n"
    ends = [
        made_trial(config, n, Outcome.FAILED, (), traceback=told.format(n)) for n in range(TOLD + 2)
    ]
    section = costs(made_study(tmp_path, ends))
    (bullets,) = (block for block in section.blocks if isinstance(block, Bullets))
    assert bullets.items == [f"#{n}: ValueError: number {n}" for n in range(TOLD)]
    assert f"Their last words; the first {TOLD} of {TOLD + 2}:" in words(section)


def test_an_evaluation_is_done_again_with_all_its_seeds(tmp_path: Path) -> None:
    """Seeds that failed were trained, too: without them the command would train others anew."""
    stored = made_study(tmp_path, [made_trial(tiny_config(tmp_path), 0)])
    counts = [{"trial": 0, "complete": 2, "failed": 3}, {"trial": 0, "complete": 4, "failed": 0}]
    look = {"time": "2026-03-01T13:00:00+00:00", "trial": 0, "seeds": [5, 6], "metric": "rmse"}
    figures = {"mean": 0.5, "std": 0.1, "ensemble": 0.4}
    stored.study.set_user_attr(LOOKS, [{**look, **figures, "candidates": counts}])
    commands = _commands(collect(stored, summarize(stored)), stored, "")
    assert "rnn-search evaluate tiny --top 2 --seeds 5" in commands

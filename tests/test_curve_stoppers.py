"""What ends trials in simulated studies, and how strategies are told apart: case by case."""

from __future__ import annotations

import pytest
from test_curves_table import made

from bench.curves.scores import Score, left_out, show
from bench.curves.simulation import Board, Plan, Trial
from bench.curves.stoppers import Extrapolation, Halving, Hyperband


def ranked(epochs: int, *values: float) -> Board:
    """Returns a board of trials that had these values at each of so many epochs."""
    board = Board()
    for number, value in enumerate(values):
        trial = Trial(number, Plan({}, [value] * epochs, [1.0] * epochs, epochs))
        for _ in range(epochs):
            trial.values.append(value)
            trial.best = value
            board.add(trial)
    return board


def at(epoch: int, value: float, number: int = 0) -> Trial:
    """Returns a trial that has had a value for so many epochs, of 36."""
    plan = Plan({}, [value] * 36, [1.0] * 36, 36)
    return Trial(number, plan, [value] * epoch, value)


@pytest.mark.parametrize(("factor", "allowed"), [(2, 4), (3, 3), (4, 2)])
def test_so_many_of_nine_go_on(factor: int, allowed: int) -> None:
    """The trial itself counts among those that came to a rung, and is as good as the last."""
    board = ranked(1, *map(float, range(1, 9)))
    assert Halving(factor, 1).judge(at(1, float(allowed)), board) is None
    assert Halving(factor, 1).judge(at(1, allowed + 0.5), board) == "pruned"


@pytest.mark.parametrize(("number", "least"), [(0, 1), (1, 3), (3, 9), (8, 27)])
def test_a_bracket_begins_at_its_own_rung(number: int, least: int) -> None:
    """The worst trial of a bracket lives until the bracket's first rung, and not longer."""
    board = ranked(36, *map(float, range(1, 9)))
    ends = [epoch for epoch in range(1, 37) if Hyperband().judge(at(epoch, 99.0, number), board)]
    assert ends == [rung for rung in (1, 3, 9, 27) if rung >= least]


def test_what_is_foreseen_to_come_near_the_best_goes_on() -> None:
    """A curve that falls on to the best goes on; one that would have to fall quicker ends."""
    board = ranked(8, 0.5, 1.0, 1.0, 1.0, 1.0)
    for pace, ends in ((1.0, False), (0.01, True)):
        values = [1.2 * epoch**-pace for epoch in range(1, 9)]
        plan = Plan({}, [1.0] * 36, [1.0] * 36, 36)
        falling = Trial(9, plan, [value + 0.45 for value in values], values[-1] + 0.45)
        verdict = Extrapolation(2.0).judge(falling, board)
        assert (verdict == "pruned") == ends
    assert Extrapolation(2.0).judge(at(3, 9.0), board) is None, "it is too early"


def test_near_the_best_is_a_share_of_the_best() -> None:
    """But of a tenth of the median's where the best is next to nothing."""
    usual, solved = made(), made()
    usual.valid[:] += 1.0
    assert usual.best > usual.median / 10
    assert usual.within(0.05) == pytest.approx(1.05 * usual.best)
    solved.valid[0] = 1e-6
    assert solved.within(0.05) == pytest.approx(1e-6 + 0.005 * solved.median)


def test_the_others_choose_by_time_what_is_quickest(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a table, the quickest on the others to 1 % is chosen, whatever it is worth there."""
    scores = {
        "first": {name: Score(1.0, 10.0, 0.1, 1.0) for name in "abc"},
        "quick": {name: Score(1.0, 5.0 if name != "c" else 40.0, 0.3, 1.0) for name in "abc"},
    }
    left_out(scores)
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == "  without a: first; there 1.00 of the first's time to 1 %, 1.00 of its regret"
    )
    assert (
        lines[2] == "  without c: quick; there 4.00 of the first's time to 1 %, 3.00 of its regret"
    )


def test_a_strategy_without_any_regret_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A start that is the best of a table leaves none: a ratio next to nothing, and no fault."""
    scores = {
        "first": {name: Score(1.0, 10.0, 0.1, 1.0) for name in "ab"},
        "at once": {name: Score(1.0, 1.0, 0.0, 1.0) for name in "ab"},
    }
    show(scores)
    left_out(scores)
    left_out({name: {"a": its["a"]} for name, its in scores.items()})  # Nobody else can choose.
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].startswith("| at once | 1.00 | 0.10 | 0.00 |")
    assert [line.partition(";")[0] for line in lines[4:]] == [
        "  without a: at once",
        "  without b: at once",
    ]

"""The simulation of studies on tables of learning curves: time, rules, and what can be seen."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from bench.curves import table as tables
from bench.curves.proposers import LESSON, Rows, build_portfolio, plan_of
from bench.curves.samplers import ChildrenOfTheBest, MoreAtRandom, VariedTPE
from bench.curves.samplers import config_of as simulated
from bench.curves.simulate import DEFAULT, Strategy, rules
from bench.curves.simulation import Board, Plan, Trial, simulate
from bench.curves.stoppers import AsInSearch, Halving, Patience, Percentile
from bench.curves.table import EPOCHS, CurveTable
from bench.curves.train import configuration, finished
from bench.data_sets import DATA_SETS, HELD_OUT, config_of
from search.config import make_config
from search.space import suggest
from search.stopping import PRUNERS, out_of_patience, worse_than_peers
from search.trial import Goal

SPACE = make_config({"name": "t", "data": {"task": "forecast", "path": "n.csv"}}, "t").space
"""The default space."""


def made(rows: int = 60, seed: int = 0, name: str = "made") -> CurveTable:
    """Returns a table of falling curves with noise, of which every tenth diverges."""
    draw = np.random.default_rng(seed)
    steps = np.arange(1, EPOCHS + 1)
    levels, paces = draw.uniform(0.1, 2.0, (rows, 1)), draw.uniform(0.2, 1.5, (rows, 1))
    valid = levels + 2 * steps ** (-paces) + draw.uniform(0.0, 0.05, (rows, EPOCHS))
    diverged = np.full(rows, np.nan)
    diverged[5::10] = 3.5
    seconds = draw.uniform(0.5, 2.0, (rows, 1)) * np.ones((rows, EPOCHS))
    params = tuple(configuration(number, SPACE).to_dict() for number in range(rows))
    findings = np.zeros((rows, EPOCHS), dtype=np.int8)
    return CurveTable(name, params, valid, valid, seconds, findings, diverged)


@pytest.fixture(scope="module")
def table() -> CurveTable:
    """A table."""
    return made()


def test_time_is_what_the_epochs_took(table: CurveTable) -> None:
    """With one worker and no rule, a study takes the sum of its trials' epochs, to the last."""
    order = Rows(table, seed=3)
    plans = []
    while (plan := order.propose(Board())) is not None:
        plans.append(plan)
    assert len(plans) == len(table)
    trace = simulate(Rows(table, seed=3), Patience(0), math.inf, workers=1)
    assert trace.seconds == pytest.approx(sum(sum(plan.seconds) for plan in plans))
    assert trace.epochs == sum(len(plan.valid) for plan in plans)
    best = min(plans, key=lambda plan: min(plan.valid, default=math.inf))
    before = sum(sum(plan.seconds) for plan in plans[: plans.index(best)])
    within = sum(best.seconds[: best.valid.index(min(best.valid)) + 1])
    assert trace.times[-1] == pytest.approx(before + within)


def test_two_workers_do_not_wait_for_each_other(table: CurveTable) -> None:
    """Two workers train the same epochs as one, and find the best in about half of the time."""
    one, two = (simulate(Rows(table, 3), Patience(0), math.inf, workers=n) for n in (1, 2))
    assert two.seconds == pytest.approx(one.seconds)
    assert two.bests[-1] == one.bests[-1]
    assert two.times[-1] < 0.7 * one.times[-1]


def test_random_search_finds_what_chance_says() -> None:
    """The mean best loss of n rows drawn at random is the analytic one of draws without return."""
    table, drawn = made(200, seed=1), 10
    values = np.sort([table.reached[row, -1] for row in range(len(LESSON), len(table))])
    left = len(values)
    chances = [
        math.comb(left - rank - 1, drawn - 1) / math.comb(left, drawn)
        for rank in range(left - drawn + 1)
    ]
    expected = float(np.dot(chances, values[: len(chances)]))
    free = CurveTable(
        "free",
        table.params,
        table.valid,
        table.train,
        np.ones_like(table.seconds),
        table.findings,
        np.full(len(table), np.nan),
    )
    found = [
        simulate(Rows(free, seed, (), EPOCHS), Patience(0), drawn * EPOCHS, workers=1).bests[-1]
        for seed in range(2000)
    ]
    error = float(np.std(found)) / math.sqrt(len(found))
    assert abs(float(np.mean(found)) - expected) < 4 * error


@pytest.mark.parametrize("strategy", rules(), ids=lambda one: one.name)
def test_no_rule_sees_the_future(table: CurveTable, strategy: Strategy) -> None:
    """What happens up to a moment is the same whatever the curves do later."""
    stopper = strategy.stopper
    judged: list[tuple[int, int, str | None]] = []

    class Watched:
        def __init__(self, until: int) -> None:
            self.left = until

        def judge(self, trial: Trial, board: Board) -> str | None:
            verdict: str | None = stopper.judge(trial, board)
            if self.left > 0:
                judged.append((trial.number, len(trial.values), verdict))
            self.left -= 1
            return verdict

    class Changed:
        """The rows, of which every loss from an epoch on is another after the first trials."""

        def __init__(self, change: float) -> None:
            self.rows, self.change = Rows(table, 5), change

        def propose(self, board: Board) -> Plan | None:
            plan = self.rows.propose(board)
            if plan is None or len(board.trials) < 12:
                return plan
            valid = [*plan.valid[:6], *(value * self.change for value in plan.valid[6:])]
            return Plan(plan.params, valid, plan.seconds, plan.epochs, (), plan.diverges)

    first_late = 90
    simulate(Changed(1.0), Watched(first_late), math.inf)
    before, judged = judged, []
    simulate(Changed(0.3), Watched(first_late), math.inf)
    late = [at for at, (number, epoch, _) in enumerate(before) if number >= 12 and epoch > 6]
    same = min(late, default=len(before))
    assert same > 20
    assert judged[:same] == before[:same]


def test_our_rules_are_those_of_the_search(table: CurveTable) -> None:
    """Pruners, a half as a share, and patience say at every epoch what `search.stopping` says."""
    board, goal = Board(), Goal()
    ended: list[list[float]] = []
    verdicts = []
    for number in range(60):
        trial = Trial(number, plan_of(table, number % len(table), 20))
        for value in trial.plan.valid:
            trial.values.append(value)
            trial.best = min(trial.best, value)
            median, halving = (
                worse_than_peers(PRUNERS[name], trial.values, ended, goal, 1, 5)
                for name in ("median", "halving")
            )
            patience = out_of_patience(trial.values, goal, 4)
            assert (Percentile().judge(trial, board) is None) == (median is None)
            assert (AsInSearch().judge(trial, board) is None) == (halving is None)
            assert (Patience(4).judge(trial, board) is None) == (patience is None)
            board.add(trial)
            verdicts.append((median is not None, halving is not None))
            if median is not None and number % 2:
                break
        ended.append(trial.values)
    assert all(map(any, zip(*verdicts, strict=True)))


def test_halving_keeps_the_best_of_each_rung() -> None:
    """Of 27 trials at a rung, those among the best third so far go on; no other epoch is a rung."""
    board, kept = Board(), []
    values = list(range(27))
    random.Random(0).shuffle(values)
    for number, value in enumerate(values):
        trial = Trial(number, Plan({}, [float(value)], [1.0], 9), [float(value)], float(value))
        if Halving(3, 1).judge(trial, board) is None:
            kept.append(value)
        board.add(trial)
        trial.values.append(0.0)
        assert Halving(3, 1).judge(trial, board) is None
    assert min(values) in kept
    assert len(kept) < 18


def test_what_diverges_ends_where_the_rule_ends_it(table: CurveTable) -> None:
    """A plan of a row that diverges has the whole epochs before it, and the time of the last."""
    plan = plan_of(table, 5, 36)
    assert plan.diverges
    assert len(plan.valid) == 3
    assert sum(plan.seconds) == pytest.approx(3.5 * table.seconds[5, 0])
    assert not plan_of(table, 5, 3).diverges


def test_a_portfolio_complements_itself() -> None:
    """Greedily chosen rows lower the mean regret, the first most, and none is a starting point."""
    others = [made(60, seed, f"t{seed}") for seed in (1, 2, 3)]
    rows = build_portfolio(others, 5, 36).rows
    assert rows
    assert min(rows) >= len(LESSON)
    regrets = np.stack([one.regret(one.allowed) for one in others])
    assert regrets[:, rows[0]].mean() <= regrets[:, len(LESSON) :].mean(axis=1).mean()
    best = [regrets[:, [0, 1, 2, *rows[:n]]].min(axis=1).mean() for n in range(len(rows) + 1)]
    assert all(later < earlier for earlier, later in pairwise(best))


def test_a_table_goes_to_lines_and_back(tmp_path: Path) -> None:
    """What is stored is read as it was, and lines made of it are the same table again."""
    for name in tables.names()[:2]:
        lines = tmp_path / f"{name}.jsonl"
        tables.unpack(tables.FOLDER / f"{name}.npz", lines)
        tables.pack(lines, tmp_path / f"{name}.npz")
        stored, again = tables.load(name), tables.load(name, tmp_path)
        assert stored.params == again.params
        for field in ("valid", "train", "seconds", "findings", "diverged"):
            np.testing.assert_array_equal(getattr(stored, field), getattr(again, field))


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    """A kill while a line is written loses that line and no other."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"number": 0, "cut": false}\n{"number": 1, "cu', encoding="utf-8")
    assert finished(path) == {0}
    assert path.read_text(encoding="utf-8") == '{"number": 0, "cut": false}\n'


def test_tables_hold_what_the_script_draws() -> None:
    """Every table's rows are the script's configurations, the starting points first."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    assert tables.names()
    for name in tables.names():
        stored = tables.load(name)
        for number in (0, 1, 2, len(stored) - 1):
            expected = configuration(number, SPACE).to_dict()
            assert expected.pop("epochs") == EPOCHS
            assert stored.params[number] == expected


def test_every_data_set_is_as_large_as_the_largest_batch(tmp_path: Path) -> None:
    """So that all of them share one space, and a configuration is the same on each."""
    for name in DATA_SETS:
        config, splits = config_of(name, tmp_path)
        assert splits.train.size >= 128
        assert config.space == SPACE


@pytest.mark.parametrize("name", HELD_OUT)
def test_held_out_sets_are_read_and_have_chosen_nothing(name: str, tmp_path: Path) -> None:
    """A set for judging alone is read as its task says, and no table of curves is of it."""
    config, splits = config_of(name, tmp_path)
    assert config.data.task == HELD_OUT[name].task
    assert min(splits.train.size, splits.valid.size, splits.test.size) >= 16
    assert name not in {*DATA_SETS, *tables.names()}


def test_rules_end_trials(table: CurveTable) -> None:
    """The default rules try more in the same time than none."""
    ours, none = (simulate(Rows(table, 1), rule, 400.0) for rule in (DEFAULT, Patience(0)))
    assert ours.trials > none.trials


def test_data_sets_are_named_after_options(tmp_path: Path) -> None:
    """The command of the docstring, with the names of data sets last, trains what they name."""
    work = tmp_path / "work"
    command = [sys.executable, "-m", "bench.curves.train", work, "--count", "1", "recall"]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # What is in the table already is not trained again.
    assert len(finished(work / "recall.jsonl")) == len(tables.load("recall", tables.FOLDER))


def test_random_trials_come_after_the_points() -> None:
    """The starting points asked for come first, then so many random trials, then TPE's."""
    config = simulated(0)
    study = optuna.create_study(sampler=MoreAtRandom(config, first=12, points=3))
    none = optuna.create_study(sampler=MoreAtRandom(config, share=1.0, points=3))
    proposed: list[list[dict[str, object]]] = [[], []]
    for _ in range(20):
        for at, one in enumerate((study, none)):
            trial = one.ask()
            params = suggest(trial, config.space)
            proposed[at].append(params.to_dict())
            one.tell(trial, abs(math.log(params.learning_rate / 0.03)))
    tpe, drawn = proposed
    assert [one["learning_rate"] for one in tpe[:3]] == [0.01, 0.1, 0.001]
    assert tpe[:15] == drawn[:15]
    assert all(one != other for one, other in zip(tpe[15:], drawn[15:], strict=True))


def test_children_of_the_best() -> None:
    """From the 30th trial on, two of three share values with one of the best, all in the space."""
    config = simulated(0)
    study = optuna.create_study(sampler=ChildrenOfTheBest(config))
    for number in range(60):
        trial = study.ask()
        params = suggest(trial, config.space)
        before = sorted(study.get_trials(states=[TrialState.COMPLETE]), key=lambda one: one.value)
        shared = [
            sum(one.params[name] == value for name, value in trial.params.items())
            for one in before[: ChildrenOfTheBest.BEST]
        ]
        if number >= ChildrenOfTheBest.FIRST and number % 3:
            assert max(shared) >= 3
        study.tell(trial, abs(math.log(params.learning_rate / 0.02)) + 1 / params.hidden_units)


def test_tpe_of_each_parameter_alone() -> None:
    """What fits each parameter alone proposes other values than what fits them together."""
    config, proposed = simulated(0), []
    for options in ({}, {"multivariate": True}, {"multivariate": False}):
        study = optuna.create_study(sampler=VariedTPE(config, **options))
        for number in range(25):
            trial = study.ask()
            suggest(trial, config.space)
            study.tell(trial, float(number % 7))
        proposed.append([trial.params for trial in study.trials])
    together, explicitly, alone = proposed
    assert together == explicitly
    assert together[:10] == alone[:10]
    assert together[15:] != alone[15:]

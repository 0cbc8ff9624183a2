"""Real searches under different rules that end trials: the bench behind the default pruner."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.pruning import RULES, Everyone, collect, loss_at, records, show
from search.stopping import PRUNERS, worse_than_peers
from search.trial import Goal

curves = st.lists(st.integers(0, 9).map(float), min_size=1, max_size=9)


@given(curves, st.lists(curves, max_size=12))
def test_two_rules_are_those_of_the_search(values: list[float], peers: list[list[float]]) -> None:
    """Median and thirds at rungs end the trials that `search.stopping` ends."""
    for ours, name in (("median", "median"), ("third at 2, 6, 18", "halving")):
        rule = RULES[ours]()
        for peer in peers:
            rule.add(peer, complete=True)
        verdict = worse_than_peers(PRUNERS[name], values, peers, Goal(), 1, 5)
        assert rule.ends(values) == (verdict is not None)


def test_those_that_ended_early_count_with_what_they_had() -> None:
    """Among everyone, a trial that ended after an epoch is a peer at every later one."""
    rule = Everyone(0.5)
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        rule.add([value], complete=False)
    assert rule.ends([9.0, 9.0, 3.5])
    assert not rule.ends([9.0, 9.0, 2.5])


def test_a_search_is_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each set, seed and rule is searched once, whatever was searched before a kill."""
    collect(tmp_path, ["recall"], ["median"], range(1), 0.3)
    before = records(tmp_path)
    with (tmp_path / "recall.jsonl").open("a") as file:
        file.write('{"set": "rec')
    collect(tmp_path, ["recall"], ["median", "none"], range(1), 0.3)
    found = records(tmp_path)
    assert [one["rule"] for one in found] == ["median", "none"]
    assert found[0] == before[0]
    assert all(one["trials"] >= one["complete"] for one in found)
    capsys.readouterr()
    show(tmp_path)
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_the_best_loss_of_a_moment() -> None:
    """Before the first complete trial it is infinite, then that of the last before the moment."""
    record = {"best": [(1.0, 0.5), (2.0, 0.25)]}
    assert [loss_at(record, at) for at in (0.9, 1.0, 1.9, 5.0)] == [math.inf, 0.5, 0.5, 0.25]


def test_data_sets_are_named_after_options(tmp_path: Path) -> None:
    """The command of the docstring, with the names of data sets last, searches what they name."""
    options = ["--rules", "none", "--seconds", "0.2", "--seeds", "1", "recall"]
    command = [sys.executable, "-m", "bench.pruning", "run", str(tmp_path), *options]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [(one["set"], one["rule"]) for one in records(tmp_path)] == [("recall", "none")]

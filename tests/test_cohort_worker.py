"""Several trials together from start or checkpoint to their ends, whatever happens to one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from networks import CPU, LOSS, figures, hyper, sine

from search import worker as worker_module
from search.checkpoints import CHECKPOINT, LOSSES, WEIGHTS, load_checkpoint
from search.cohort_worker import CohortWorker
from search.data.splits import Splits
from search.training import one_thread
from search.trial import Decision, Epoch, Outcome
from search.worker import Job, TrialRules, TrialWorker

RULES = TrialRules(LOSS, patience=0, divergence=True)
SEEDS: list[dict[str, Any]] = [
    {"epochs": 4, "dropout": 0.3},
    {"epochs": 6, "optimizer": "sgd", "learning_rate": 0.05},
    {"epochs": 3, "batch_size": 11, "hidden_units": 9},
]
"""Members of one shape."""


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Writes checkpoints whenever it may, and computes as trainers do."""
    monkeypatch.setattr(worker_module, "CHECKPOINT_SECONDS", -1.0)
    with one_thread():
        yield


def jobs(folder: Path, changes: Sequence[dict[str, Any]] = SEEDS) -> list[Job]:
    """Returns jobs whose numbers are their seeds."""
    params = [hyper(cell="gru", **change) for change in changes]
    return [Job(at, one, at, folder / str(at)) for at, one in enumerate(params)]


def work(
    members: Sequence[Job],
    stopping: Callable[[], bool] = lambda: False,
    rules: TrialRules = RULES,
    splits: Splits | None = None,
) -> tuple[dict[int, list[Epoch]], dict[int, TrialWorker]]:
    """Trains to the end; returns each member's epochs, and each as it was when it was over."""
    told: dict[int, list[Epoch]] = {job.number: [] for job in members}
    over: dict[int, TrialWorker] = {}
    for member, epoch in CohortWorker(members, splits or sine(), rules, CPU, stopping).words():
        if epoch is not None:
            told[member.job.number].append(epoch)
            continue
        assert over.setdefault(member.job.number, member) is member
        if member.decision is None:
            member.save()
        else:
            member.finish()
    assert over.keys() == told.keys()
    return told, over


def ends(over: dict[int, TrialWorker]) -> dict[int, Decision | None]:
    """Returns how members ended."""
    return {number: member.decision for number, member in over.items()}


def content(folder: Path) -> dict[str, bytes]:
    """Returns what is left of a trial that is over."""
    return {name: (folder / name).read_bytes() for name in (LOSSES, WEIGHTS)}


def assert_each_is_itself_alone(
    told: dict[int, list[Epoch]], members: Sequence[Job], alone: Path
) -> None:
    """Epochs and files are those of each member in lanes of its own."""
    for job in members:
        single = replace(job, folder=alone / str(job.number))
        expected, _ = work([single])
        assert figures(told[job.number]) == figures(expected[job.number])
        assert content(job.folder) == content(single.folder)


def test_each_is_itself_alone(tmp_path: Path) -> None:
    """In company, a member's epochs, losses and weights are to the bit what they are alone."""
    members = jobs(tmp_path / "all")
    told, over = work(members)
    assert ends(over) == {
        0: Decision(Outcome.COMPLETE, "trained 4 epochs"),
        1: Decision(Outcome.COMPLETE, "trained 6 epochs"),
        2: Decision(Outcome.COMPLETE, "trained 3 epochs"),
    }
    assert_each_is_itself_alone(told, members, tmp_path / "alone")


@pytest.mark.parametrize("words", [0, 1, 4, 7])
def test_stopped_members_go_on_in_other_company(words: int, tmp_path: Path) -> None:
    """Each stops at its next epoch, and goes on from there, with others, to the same bits."""
    members = jobs(tmp_path / "all")
    asked = iter(range(100))
    first, over = work(members, lambda: next(asked) >= words)
    stopped = [number for number, decision in ends(over).items() if decision is None]
    assert stopped
    for number in stopped:
        saved = load_checkpoint(members[number].folder)
        assert (0 if saved is None else len(saved["run"]["curve"])) == len(first[number])
    told, _ = work(members[:1])
    told |= work(members[1:])[0]
    assert all(figures(told[n])[: len(first[n])] == figures(first[n]) for n in told)
    assert_each_is_itself_alone(told, members, tmp_path / "alone")


def test_an_end_that_was_saved_is_told_again(tmp_path: Path) -> None:
    """Members whose end a kill kept from being told have the same epochs and end at once."""
    members = jobs(tmp_path)
    told, over = work(members)
    again, over_again = work(members, stopping=lambda: True)
    assert {n: figures(epochs) for n, epochs in again.items()} == {
        n: figures(epochs) for n, epochs in told.items()
    }
    assert ends(over_again) == ends(over)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [(60, "the validation loss is not finite"), (200, "the training loss is not finite")],
)
def test_who_ends_takes_nobody_along(rows: int, reason: str, tmp_path: Path) -> None:
    """Patience and divergence, seen in a batch or in validation, end their own member alone."""
    still: dict[str, Any] = {"learning_rate": 1e-30, "batch_size": 64, "epochs": 9}
    wild = still | {"learning_rate": 1e40, "optimizer": "sgd"}
    calm = still | {"learning_rate": 0.001}
    members = jobs(tmp_path / "all", [still, wild, calm])
    rules = TrialRules(LOSS, patience=2, divergence=False)
    told, over = work(members, rules=rules, splits=sine(rows))
    assert over[0].decision == Decision(Outcome.COMPLETE, "no better for 2 epochs")
    assert len(told[0]) == 3
    assert over[1].decision == Decision(Outcome.DIVERGED, reason)
    assert (members[1].folder / LOSSES).exists()
    assert not (members[1].folder / WEIGHTS).exists()
    alone = replace(members[2], folder=tmp_path / "alone")
    expected, _ = work([alone], rules=rules, splits=sine(rows))
    assert figures(told[2]) == figures(expected[2])
    assert content(members[2].folder) == content(alone.folder)


def test_an_error_ends_all_that_are_left(tmp_path: Path) -> None:
    """An exception of the training fails every member, its kind and traceback kept."""
    told, over = work(jobs(tmp_path), splits=replace(sine(), input_size=3))
    assert told == {0: [], 1: [], 2: []}
    for member in over.values():
        assert member.decision is not None
        assert member.decision.outcome is Outcome.FAILED
        assert member.decision.reason.startswith("RuntimeError: ")
        assert "lanes.py" in member.traceback


def test_one_too_large_ends_all_that_are_left(tmp_path: Path) -> None:
    """Lack of memory ends every member as out of memory, on one line, its checkpoint untouched."""
    members = jobs(tmp_path)
    asked = iter(range(100))
    work(members, lambda: next(asked) >= 4)
    before = [(job.folder / CHECKPOINT).read_bytes() for job in members]
    large = Job(9, hyper(cell="gru", hidden_units=10**7), 9, tmp_path / "9")
    _, over = work([*members, large])
    for member in over.values():
        assert member.decision is not None
        assert member.decision.outcome is Outcome.OUT_OF_MEMORY
        assert "\n" not in member.decision.reason
    assert [(job.folder / CHECKPOINT).read_bytes() for job in members] == before


def test_a_disk_that_refuses_is_nobodys_fault(tmp_path: Path) -> None:
    """A checkpoint that cannot be written goes through instead of ending any member."""
    members = jobs(tmp_path)
    (tmp_path / "1").touch()
    with pytest.raises(OSError, match=str(tmp_path / "1")):
        work(members)

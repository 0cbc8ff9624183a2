"""When a desk tells its epochs, with one seat or with many, and that it tells each of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from networks import CPU, LOSS, hyper, sine

from search import desk, layer_choices
from search.checkpoints import load_checkpoint
from search.desk import Desk, Drop, Order, Stop
from search.lane_desk import LaneDesk
from search.stopping import PRUNERS
from search.training import Run, one_thread
from search.trial import Outcome
from search.worker import Job, TrialRules

RULES = TrialRules(LOSS, 0, divergence=True, pruner=PRUNERS["halving"], warmup=1)
"""Trials are compared after epochs 2, 6 and 18."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Computes as trainers do."""
    with one_thread():
        yield


class Line:
    """A coordinator who gives some orders, and the last when nothing is left to do.

    Args:
        job: The first order.
        seated: Whether orders are for a seat.

    Attributes:
        job: The first order.
        orders: What is yet to be given.
        epochs: The epochs that each message told, by their indices.
        said: What else was said.
        surroundings: What was told with each epoch.
        heard: Is called after every message.
        asked: Is called whenever it is asked whether there is an order.
    """

    def __init__(self, job: Job, *, seated: bool = False) -> None:
        self.job, self._seated = job, seated
        self.orders: deque[Order] = deque([job])
        self.epochs: list[list[int]] = []
        self.said: list[Any] = []
        self.surroundings: list[dict[str, str]] = []
        self.heard: Callable[[], None] = lambda: None
        self.asked: Callable[[], None] = lambda: None

    @property
    def told(self) -> list[int]:
        """All epochs that were told, in the order in which they were."""
        return [index for message in self.epochs for index in message]

    def send(self, message: Any, /) -> None:
        """Takes what a desk says."""
        _, said = message
        if isinstance(said, list):
            assert all(len(losses) > 0 for _, losses, _ in said)
            self.epochs.append([epoch.index for epoch, *_ in said])
            self.surroundings += [surroundings for *_, surroundings in said]
        else:
            self.said.append(said)
        self.heard()

    def recv(self) -> Any:
        """Gives the next order."""
        order = self.orders.popleft() if self.orders else Stop()
        return (0, order) if self._seated else order

    def poll(self) -> bool:
        """Says whether there is an order."""
        self.asked()
        return bool(self.orders)

    def serve(self, rules: TrialRules = RULES) -> None:
        """Trains in this process until there is nothing left to do."""
        if self._seated:
            LaneDesk(self, sine(), rules, CPU).serve()
        else:
            Desk(self, sine(), rules, CPU, None).serve()


@pytest.fixture(params=[False, True], ids=["one seat", "many seats"])
def line(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    """A line to a desk of either kind, with a trial of 9 epochs, where no time passes."""
    monkeypatch.setattr(desk, "time", SimpleNamespace(monotonic=lambda: 0.0))
    return Line(Job(0, hyper(epochs=9), 1, tmp_path / "0"), seated=request.param)


def test_compared_epochs_are_told_at_once(line: Line) -> None:
    """An epoch at which trials are compared is told at once, with those before it."""
    line.serve()
    assert line.epochs == [[1], [2], [3, 4, 5, 6], [7, 8, 9]]
    assert [said[0].outcome for said in line.said] == [Outcome.COMPLETE]


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_says_whose_layers_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratio: float
) -> None:
    """Each epoch, and the end of a trial, tells whose layers trained it."""
    monkeypatch.setattr(layer_choices, "_ratio", lambda _: ratio)
    line = Line(Job(0, hyper(cell="lstm", hidden_units=96, epochs=2), 1, tmp_path / "0"))
    line.serve()
    [(decision, traceback, surroundings)] = line.said
    assert (decision.outcome, traceback) == (Outcome.COMPLETE, "")
    assert surroundings == {"layers": "torch's" if ratio < 1 else "ours"}
    assert line.surroundings == [surroundings] * 2


def test_without_a_pruner_none_is_waited_for(line: Line) -> None:
    """Where trials are not compared, all epochs after the first may be told together."""
    line.serve(TrialRules(LOSS, 0, divergence=True))
    assert line.epochs == [[1], [2, 3, 4, 5, 6, 7, 8, 9]]


def test_the_median_rule_waits_for_all(line: Line) -> None:
    """A rule that compares after every epoch is told every epoch at once."""
    line.serve(TrialRules(LOSS, 0, divergence=True, pruner=PRUNERS["median"]))
    assert line.epochs == [[index] for index in range(1, 10)]


def test_a_long_epoch_keeps_no_other_waiting(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs that have waited long enough are told between two batches of the next."""
    validate, trained, polls = Run.validate, [], []

    def counted(run: Run, *rest: Any) -> Any:
        trained.append(run)
        return validate(run, *rest)

    def pass_time() -> None:
        if len(trained) == 3:
            polls.append(None)
        if len(polls) == 2:
            monkeypatch.setattr(desk, "time", SimpleNamespace(monotonic=lambda: 10.0))

    monkeypatch.setattr(Run, "validate", counted)
    line.asked = pass_time
    line.serve(TrialRules(LOSS, 0, divergence=True))
    assert line.epochs == [[1], [2, 3], [4, 5, 6, 7, 8, 9]]


def test_all_is_told_before_an_interruption(line: Line) -> None:
    """Told to stop, a desk tells every epoch that the checkpoint has, then that it stopped."""
    line.heard = lambda: line.orders.append(Stop()) if line.told == [1, 2] else None
    line.serve()
    assert [said[0] for said in line.said] == [desk.INTERRUPTED]
    saved = load_checkpoint(line.job.folder)
    assert saved is not None
    count = len(saved["run"]["epoch_ends"])
    assert line.told == list(range(1, count + 1))
    assert 2 <= count < 6
    again = Line(line.job)
    again.serve()
    assert again.told == list(range(1, 10))


def test_a_checkpoint_is_told_to_its_last_epoch(line: Line) -> None:
    """Told to stop while it tells a checkpoint's epochs, a desk tells the others before it stops.

    Nothing of them is trained once more.
    """
    line.heard = lambda: line.orders.append(Stop()) if line.told[-1:] == [6] else None
    line.serve()
    again = Line(line.job, seated=line._seated)
    again.heard = lambda: again.orders.append(Stop()) if again.told == [1] else None
    again.serve()
    assert [said[0] for said in again.said] == [desk.INTERRUPTED]
    saved = load_checkpoint(line.job.folder)
    assert saved is not None
    assert again.told == list(range(1, len(saved["run"]["epoch_ends"]) + 1))
    assert len(line.told) <= len(again.told) <= len(line.told) + 1


def test_nothing_more_is_told_of_a_dropped_trial(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs that waited when the order to drop their trial came are not told, however late."""
    polls: list[None] = []

    def drop_later() -> None:
        if line.told[-1:] == [6]:
            polls.append(None)
        if len(polls) == 7:
            line.orders += [Drop(0, 6), Job(1, hyper(epochs=2), 1, line.job.folder.with_name("1"))]

    def pass_time() -> None:
        if line.said:
            monkeypatch.setattr(desk, "time", SimpleNamespace(monotonic=lambda: 10.0))

    line.asked, line.heard = drop_later, pass_time
    line.serve(RULES)
    assert line.told == [1, 2, 3, 4, 5, 6, 1, 2]
    assert line.said[0] is None
    assert [said[0].outcome for said in line.said[1:]] == [Outcome.COMPLETE]


def test_all_is_told_before_an_end_of_its_own(line: Line) -> None:
    """Of a trial that ends before its last epoch all epochs are told, and then its end."""
    line.orders[0] = Job(0, hyper(epochs=9, learning_rate=1e-30), 1, line.job.folder)
    ends: list[int] = []
    line.heard = lambda: ends.append(len(line.said))
    line.serve(TrialRules(LOSS, 4, divergence=True))
    assert line.epochs == [[1], [2, 3, 4, 5]]
    assert ends == [0, 0, 1]
    assert line.said[0][0].reason == "no better for 4 epochs"

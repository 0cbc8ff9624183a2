"""A desk with many seats where memory is too small, or something fails that is nobody's."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import CPU, LOSS, figures, hyper, sine

from search import desk
from search.desk import Drop, Stop
from search.lane_desk import LaneDesk, Seated
from search.lanes import Lanes
from search.training import Run, one_thread
from search.trial import Decision, Epoch, Outcome
from search.worker import Job, TrialRules

RULES = TrialRules(LOSS, patience=0, divergence=True)
COUNT = 6


@pytest.fixture(autouse=True)
def _as_trainers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Computes as trainers do, and tells every epoch at once, as if each took long."""
    monkeypatch.setattr(desk, "TELL_SECONDS", 0.0)
    with one_thread():
        yield


class Line:
    """A coordinator who gives all orders at once, and the last when nothing is left to do.

    Attributes:
        epochs: What was told of each trial.
        ends: How each ended.
        dropped: The trials that were let go.
    """

    def __init__(self, orders: Sequence[Seated]) -> None:
        self.orders = deque(orders)
        self.epochs: dict[int, list[Epoch]] = {}
        self.ends: dict[int, Decision] = {}
        self.dropped: list[int] = []

    def send(self, message: Any, /) -> None:
        """Takes what a desk says."""
        number, said = message
        if said is None:
            self.dropped.append(number)
        elif isinstance(said, list):
            self.epochs.setdefault(number, []).extend(epoch for epoch, *_ in said)
        else:
            assert number not in self.ends
            self.ends[number] = said[0]

    def recv(self) -> Seated:
        """Gives the next order."""
        return self.orders.popleft() if self.orders else (0, Stop())

    def poll(self) -> bool:
        """Says whether there is an order."""
        return bool(self.orders)


def jobs(folder: Path, **changes: Any) -> list[Seated]:
    """Returns trials that share lanes."""
    sizes = [{"hidden_units": 4 + 5 * at, "epochs": 2 + at % 3} for at in range(COUNT)]
    return [
        (at, Job(at, hyper(cell="gru", **size | changes), at, folder / str(at)))
        for at, size in enumerate(sizes)
    ]


def serve(orders: Sequence[Seated]) -> Line:
    """Trains in this process until there is nothing left to do."""
    line = Line(orders)
    LaneDesk(line, sine(), RULES, CPU).serve()
    return line


def assert_complete(line: Line, orders: Sequence[Seated]) -> None:
    """Every trial has told each of its epochs once, which are those of torch's own layers."""
    for _, one in orders:
        assert isinstance(one, Job)
        assert line.ends[one.number].outcome is Outcome.COMPLETE
        told = line.epochs[one.number]
        assert [epoch.index for epoch in told] == list(range(1, one.params.epochs + 1))
        run = Run(one.params, sine(), one.seed, LOSS, CPU)
        for epoch in told:
            expected = run.advance(lambda *_: None)
            assert isinstance(expected, Epoch)
            assert epoch.train_loss == pytest.approx(expected.train_loss, rel=1e-3)
            assert epoch.figures["loss"] == pytest.approx(expected.figures["loss"], rel=1e-3)


def test_as_many_as_memory_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory is too small for more than two at once, the others wait, and nothing is lost."""
    launch, most = Lanes.launch, []

    def cramped(lanes: Lanes) -> None:
        if len(lanes.runs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        most.append(len(lanes.runs))
        launch(lanes)

    monkeypatch.setattr(Lanes, "launch", cramped)
    orders = jobs(tmp_path)
    assert_complete(serve(orders), orders)
    assert max(most) == 1  # of six three, of three one


def test_a_newcomer_that_finds_no_room_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no memory to make more places, those in training go on as they are."""
    arrange, most = Lanes._arrange, []

    def cramped(lanes: Lanes, shape: Any, wanted: Sequence[Any], *, drops: bool = False) -> None:
        if len(wanted) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        arrange(lanes, shape, wanted, drops=drops)
        most.append(len(lanes.runs))

    monkeypatch.setattr(Lanes, "_arrange", cramped)
    orders = jobs(tmp_path)
    assert_complete(serve(orders), orders)
    assert max(most) == 3


def test_not_even_one_fits_in_lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials train without lanes where memory is too small for any."""

    def cramped(_: Lanes, *_rest: Any, **_more: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")

    monkeypatch.setattr(Lanes, "_arrange", cramped)
    orders = jobs(tmp_path)
    line = serve(orders)
    assert_complete(line, orders)
    for _, one in orders:
        assert isinstance(one, Job)
        run = Run(one.params, sine(), one.seed, LOSS, CPU)
        expected = [run.advance(lambda *_: None) for _ in range(one.params.epochs)]
        assert figures(line.epochs[one.number]) == figures(expected)


def test_the_one_whose_fault_it_is_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an exception that is nobody's in particular each goes on alone, and one fails."""
    collect, advance = Lanes.collect, Run.advance

    def broken(lanes: Lanes, ends: list[Any]) -> None:
        collect(lanes, ends)
        if any(len(run.curve) == 1 and run.params.hidden_units == 14 for run in lanes.runs):
            raise ValueError("a number is odd")

    def odd(run: Run, judge: Any) -> Any:
        if run.params.hidden_units == 14:
            raise ValueError("a number is odd")
        return advance(run, judge)

    monkeypatch.setattr(Lanes, "collect", broken)
    monkeypatch.setattr(Run, "advance", odd)
    orders = jobs(tmp_path)
    line = serve(orders)
    end = line.ends.pop(2)
    assert (end.outcome, end.reason) == (Outcome.FAILED, "ValueError: a number is odd")
    monkeypatch.undo()
    assert_complete(line, [one for one in orders if one[0] != 2])


def test_dropped_before_it_has_begun(tmp_path: Path) -> None:
    """A trial that is dropped as soon as it is given leaves, and the others do not notice."""
    orders = jobs(tmp_path)
    line = serve([*orders[:2], (1, Drop(1, 0)), *orders[2:]])
    assert line.dropped == [1]
    assert 1 not in line.ends
    assert_complete(line, [one for one in orders if one[0] != 1])


def test_stopped_with_some_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to stop, a desk interrupts also those that have no lane yet, and ends."""
    launch = Lanes.launch

    def cramped(lanes: Lanes) -> None:
        if len(lanes.runs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        launch(lanes)

    monkeypatch.setattr(Lanes, "launch", cramped)
    line = Line(jobs(tmp_path, epochs=1000))
    poll = line.poll

    def later() -> bool:
        if sum(map(len, line.epochs.values())) > 2 and not line.orders and not line.ends:
            line.orders.append((0, Stop()))
        return poll()

    monkeypatch.setattr(line, "poll", later)
    LaneDesk(line, sine(), RULES, CPU).serve()
    assert {end.outcome for end in line.ends.values()} == {Outcome.INTERRUPTED}
    assert len(line.ends) == COUNT


@pytest.mark.parametrize("pause", [0.0, 1e6])
def test_what_ended_is_told_though_another_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    """Epochs of trials before the one for which memory was too small are told, each once.

    That one begins anew from its checkpoint; none trains an epoch too many.
    """
    monkeypatch.setattr(desk, "TELL_SECONDS", pause)
    validate, failed = Run.validate, []

    def cramped(run: Run, *rest: Any) -> Any:
        if run.params.hidden_units == 14 and len(failed) < 3 and len(run.curve) == 1:
            failed.append(run)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        return validate(run, *rest)

    monkeypatch.setattr(Run, "validate", cramped)
    orders = jobs(tmp_path, batch_size=16)  # All epochs end at once.
    line = serve(orders)
    monkeypatch.undo()
    assert len(failed) > 1
    assert_complete(line, orders)


def test_a_fault_of_validation_has_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is raised when a trial is validated fails that trial alone."""
    validate, told = Run.validate, {}

    def odd(run: Run, *rest: Any) -> Any:
        if run.params.hidden_units == 14:
            raise ValueError("a number is odd")
        return validate(run, *rest)

    monkeypatch.setattr(Run, "validate", odd)
    orders = jobs(tmp_path)
    line = Line(orders)
    send = line.send

    def heard(message: Any, /) -> None:
        send(message)
        if message[1] is not None and isinstance(message[1][0], Decision):
            told[message[0]] = message[1][1]

    monkeypatch.setattr(line, "send", heard)
    LaneDesk(line, sine(), RULES, CPU).serve()
    monkeypatch.undo()
    assert line.ends.pop(2).reason == "ValueError: a number is odd"
    assert "in odd" in told[2]
    assert_complete(line, [one for one in orders if one[0] != 2])

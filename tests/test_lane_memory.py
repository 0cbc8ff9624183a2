"""A desk with many seats whose trials find no memory: to validate, for weights, beside others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from networks import CPU, hyper, sine
from test_lane_desk import COUNT, RULES, Line, _as_trainers, assert_complete, jobs, serve

from search import desk
from search.checkpoints import load_losses
from search.lane_desk import LaneDesk, Seated
from search.lane_rows import Rows
from search.lanes import Lanes
from search.training import BatchJudge, Run
from search.trial import Decision, Outcome
from search.worker import Job, TrialWorker

__all__ = ["_as_trainers"]


def test_losses_of_what_ended_stay_though_another_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial ended by its judge keeps its last batches, if another then has no memory."""
    validate, failed = Run.validate, []
    judge = TrialWorker.judge

    def strict(member: TrialWorker, run: Run) -> BatchJudge:
        usual, last = judge(member, run), len(list(run.splits.train.batches(16, None)))

        def decide(loss: float, norm: float, epoch: int) -> Decision | None:
            if run.params.hidden_units == 4 and len(run.batch_losses) == last:
                return Decision(Outcome.DIVERGED, "because")
            return usual(loss, norm, epoch)

        return decide

    def cramped(run: Run, *rest: Any) -> Any:
        if run.params.hidden_units == 9 and not failed:
            failed.append(run)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        return validate(run, *rest)

    monkeypatch.setattr(Run, "validate", cramped)
    monkeypatch.setattr(TrialWorker, "judge", strict)
    orders = jobs(tmp_path, batch_size=16)  # All epochs end at once.
    line = serve(orders)
    assert len(failed) == 1
    assert line.ends[0].outcome is Outcome.DIVERGED
    losses = load_losses(tmp_path / "0")
    assert losses is not None
    assert len(losses) == len(list(sine().train.batches(16, None)))


def test_room_that_idle_lanes_keep_is_given_up_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a trial is ended for want of memory, lanes without trials let theirs go."""
    init, groups = Run.__init__, list[LaneDesk]()

    def cramped(run: Run, params: Any, *rest: Any) -> None:
        kept = [g for desk in groups for g in desk._groups.values() if g.lanes.keeps_room]
        if params.cell == "lstm" and kept:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        init(run, params, *rest)

    first = jobs(tmp_path)
    last = (0, Job(99, hyper(cell="lstm", epochs=2), 0, tmp_path / "99"))
    line = Line(first)
    desk_ = LaneDesk(line, sine(), RULES, CPU)
    groups.append(desk_)
    recv = line.recv

    def later() -> Seated:
        if not line.orders and 99 not in line.ends and last not in given:
            given.append(last)
            return last
        return recv()

    given: list[Seated] = []
    monkeypatch.setattr(line, "recv", later)
    monkeypatch.setattr(Run, "__init__", cramped)
    desk_.serve()
    assert {end.outcome for end in line.ends.values()} == {Outcome.COMPLETE}
    assert len(line.ends) == COUNT + 1


def test_no_memory_to_validate_in_lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that never can be validated beside others trains to its end without lanes."""
    validate, advance, alone = Run.validate, Run.advance, []

    def cramped(run: Run, *rest: Any) -> Any:
        if run.params.hidden_units == 14 and not alone:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        return validate(run, *rest)

    def by_itself(run: Run, judge: Any) -> Any:
        alone.append(run)
        try:
            return advance(run, judge)
        finally:
            alone.pop()

    monkeypatch.setattr(Run, "validate", cramped)
    monkeypatch.setattr(Run, "advance", by_itself)
    orders = jobs(tmp_path)
    line = serve(orders)
    monkeypatch.undo()
    assert_complete(line, orders)


@pytest.mark.parametrize("pause", [0.0, 1e6])
def test_no_memory_for_the_weights_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    """Where they cannot be written back, the epoch is trained again by fewer at once."""
    monkeypatch.setattr(desk, "TELL_SECONDS", pause)
    write, failed = Rows.write, []

    def cramped(rows: Rows, table: torch.Tensor, run: Run) -> None:
        if run.params.hidden_units == 14 and not failed:
            failed.append(run)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        write(rows, table, run)

    monkeypatch.setattr(Rows, "write", cramped)
    orders = jobs(tmp_path)
    assert_complete(serve(orders), orders)
    assert failed


def test_a_newcomer_for_whom_others_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that finds no memory to begin with gets it from those in lanes, and none is lost."""
    begin, seen = TrialWorker.begin, []

    def cramped(worker: TrialWorker) -> Run:
        if worker.job.number == 5 and not seen:
            seen.append(worker)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        return begin(worker)

    monkeypatch.setattr(TrialWorker, "begin", cramped)
    orders = jobs(tmp_path)
    line = Line(orders[:5])
    send = line.send

    def later(message: Any, /) -> None:
        send(message)
        if len(line.epochs) == 5 and not line.orders and not seen:
            line.orders.append(orders[5])

    monkeypatch.setattr(line, "send", later)
    LaneDesk(line, sine(), RULES, CPU).serve()
    assert len(seen) == 1
    assert_complete(line, orders)


def test_it_is_too_large_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that finds no memory with nobody beside it ends so, and the others do not."""
    launch, advance = Lanes.launch, Run.advance

    def cramped(lanes: Lanes) -> None:
        if any(run.params.hidden_units == 14 for run in lanes.runs):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        launch(lanes)

    def large(run: Run, judge: Any) -> Any:
        if run.params.hidden_units == 14:
            return Decision(Outcome.OUT_OF_MEMORY, "out of memory")
        return advance(run, judge)

    monkeypatch.setattr(Lanes, "launch", cramped)
    monkeypatch.setattr(Run, "advance", large)
    orders = jobs(tmp_path)
    line = serve(orders)
    monkeypatch.undo()
    assert line.ends.pop(2).outcome is Outcome.OUT_OF_MEMORY
    assert_complete(line, [one for one in orders if one[0] != 2])

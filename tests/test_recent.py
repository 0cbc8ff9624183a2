"""What a coordinator knows of its study without reading all of it again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_storage import ATTRIBUTES, COMPLETE, curve, rewrite_leases
from tiny import tiny_config

from search import stored_study
from search.database import Database
from search.history import History
from search.leases import LEASE_SECONDS
from search.storage import create_study, open_study
from search.stored_study import StoredStudy, Taken
from search.trial import Decision, Outcome


@contextmanager
def made() -> Iterator[StoredStudy]:
    """A new tiny study, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/studies.db", create=True)
        yield create_study(database, tiny_config(Path(folder)), ATTRIBUTES)


@pytest.fixture
def stored() -> Iterator[StoredStudy]:
    """A new tiny study."""
    with made() as study:
        yield study


def again(stored: StoredStudy) -> StoredStudy:
    """Opens the study once more, as another coordinator would."""
    url = stored.database.url.render_as_string()
    return open_study(Database(url, create=False), stored.config.name)


def take(stored: StoredStudy) -> Taken:
    """Takes a trial."""
    taken = stored.take(100)
    assert taken is not None
    return taken


def known(history: History) -> tuple[list[float | None], list[list[float]]]:
    """Returns what is judged and counted by: values, and what trials had reached by each epoch."""
    return history.values, [sorted(history.reached(epoch, -1)) for epoch in range(1, 5)]


def test_others_are_known_after_a_while(
    stored: StoredStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another coordinator reports is not read at once, but after the set time."""
    monkeypatch.setattr(stored_study, "RECENT_SECONDS", 1e9)
    other = again(stored)
    mine, theirs = take(stored), take(other)
    stored.news()
    other.report(theirs, curve(2.0).epochs[0])
    assert stored.recent().reached(1, mine.number) == []
    monkeypatch.setattr(stored_study, "RECENT_SECONDS", 0.0)
    assert stored.recent().reached(1, mine.number) == [2.0]


def test_a_trial_of_ours_that_ends_brings_all_news(
    stored: StoredStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a trial has ended here, others' are known as they are, whoever's the ended one was."""
    monkeypatch.setattr(stored_study, "RECENT_SECONDS", 1e9)
    other = again(stored)
    mine, theirs = take(stored), take(other)
    stored.news()
    assert other.finish(theirs, COMPLETE, curve(2.0), {})
    assert stored.recent().values == []
    assert stored.finish(mine, COMPLETE, curve(3.0), {})
    assert sorted(value for value in stored.recent().values if value) == [2.0, 3.0]


def test_our_own_reports_need_no_reading(
    stored: StoredStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is begun and reported here is known at once, though nothing is read for it."""
    one, other = take(stored), take(stored)
    monkeypatch.setattr(History, "update", lambda _: pytest.fail("it was read"))
    for epoch in curve(3.0, 2.0).epochs:
        stored.report(one, epoch)
    assert stored.recent().reached(2, other.number) == [2.0]
    assert stored.recent().reached(2, one.number) == []


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(st.sampled_from("trrf"), st.integers(0, 2), st.floats(0.1, 9.0)),
        min_size=6,
        max_size=12,
    )
)
def test_one_coordinator_knows_what_is_stored(steps: list[tuple[str, int, float]]) -> None:
    """However trials are taken, reported and finished, what happened is known and stored.

    What is not yet written is known, too, and all of it is there once trials are given back.
    """
    with made() as stored:
        running: list[tuple[Taken, list[float]]] = []
        over: list[list[float]] = []
        for what, which, value in steps:
            place = which % len(running) if running else 0
            if not running or (what == "t" and len(running) < 3):
                running.append((take(stored), []))
            elif what == "r" and len(running[place][1]) < 4:
                taken, losses = running[place]
                losses.append(value)
                stored.report(taken, curve(*losses).epochs[-1])
            elif what == "f" and running[place][1]:
                taken, losses = running.pop(place)
                over.append(losses)
                assert stored.finish(taken, COMPLETE, curve(*losses), {})
            happened = happening(over, [losses for _, losses in running])
            assert known(stored.recent()) == happened
            assert known(stored.news()) == happened
        for taken, _ in running:
            stored.release(taken)
        happened = happening(over, [losses for _, losses in running])
        assert known(stored.recent()) == known(again(stored).news()) == happened


def happening(
    over: list[list[float]], running: list[list[float]]
) -> tuple[list[float | None], list[list[float]]]:
    """Returns what `known` should, of the losses of trials in the order in which they ended."""
    reached = [
        sorted(min(losses[:epoch]) for losses in [*over, *running] if len(losses) >= epoch)
        for epoch in range(1, 5)
    ]
    return [min(losses) for losses in over], reached


@pytest.fixture
def busy(stored: StoredStudy, monkeypatch: pytest.MonkeyPatch) -> tuple[StoredStudy, Taken]:
    """The study and a trial that has just reported two epochs, of which the first is stored."""
    monkeypatch.setattr(stored_study, "REPORT_SECONDS", 1e9)
    taken = take(stored)
    for epoch in curve(3.0, 2.0).epochs:
        stored.report(taken, epoch)
    return stored, taken


def reports(stored: StoredStudy) -> list[dict[int, float]]:
    """Returns the epochs that the database has of every trial."""
    return [trial.intermediate_values for trial in again(stored).trials()]


def test_epochs_in_a_row_are_written_together(
    busy: tuple[StoredStudy, Taken], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first epoch is stored at once, those that follow it closely in one transaction later."""
    stored, taken = busy
    stored.report(taken, curve(3.0, 2.0, 1.0).epochs[-1])
    assert stored.renew() == []
    assert reports(stored) == [{1: 3.0}]
    monkeypatch.setattr(stored_study, "REPORT_SECONDS", 0.0)
    assert stored.renew() == []
    assert reports(stored) == [{1: 3.0, 2: 2.0, 3: 1.0}]
    monkeypatch.setattr(stored_study.trial_rows, "report", lambda *_: pytest.fail("once more"))
    assert stored.renew() == []


def test_a_trial_given_back_has_all_its_epochs(busy: tuple[StoredStudy, Taken]) -> None:
    """Whoever goes on with a trial finds all that was reported of it."""
    stored, taken = busy
    stored.release(taken)
    assert reports(stored) == [{1: 3.0, 2: 2.0}]
    following = take(again(stored))
    assert (following.number, following.reported) == (taken.number, 2)


@pytest.mark.parametrize("ended", ["the same", "another"])
def test_whatever_is_finished_writes_all(busy: tuple[StoredStudy, Taken], ended: str) -> None:
    """A trial's end brings all reports with it; one that is pruned has its last value."""
    stored, taken = busy
    over = taken if ended == "the same" else take(stored)
    assert stored.finish(over, Decision(Outcome.PRUNED, "why"), curve(3.0, 2.0), {})
    assert reports(stored)[0] == {1: 3.0, 2: 2.0}
    assert again(stored).trials()[0].value == (2.0 if ended == "the same" else None)


def test_an_end_that_fails_loses_no_report(
    busy: tuple[StoredStudy, Taken], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that is cut off keeps what was to be written with it for the next one."""
    stored, taken = busy
    with monkeypatch.context() as patch:
        patch.setattr(stored_study.trial_rows, "end", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stored.finish(taken, COMPLETE, curve(3.0, 2.0), {})
    assert reports(stored) == [{1: 3.0}]
    assert stored.finish(taken, COMPLETE, curve(3.0, 2.0), {})
    assert reports(stored) == [{1: 3.0, 2: 2.0}]


@pytest.mark.parametrize("told", ["by the next renewal", "at its end", "not yet"])
def test_what_another_has_taken_over_is_the_others_to_report(
    busy: tuple[StoredStudy, Taken], monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """Epochs of a trial that was lost meanwhile are not written over those of its new holder."""
    stored, taken = busy
    stored._leases.drop(taken.trial_id)
    other = again(stored)
    theirs = take(other)
    assert theirs.number == taken.number
    if told == "at its end":
        assert not stored.finish(taken, COMPLETE, curve(3.0, 2.0), {})
    elif told == "by the next renewal":
        monkeypatch.setattr(stored_study, "LEASE_SECONDS", 0.0)
        assert stored.renew() == [taken]
    other.report(theirs, curve(3.0, 9.0).epochs[-1])
    monkeypatch.setattr(stored_study, "REPORT_SECONDS", 0.0)
    stored.renew()
    assert reports(stored) == [{1: 3.0, 2: 9.0}]


@pytest.mark.parametrize(
    ("ago", "due"), [(LEASE_SECONDS / 3, True), (-LEASE_SECONDS / 3, True), (1.0, False)]
)
def test_leases_are_renewed_well_before_they_lapse(
    stored: StoredStudy, ago: float, due: bool
) -> None:
    """Every quarter of their time, also where the clock was set back, and not at each call."""
    taken = take(stored)
    rewrite_leases(stored, expires=0.0)
    stored._renewed = time.time() - ago
    assert stored.renew() == []
    assert again(stored).held() == ({taken.trial_id} if due else set())


def test_a_trial_that_begins_anew_has_no_epochs(stored: StoredStudy) -> None:
    """Where no checkpoint is, what an earlier life reported is gone, here and in the database."""
    taken = take(stored)
    for epoch in curve(3.0, 2.0).epochs:
        stored.report(taken, epoch)
    stored.release(taken)
    assert stored.begin_anew(take(stored)).reported == 0
    assert stored.trials()[0].intermediate_values == {}
    assert stored.recent().reached(1, -1) == []

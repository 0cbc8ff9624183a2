"""Notes, pictures and plots: there before a trial is told, once only, and nobody's words lost."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import optuna
import optuna_dashboard
import pytest
import sqlalchemy as sa
from asked import Asked
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from PIL import Image
from tiny import tiny_config

from search.attachments import Attachments
from search.database import Database
from search.diagnosis import Finding
from search.plots import MOST, best_curves, rate_against_loss
from search.report import TrialLine
from search.storage import create_study, open_study
from search.stored_study import StoredStudy, Taken
from search.telling import Attached
from search.trial import Curve, Decision, Epoch, Goal, Outcome
from search.trial_pictures import draw_recorded

COMPLETE = Decision(Outcome.COMPLETE, "trained 3 epochs")
FAILED = Decision(Outcome.FAILED, "ValueError: <b>*no*</b>")
SLOW = Finding("too-slow", {"fall": 0.01, "roughness": 0.2}, "raise the learning rate", 3.0)
ATTRIBUTES: dict[str, Any] = {
    "data": "f00d",
    "baselines": {"persistence": {"loss": 1.0, "rmse": 2.5, "mae": 2.0}},
    "notes": [],
}


@pytest.fixture
def stored(tmp_path: Path) -> StoredStudy:
    """A new study in a new SQLite file."""
    config = tiny_config(tmp_path, space={"epochs": 3})
    return create_study(
        Database(f"sqlite:///{tmp_path / 'studies.db'}", create=True), config, ATTRIBUTES
    )


@pytest.fixture
def said() -> list[str]:
    """What a person is told."""
    return []


@pytest.fixture
def attachments(stored: StoredStudy, said: list[str]) -> Attachments:
    """Those of one run of the study."""
    return Attachments(stored, said.append)


def curve(*losses: float) -> Curve:
    """Returns a curve with these validation losses."""
    return Curve(
        tuple(
            Epoch(i, loss + 0.1, {"loss": loss, "rmse": loss, "mae": loss}, 0.01, 0.1)
            for i, loss in enumerate(losses, start=1)
        )
    )


def take(stored: StoredStudy) -> Taken:
    """Takes the next trial."""
    taken = stored.take(100)
    assert taken is not None
    return taken


def train(stored: StoredStudy, attachments: Attachments, *losses: float) -> Taken:
    """Takes a trial and ends it as a coordinator would."""
    taken = take(stored)
    attached = attachments.attach(taken, COMPLETE, curve(*losses), SLOW)
    extra = SLOW.to_attributes()
    assert stored.finish(taken, COMPLETE, curve(*losses), extra, attached)
    return taken


def leave(stored: StoredStudy, taken: Taken, attached: Attached) -> None:
    """Attaches to a trial that is not told, as a run of an earlier version did that was killed."""
    storage = stored.database.storage
    for name, value in attached.trial.items():
        storage.set_trial_system_attr(taken.trial_id, name, value)
    for name, value in attached.study.items():
        storage.set_study_system_attr(stored.study._study_id, name, value)


def pictures(stored: StoredStudy) -> list[Path]:
    """Returns the files of all pictures."""
    return sorted(stored.database.artifacts.glob("*"))


def note_of(stored: StoredStudy, taken: Taken | None = None) -> str:
    """Returns a trial's note, or the study's, as optuna-dashboard reads it."""
    trial = stored.study if taken is None else optuna.Trial(stored.study, taken.trial_id)
    return str(optuna_dashboard.get_note(trial))


def count_attributes(stored: StoredStudy) -> int:
    """Returns how many system attributes the study has in the database."""
    with stored.database.engine.connect() as connection:
        query = "SELECT count(*) FROM study_system_attributes"
        return int(connection.execute(sa.text(query)).scalar_one())


def test_note_and_picture_are_there_when_a_trial_is_told(
    stored: StoredStudy, attachments: Attachments
) -> None:
    """As soon as a trial is over, the dashboard has its finding in words and its picture."""
    train(stored, attachments, 0.9, 0.4, 0.5)
    attachments.idle()
    (trial,) = Asked(stored.database).study()["trials"]
    assert trial["state"] == "Complete"
    (artifact,) = trial["artifacts"]
    assert artifact["mimetype"] == "image/png"
    note = trial["note"]["body"]
    assert "**too-slow**: raise the learning rate, 0.01 → 0.03 (fall 0.01, roughness 0.2)" in note
    assert "Best epoch 2 of 3: loss 0.4, rmse 0.4" in note
    assert f"](/artifacts/1/1/{artifact['artifact_id']})" in note
    png = draw_recorded(stored.database, artifact["artifact_id"])
    assert png is not None
    assert Image.open(io.BytesIO(png)).format == "PNG"


def test_optuna_reads_both(stored: StoredStudy, attachments: Attachments) -> None:
    """A finished trial's note and picture are found by Optuna's and the dashboard's functions."""
    taken = train(stored, attachments, 0.9, 0.4)
    attachments.close()
    assert note_of(stored, taken).startswith("**too-slow**")
    trial = stored.trials()[0]
    (meta,) = get_all_artifact_meta(trial, storage=stored.database.storage)
    store = FileSystemArtifactStore(stored.database.artifacts)
    assert store.open_reader(meta.artifact_id).read().startswith(b"\x89PNG")
    assert meta.filename == "curve.png"


def test_a_run_killed_before_telling_leaves_nothing_twice(
    stored: StoredStudy, attachments: Attachments, said: list[str]
) -> None:
    """A trial that ends a second time, after a resume, has one note and one picture."""
    taken = take(stored)
    leave(stored, taken, attachments.attach(taken, COMPLETE, curve(0.9, 0.4), SLOW))
    attachments.idle()
    first = note_of(stored, taken)
    again = Attachments(stored, said.append)
    leave(stored, taken, again.attach(taken, COMPLETE, curve(0.9, 0.4), SLOW))
    again.close()
    assert note_of(stored, taken) == first
    (trial,) = Asked(stored.database).study()["trials"]
    assert len(trial["artifacts"]) == len(pictures(stored)) == 1


@pytest.mark.parametrize("cut", ["note_str:0", "note_ver"])
def test_a_note_whose_writing_was_cut_off_is_shown_in_the_end(
    stored: StoredStudy, attachments: Attachments, cut: str
) -> None:
    """A run killed between a note's text and its version leaves one that the next completes."""
    taken = take(stored)
    leave(stored, taken, attachments.attach(taken, COMPLETE, curve(0.9, 0.4), SLOW))
    whole = note_of(stored, taken)
    with stored.database.engine.begin() as connection:
        query = "DELETE FROM study_system_attributes WHERE key LIKE :key"
        assert connection.execute(sa.text(query), {"key": f"dashboard:%{cut}"}).rowcount == 1
    leave(stored, taken, attachments.attach(taken, COMPLETE, curve(0.9, 0.4), SLOW))
    (trial,) = Asked(stored.database).study()["trials"]
    assert trial["note"]["body"] == note_of(stored, taken) == whole
    assert trial["note"]["version"] > 0


def test_another_end_replaces_the_first_note(stored: StoredStudy, attachments: Attachments) -> None:
    """A note that a killed run has left is replaced even if the trial then ends otherwise."""
    taken = take(stored)
    leave(stored, taken, attachments.attach(taken, COMPLETE, curve(0.9, 0.4), SLOW))
    leave(
        stored,
        taken,
        attachments.attach(taken, Decision(Outcome.PRUNED, "worse"), curve(0.9), None),
    )
    assert "too-slow" not in note_of(stored, taken)
    assert note_of(stored, taken).startswith("**pruned**: worse")


def test_a_trial_without_an_epoch_has_a_note_only(
    stored: StoredStudy, attachments: Attachments
) -> None:
    """A trial that failed at once says why, in plain text whatever stands in it, without one."""
    taken = take(stored)
    leave(stored, taken, attachments.attach(taken, FAILED, Curve(), None))
    attachments.close()
    assert note_of(stored, taken) == r"**failed**: ValueError: \<b\>\*no\*\</b\>"
    assert pictures(stored) == []
    assert Asked(stored.database).study()["trials"][0]["artifacts"] == []


def test_what_a_person_wrote_on_a_running_trial_stays(
    stored: StoredStudy, attachments: Attachments
) -> None:
    """A note typed in the dashboard while a trial was in training stands below ours."""
    taken, ask = take(stored), Asked(stored.database)
    path = f"/api/studies/1/{taken.trial_id}/note"
    assert ask(path, "PUT", {"version": 1, "body": "my own"})[0] == 204
    for _ in range(2):
        leave(stored, taken, attachments.attach(taken, COMPLETE, curve(0.9, 0.4), SLOW))
        assert note_of(stored, taken).startswith("**too-slow**")
        assert note_of(stored, taken).count("my own") == 1


def test_what_a_person_wrote_on_the_study_stays(
    stored: StoredStudy, attachments: Attachments
) -> None:
    """Words added to the study's note, however long, survive every renewal of ours."""
    ask = Asked(stored.database)
    train(stored, attachments, 0.9, 0.4)
    attachments.idle()
    note = ask.study()["note"]
    mine = "my own words " * 300
    typed = {"version": note["version"] + 1, "body": note["body"] + mine}
    assert ask("/api/studies/1/note", "PUT", typed)[0] == 204
    train(stored, attachments, 0.9, 0.3)
    attachments.close()
    after = ask.study()["note"]["body"]
    assert after.endswith(mine)
    assert after.count("my own words") == 300
    assert "**Best: trial 1**, loss 0.3" in after
    assert "trial 0" not in after


def test_a_note_from_before_is_kept_below(stored: StoredStudy, attachments: Attachments) -> None:
    """A study's note that is wholly a person's is not replaced but moves below ours."""
    optuna_dashboard.save_note(stored.study, "mine alone")
    train(stored, attachments, 0.9, 0.4)
    attachments.close()
    assert note_of(stored).startswith("**tiny**: forecast, looking for the smallest loss")
    assert note_of(stored).endswith("\n---\nmine alone")


def test_the_studys_note_and_plots(stored: StoredStudy, attachments: Attachments) -> None:
    """A study's note has counts, best trial, baselines, findings; both plots are plotly's JSON."""
    for loss in (0.5, 0.4, 0.45):
        train(stored, attachments, 0.9, loss)
    attachments.close()
    study = Asked(stored.database).study()
    note = study["note"]["body"]
    for words in ("3 of 4 trials finished: 3 complete", "**Best: trial 1**, loss 0.4", "rmse 2.5"):
        assert words in note
    assert "| 3 | too-slow | raise the learning rate |" in note
    plots = {one["id"]: json.loads(one["graph_object"]) for one in study["plotly_graph_objects"]}
    assert set(plots) == {"rate-against-loss", "best-curves"}
    (points,) = plots["rate-against-loss"]["data"]
    assert points["y"] == [0.5, 0.4, 0.45]
    assert points["x"] == [0.01, 0.1, 0.001]
    curves = plots["best-curves"]["data"]
    assert [one["name"].split()[0] for one in curves] == ["#1", "#2", "#0"]
    assert curves[0]["y"] == [0.9, 0.4]


def test_renewing_does_not_make_the_database_grow(
    stored: StoredStudy, attachments: Attachments
) -> None:
    """Note and plots of a study are written over, so that renewing them adds no attribute."""
    train(stored, attachments, 0.9, 0.4)
    attachments.close()
    before = count_attributes(stored)
    for _ in range(3):
        attachments.close()
    assert count_attributes(stored) == before


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (math.inf, ["1", "1", "1", "4", "4", "4", "7", "7"]),
        (1e-6, ["1", "1", "1", "1", "1", "1", "1", "1"]),
    ],
)
def test_notes_are_renewed_while_a_study_goes_on(
    stored: StoredStudy,
    attachments: Attachments,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    expected: list[str],
) -> None:
    """After the first trial, then every third, later every tenth part, but it takes little time."""
    monkeypatch.setattr("search.attachments.TIME_SHARE", share)
    seen = []
    for _ in range(8):
        train(stored, attachments, 0.9, 0.4)
        attachments.idle()
        seen.append(note_of(stored).partition(" of ")[0][-1])
    assert seen == expected
    attachments.close()
    assert note_of(stored).partition(" of ")[0][-1] == "8"


def test_a_fork_has_its_own_notes(stored: StoredStudy, attachments: Attachments) -> None:
    """The trials that a fork takes along have notes, which lead to their pictures."""
    train(stored, attachments, 0.9, 0.4)
    attachments.close()
    config = stored.config.model_copy(update={"name": "fork"})
    fork = create_study(stored.database, config, ATTRIBUTES, fork_of=stored)
    Attachments(fork, print).idle()
    (trial,) = Asked(stored.database).study(2)["trials"]
    (artifact,) = trial["artifacts"]
    path = f"/artifacts/2/{trial['trial_id']}/{artifact['artifact_id']}"
    assert f"]({path})" in trial["note"]["body"]
    assert trial["note"]["body"].startswith("**too-slow**: raise the learning rate, 0.01 → 0.03")


def test_a_trial_told_by_another_run_is_left_alone(
    stored: StoredStudy, attachments: Attachments
) -> None:
    """Attaching to a trial that somebody else has told meanwhile changes nothing and raises not."""
    taken = train(stored, attachments, 0.9, 0.4)
    before = note_of(stored, taken)
    attached = attachments.attach(taken, FAILED, curve(0.7), None)
    assert not stored.finish(taken, FAILED, curve(0.7), {}, attached)
    assert note_of(stored, taken) == before


def test_an_empty_study_gets_nothing(stored: StoredStudy, attachments: Attachments) -> None:
    """A run that has ended before its first trial leaves no note and no picture."""
    attachments.close()
    assert note_of(stored) == ""
    assert pictures(stored) == []


def test_notes_outlive_a_restart(stored: StoredStudy, attachments: Attachments) -> None:
    """Another process finds what one has attached, and attaches nothing twice."""
    taken = train(stored, attachments, 0.9, 0.4)
    attachments.close()
    before = count_attributes(stored)
    again = open_study(Database(str(stored.database), create=False), "tiny")
    Attachments(again, print).close()
    assert note_of(again, taken) == note_of(stored, taken)
    assert count_attributes(again) == before


def test_plots_stay_small() -> None:
    """However many trials there are, a plot has a bounded number of points."""
    lines = [
        TrialLine(i, "complete", 1.0, {"learning_rate": 0.01}, 1, 1, {"loss": 1.0 + i}, "", 1.0)
        for i in range(5 * MOST + 1)
    ]
    plot = rate_against_loss(lines, Goal())
    (trace,) = json.loads(plot)["data"]
    assert MOST / 2 < len(trace["y"]) <= MOST
    assert len(plot) < 40 * MOST


def line(number: int, outcome: str, **figures: float) -> TrialLine:
    """Returns a trial with this outcome and these figures."""
    curve = {"valid": [figures["loss"]]} if figures else {}
    params = {"learning_rate": 0.01}
    return TrialLine(number, outcome, None, params, 1, 1, dict(figures), "", 1.0, curve=curve)


def test_diverged_trials_are_in_the_plot() -> None:
    """Those without a loss, or with one far above the others, lie at the upper edge and say so."""
    lines = [
        line(0, "complete", loss=0.5),
        *(line(number, "diverged") for number in (1, 2)),
        line(3, "diverged", loss=1e30),
        line(4, "failed"),
    ]
    kept, diverged = json.loads(rate_against_loss(lines, Goal()))["data"]
    assert (kept["y"], kept["text"]) == ([0.5], ["#0"])
    assert diverged["y"] == [15.0] * 3
    assert diverged["text"] == [f"#{number}, off the scale" for number in (1, 2, 3)]


def test_diverged_trials_are_worst_where_large_is_good() -> None:
    """Where accuracy is searched for, a diverged trial lies at the lower edge."""
    lines = [line(0, "complete", loss=0.5, accuracy=0.9), line(1, "diverged")]
    plot = json.loads(rate_against_loss(lines, Goal("accuracy", minimize=False)))
    assert [trace["y"] for trace in plot["data"]] == [[0.9], [0.0]]
    assert "type" not in plot["layout"]["yaxis"]


def test_a_plot_of_one_point() -> None:
    """One value has a logarithmic axis, which does not reach below 0; the title is singular."""
    one = line(0, "complete", loss=0.5)
    for plot in (rate_against_loss([one], Goal()), best_curves([one])):
        assert json.loads(plot)["layout"]["yaxis"]["type"] == "log"
    title = json.loads(best_curves([one]))["layout"]["title"]["text"]
    assert title == "validation loss of the best trial"
    assert json.loads(best_curves([]))["layout"]["title"]["text"] == "no trial is complete yet"

"""`backup` and `copy`: a study elsewhere, equal in every field, goes on to the same end."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
import sqlalchemy as sa
import torch
from asked import Asked
from made import made_study, made_trial
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError
from tiny import (
    files_in,
    rnn_search,
    tiny_config,
)

from search import copying
from search.checkpoints import save_weights
from search.copying import copy_study
from search.database import Database
from search.errors import StorageError, StudyError
from search.leases import Leases
from search.storage import create_study, list_studies, open_study
from search.stored_study import StoredStudy
from search.trial_files import CHECKPOINT, trial_folder

if TYPE_CHECKING:
    from postgres import Postgres

ATTRIBUTES = {"data": "f00d", "baselines": {"ridge": {"loss": 0.5}}, "notes": ["ünï\x00"]}
LONG: dict[str, Any] = {
    "rows": 400,
    "space": {
        "epochs": {"low": 24, "high": 40},
        "hidden_units": {"low": 4, "high": 8},
        "batch_size": [8, 16],
    },
    "keep": 2,
    "budget": {"trials": 6},
}
"""Trials of a second or more, so that on a quick machine, too, something is done meanwhile."""
New = Callable[[], Database]


@pytest.fixture(params=["sqlite to postgresql", "postgresql to sqlite", "sqlite to sqlite"])
def ends(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Database, Database]]:
    """Two databases: where a study is, and where it goes; the second has a study already."""
    monkeypatch.chdir(tmp_path)
    databases = []
    for number, kind in enumerate(request.param.split(" to ")):
        if kind == "sqlite":
            url = f"sqlite:///{tmp_path / str(number) / 'x.db'}"
        else:
            postgres: Postgres = request.getfixturevalue("postgres")
            url = postgres.url(postgres.new_database())
        databases.append(Database(url, create=True))
    other = optuna.create_study(storage=databases[1].storage, study_name="another")
    other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    yield databases[0], databases[1]
    for database in databases:
        database.engine.dispose()


def fill(database: Database, folder: Path) -> StoredStudy:
    """Makes a study with a trial of every kind, notes, an attachment and a checkpoint."""
    stored = create_study(database, tiny_config(folder), ATTRIBUTES)
    study = stored.study
    floats = optuna.distributions.FloatDistribution(1e-4, 1.0, log=True)
    kinds = optuna.distributions.CategoricalDistribution(["gru", 3, None, True])
    common: dict[str, Any] = {
        "params": {"learning_rate": 0.1 + 0.2, "cell": "gru"},
        "distributions": {"learning_rate": floats, "cell": kinds},
        "user_attrs": {"reason": "é 漢 \x00", "curve": [0.1, None], "nan": math.nan},
    }
    losses = {1: math.nan, 2: math.inf, 3: -math.inf, 4: 5e-324, 5: 0.1 + 0.2, 6: -1.7e308}
    for state, value in (
        (TrialState.COMPLETE, 0.1 + 0.2),
        (TrialState.COMPLETE, math.inf),
        (TrialState.COMPLETE, -math.inf),
        (TrialState.PRUNED, None),
        (TrialState.FAIL, None),
    ):
        study.add_trial(
            optuna.trial.create_trial(
                state=state, value=value, intermediate_values=losses, **common
            )
        )
    study.enqueue_trial({"learning_rate": 0.25}, user_attrs={"by": "hand"})
    begin_by_hand(stored, folder)
    return stored


def begin_by_hand(stored: StoredStudy, folder: Path) -> None:
    """Has a trial in training, with a note, an attachment and a checkpoint."""
    database, study = stored.database, stored.study
    running = optuna.Trial(study, database.storage.create_new_trial(study._study_id))
    running.suggest_float("learning_rate", 1e-4, 1.0, log=True)
    running.set_constraint("diverged", 1.0)
    running.report(0.5, 1)
    database.artifacts.mkdir(parents=True)
    store = FileSystemArtifactStore(database.artifacts)
    file = folder / "notes.txt"
    file.write_text("by hand")
    for whose in (running, study):
        upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=whose)
    link = f"![x](/artifacts/{study._study_id}/{running._trial_id}/pic)"
    for name, text in (("note_str:0", link), ("note_ver", 1)):
        key = f"dashboard:{running._trial_id}:{name}"
        database.storage.set_study_system_attr(study._study_id, key, text)
    checkpoint = trial_folder(stored.folder, running.number) / CHECKPOINT
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"state")
    (checkpoint.parent / f"{CHECKPOINT}.7.part").write_bytes(b"half")


def fields(trial: optuna.trial.FrozenTrial) -> dict[str, str]:
    """Returns every field of a trial but its id, written so that nan equals nan."""
    kept = {name: value for name, value in vars(trial).items() if name != "_trial_id"}
    return {name: written(value) for name, value in kept.items()}


def written(value: Any) -> str:
    """Writes a value; a mapping in the order of its keys, as databases keep none."""
    return repr(sorted(value.items()) if isinstance(value, dict) else value)


def test_every_field_is_kept(ends: tuple[Database, Database], tmp_path: Path) -> None:
    """Numbers, states, values, nan, infinity, times, attributes and constraints are the same."""
    source, target = ends
    stored = fill(source, tmp_path)
    copied = copy_study(stored, target)
    assert (copied.trials, copied.unfinished, copied.in_training) == (7, 2, 0)
    copy = open_study(target, "tiny")
    before, after = stored.trials(), copy.trials()
    assert [fields(trial) for trial in after] == [fields(trial) for trial in before]
    assert [trial.number for trial in after] == list(range(7))
    assert written(copy.study.user_attrs) == written(stored.study.user_attrs)
    assert copy.study.directions == stored.study.directions
    assert [trial._trial_id for trial in after] != [trial._trial_id for trial in before]


def test_what_is_attached_comes_along(ends: tuple[Database, Database], tmp_path: Path) -> None:
    """Notes, what links in them lead to, attachments and checkpoints are the copy's own."""
    source, target = ends
    stored = fill(source, tmp_path)
    copy_study(stored, target)
    copy = open_study(target, "tiny")
    shown = Asked(target).study(copy.study._study_id)
    trial = next(one for one in shown["trials"] if one["number"] == 6)
    assert trial["note"]["body"] == (
        f"![x](/artifacts/{copy.study._study_id}/{trial['trial_id']}/pic)"
    )
    for attached in (trial["artifacts"][0], shown["artifacts"][0]):
        assert attached["filename"] == "notes.txt"
        assert (target.artifacts / attached["artifact_id"]).read_text() == "by hand"
    assert files_in(target.folder) == {f"00006/{CHECKPOINT}": b"state"}


def test_the_original_stays(ends: tuple[Database, Database], tmp_path: Path) -> None:
    """Copying changes nothing in the source, and nothing of other studies in the target."""
    source, target = ends
    stored = fill(source, tmp_path)
    before = [fields(trial) for trial in stored.trials()]
    others = [
        fields(trial)
        for trial in optuna.load_study(study_name="another", storage=target.storage).trials
    ]
    copy_study(stored, target)
    again = Database(source.url.render_as_string(hide_password=False), create=False)
    assert [fields(trial) for trial in open_study(again, "tiny").trials()] == before
    assert [study.study_name for study in list_studies(target)] == ["another", "tiny"]
    fresh = Database(target.url.render_as_string(hide_password=False), create=False)
    study = optuna.load_study(study_name="another", storage=fresh.storage)
    assert [fields(trial) for trial in study.trials] == others
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert len(study.trials) == 4


def test_a_copy_is_made_once(ends: tuple[Database, Database], tmp_path: Path) -> None:
    """A study whose name is taken in the target is refused, and the target stays as it is."""
    source, target = ends
    stored = fill(source, tmp_path)
    copy_study(stored, target)
    files = files_in(target.folder)
    open_study(target, "tiny").study.set_user_attr("mine", 1)
    with pytest.raises(StudyError, match="has a study 'tiny' already"):
        copy_study(stored, target)
    assert files_in(target.folder) == files
    assert len(open_study(target, "tiny").trials()) == 7
    assert open_study(target, "tiny").study.user_attrs["mine"] == 1


def test_weights_that_are_elsewhere_are_said(tmp_path: Path) -> None:
    """A copy of a study that others trained has not their weights, and says of which trials."""
    config = tiny_config(tmp_path)
    stored = made_study(tmp_path, [made_trial(config, at, valid=[0.5 + at]) for at in range(7)])
    save_weights(trial_folder(stored.folder, 1), {"a": torch.zeros(1)})
    copied = copy_study(stored, Database(f"sqlite:///{tmp_path / 'b.db'}", create=True))
    assert copied.missing == (0, 2, 3, 4)
    assert "but not the weights of 0, 2, 3, 4: these are not here" in str(copied)
    assert copied.to_json()["missing"] == [0, 2, 3, 4]


def test_half_a_copy_is_none(
    ends: tuple[Database, Database], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy whose files the disk does not take leaves no study; the next try is whole."""
    source, target = ends
    stored = fill(source, tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "pic")

    with monkeypatch.context() as patch:
        patch.setattr(copying, "_copy_artifacts", full)
        with pytest.raises(StorageError, match="pic: No space left on device; nothing was copied"):
            copy_study(stored, target)
    assert [study.study_name for study in list_studies(target)] == ["another"]
    assert copy_study(stored, target).trials == 7


@pytest.mark.parametrize("there", [True, False], ids=["committed", "not committed"])
def test_an_answer_that_is_lost(
    ends: tuple[Database, Database], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Where the target's last answer is lost, what is said and left is what is in the target."""
    source, target = ends
    stored, commit = fill(source, tmp_path), copying._commit

    def lose(connection: sa.Connection) -> None:
        if there:
            connection.connection.commit()
        raise OperationalError("COMMIT", {}, Exception("the connection was lost"))

    def without_answer(database: Database, copy: sa.Connection, *rest: Any) -> None:
        sa.event.listen(copy, "commit", lose)
        commit(database, copy, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(copying, "_commit", without_answer)
        if there:
            assert copy_study(stored, target).trials == 7
        else:
            with pytest.raises(StorageError, match="the connection was lost; nothing was copied"):
                copy_study(stored, target)
            assert [study.study_name for study in list_studies(target)] == ["another"]
            assert not list(target.folder.glob("tiny-*"))
    if not there:
        assert copy_study(stored, target).trials == 7
    assert len(open_study(target, "tiny").trials()) == 7
    assert files_in(target.folder) == {f"00006/{CHECKPOINT}": b"state"}


def test_trials_in_training_are_said(ends: tuple[Database, Database], tmp_path: Path) -> None:
    """A trial that a coordinator holds is free in the copy, and the copy's maker is told of it."""
    source, target = ends
    stored = fill(source, tmp_path)
    leases = Leases(source, stored.study._study_id)
    leases.prepare()
    leases.take(stored.trials()[6]._trial_id)
    copied = copy_study(stored, target)
    assert copied.in_training == 1
    assert "2 of them unfinished, 1 of these in training now" in str(copied)
    assert open_study(target, "tiny").held() == set()


def test_databases_of_one_name(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where both databases keep their files in one folder, each study has files of its own."""
    monkeypatch.chdir(tmp_path)
    name = postgres.new_database()
    source = Database(f"sqlite:///studies/{name}.db", create=True)
    target = Database(postgres.url(name), create=True)
    stored = fill(source, tmp_path)
    copied = copy_study(stored, target)
    copy = open_study(target, "tiny")
    assert copied.folder == copy.folder != stored.folder
    for one in (stored, copy):
        assert (trial_folder(one.folder, 6) / CHECKPOINT).read_bytes() == b"state"
    target.engine.dispose()


def test_a_folder_reached_by_a_link(tmp_path: Path) -> None:
    """Into a database beside the original, called by another path, no file of its is lost."""
    source = Database(f"sqlite:///{tmp_path / 'a' / 'x.db'}", create=True)
    stored = fill(source, tmp_path)
    (tmp_path / "link").symlink_to("a")
    target = Database(f"sqlite:///{tmp_path / 'link' / 'x.sqlite'}", create=True)
    copied = copy_study(stored, target)
    assert not copied.folder.samefile(stored.folder)
    for folder in (stored.folder, copied.folder):
        assert (trial_folder(folder, 6) / CHECKPOINT).read_bytes() == b"state"


def test_two_servers_with_a_database_of_one_name(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a copy has trained since is not replaced by that of a second copy elsewhere."""
    monkeypatch.chdir(tmp_path)
    stored = fill(Database(f"sqlite:///{tmp_path / 'a' / 'x.db'}", create=True), tmp_path)
    servers = [Database(postgres.url(postgres.new_database()), create=True) for _ in range(2)]
    # Their names are all by which the folders differ; one server cannot have two of one name.
    monkeypatch.setattr(Database, "folder", property(lambda one: tmp_path / f"{one.is_sqlite}"))
    first = copy_study(stored, servers[0])
    trained = trial_folder(first.folder, 6) / CHECKPOINT
    trained.write_bytes(b"a later state")
    second = copy_study(stored, servers[1])
    assert trained.read_bytes() == b"a later state"
    assert (trial_folder(second.folder, 6) / CHECKPOINT).read_bytes() == b"state"
    for server in servers:
        server.engine.dispose()


REFUSED: list[tuple[object, ...]] = [
    ("unknown study", "backup tny b.db", "no study 'tny' in"),
    ("file", "backup tiny taken.db", "taken.db is there already; give the backup another name"),
    ("folder", "backup tiny taken.sqlite", "taken.trials is there already"),
    ("same", "copy tiny --to sqlite:///studies/studies.db", "has a study 'tiny' already"),
    ("URL", "copy tiny --to postgresql//u:geheim@h/d", "is no URL"),
    ("folder as target", "copy tiny --to sqlite:///studies", "studies is a folder"),
    ("no target", "copy tiny", "the following arguments are required: --to"),
]


@pytest.mark.parametrize(
    ("line", "says"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_what_makes_no_sense_is_refused(copied_from: Path, line: str, says: str) -> None:
    """One line, exit code 2, and nothing is made or changed."""
    before = sorted(str(path) for path in copied_from.rglob("*"))
    done = rnn_search(copied_from, *line.split())
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert "geheim" not in done.stderr
    assert sorted(str(path) for path in copied_from.rglob("*")) == before


@pytest.fixture(scope="module")
def copied_from(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small study, and names that are taken."""
    folder = tmp_path_factory.mktemp("refused")
    fill(Database(f"sqlite:///{folder / 'studies' / 'studies.db'}", create=True), folder)
    (folder / "taken.db").touch()
    (folder / "taken.trials").mkdir()
    return folder

"""Exporting a trial's network: what is written, what is refused, and that it needs no data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from refusing import Refuse, tree
from tiny import write_study

from search.cli import main
from search.model_files import CARD, README, WEIGHTS


def run(folder: Path, study: Path, trials: int = 2) -> None:
    """Runs a study in this folder."""
    assert main(["run", str(study), "--workers", "1", "--trials", str(trials)]) == 0


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished study ``tiny`` that keeps the weights of its best trial only."""
    folder = tmp_path_factory.mktemp("studied")
    study = write_study(folder, keep=1, budget={"trials": 3})
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RNN_SEARCH_STORAGE", raising=False)
        patch.chdir(folder)
        run(folder, study, 3)
    return folder


@pytest.fixture
def here(studied: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the study as the current one."""
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)
    monkeypatch.chdir(studied)
    return studied


def test_an_export_is_three_files_that_belong_together(here: Path, tmp_path: Path) -> None:
    """The folder holds weights, a card with the trial's own figures, and a page with an example."""
    assert main(["export", "tiny", str(tmp_path / "deep" / "model")]) == 0
    folder = tmp_path / "deep" / "model"
    assert sorted(tree(folder)) == sorted(str(folder / name) for name in (CARD, WEIGHTS, README))
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    card = json.loads((folder / CARD).read_text())
    assert card["study"] == "tiny"
    assert card["data"]["targets"] == ["y"]
    assert set(card["figures"]) == {"loss", "rmse", "mae"}
    assert "`new.csv` needs the columns `y`." in (folder / README).read_text()


def test_an_export_is_the_same_each_time(here: Path, tmp_path: Path) -> None:
    """Two exports of one trial are equal in every byte; ``--force`` replaces the earlier one."""
    for name in "ab":
        assert main(["export", "tiny", str(tmp_path / name)]) == 0
    assert main(["export", "tiny", str(tmp_path / "a"), "--force"]) == 0
    one, other = tree(tmp_path / "a"), tree(tmp_path / "b")
    assert list(one.values()) == list(other.values())


def test_an_export_through_a_link(here: Path, tmp_path: Path) -> None:
    """A link to a folder stays one, and the folder has the model; nothing is left beside either."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for option in ([], ["--force"]):
        assert main(["export", "tiny", str(tmp_path / "link"), *option]) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]
        assert (tmp_path / "link").is_symlink()
        assert {path.name for path in (tmp_path / "real").iterdir()} == {CARD, WEIGHTS, README}


def test_an_export_into_the_folder_where_one_is(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of a shell, or of a volume, is not replaced: its files are, and all of them."""
    storage = f"sqlite:///{here / 'studies' / 'studies.db'}"
    monkeypatch.chdir(tmp_path)
    inode = tmp_path.stat().st_ino
    for option in ([], ["--force"]):
        (tmp_path / README).unlink(missing_ok=True)
        assert main(["export", "tiny", ".", "--storage", storage, *option]) == 0
        assert {path.name for path in tmp_path.iterdir()} == {CARD, WEIGHTS, README}
    assert tmp_path.stat().st_ino == inode


def test_an_export_needs_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the data there are the same weights and readings, no interval, and a note."""
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    run(tmp_path, write_study(tmp_path, budget={"trials": 1}), 1)
    assert main(["export", "tiny", "with"]) == 0
    (tmp_path / "series120.csv").unlink()
    capsys.readouterr()
    assert main(["export", "tiny", "without"]) == 0
    assert "without intervals" in capsys.readouterr().err
    one, other = (json.loads(Path(name, CARD).read_text()) for name in ("with", "without"))
    assert one.pop("band") is not None
    assert other.pop("band") is None
    assert one == other
    assert Path("with", WEIGHTS).read_bytes() == Path("without", WEIGHTS).read_bytes()


def test_data_that_have_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What trains by name says that the data are gone, and follows them once the file has run."""
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    study = write_study(tmp_path, budget={"trials": 1})
    run(tmp_path, study, 1)
    (tmp_path / "series120.csv").rename(tmp_path / "moved.csv")
    capsys.readouterr()
    for command in ("resume", "evaluate", "check"):
        assert main([command, "tiny"]) == 2
        said = capsys.readouterr().err
        assert "series120.csv does not exist any more; if the data lie elsewhere now" in said
        assert len(said.splitlines()) == 1
    study.write_text(study.read_text().replace("series120.csv", "moved.csv"))
    run(tmp_path, study, 1)
    study.unlink()
    assert main(["resume", "tiny", "--trials", "2", "--workers", "1"]) == 0
    # Fewer rows than batch sizes were fitted to: other data, whatever the line begins with.
    lines = (tmp_path / "moved.csv").read_text().splitlines()
    (tmp_path / "moved.csv").write_text("\n".join(lines[:45]) + "\n")
    capsys.readouterr()
    assert main(["resume", "tiny", "--trials", "3"]) == 2
    assert "or are the data others than they were?" in capsys.readouterr().err


def test_a_trial_without_weights_is_refused(here: Path, refuse: Refuse) -> None:
    """The message says which trials keep weights, and why so few."""
    storage = f"sqlite:///{here}/studies/studies.db"
    places = sorted((here / "studies" / "studies.trials").glob("tiny-*/*/weights.safetensors"))
    assert len(places) == 1
    kept = int(places[0].parent.name)
    other = next(number for number in range(3) if number != kept)
    arguments = ("export", "tiny", "model", "--storage", storage, "--trial", str(other))
    refuse({}, (f"trial {other} of 'tiny'", f"--trial can be {kept}"), *arguments)


def test_what_is_in_the_way_is_left_alone(here: Path, refuse: Refuse) -> None:
    """A folder with other files, with a model, or a file: each is refused and untouched."""
    storage = ("--storage", f"sqlite:///{here}/studies/studies.db")
    refuse({"taken/notes.txt": "x"}, "'notes.txt'", "export", "tiny", "taken", *storage)
    refuse({}, "'notes.txt'", "export", "tiny", "taken", "--force", *storage)
    refuse({"file": "x"}, "is a file", "export", "tiny", "file", *storage)
    refuse({"model/model.json": "{}"}, "--force", "export", "tiny", "model", *storage)
    refuse({}, "no trial 99", "export", "tiny", "new", "--trial", "99", *storage)
    refuse({}, "no study 'tony'", "export", "tony", "new", *storage)


def test_an_older_study_is_exported_from_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study that stored no card takes it from the data, and without it says so in one line."""
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("search.running._attributes", _without_card)
        run(tmp_path, write_study(tmp_path, budget={"trials": 1}), 1)
    assert main(["export", "tiny", "model"]) == 0
    (tmp_path / "series120.csv").write_text("y\n1\n2\n")
    capsys.readouterr()
    assert main(["export", "tiny", "again"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "was made before studies kept" in said
    assert not Path("again").exists()


def _without_card(plan: object) -> dict[str, object]:
    splits = plan.splits  # type: ignore[attr-defined]
    baselines = splits.baselines("valid")
    return {"data": splits.fingerprint, "baselines": baselines, "notes": []}

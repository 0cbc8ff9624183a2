"""A study that somebody deletes, in optuna-dashboard for one, while it is in use."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from many import write_many
from test_cli import SLOW_SPACE
from tiny import (
    SPACE,
    children_of,
    count,
    epochs_reported,
    start,
    wait_for_end,
    wait_until,
    write_study,
)

from search.errors import LostError
from search.storage import deletion_told


def delete(url: str, name: str) -> None:
    """Deletes a study as optuna-dashboard does."""
    storage = optuna.storages.RDBStorage(url)
    optuna.delete_study(study_name=name, storage=storage)
    storage.engine.dispose()


@pytest.mark.parametrize(
    "space", [SLOW_SPACE, {**SPACE, "batch_size": [8]}], ids=["in a trial", "between trials"]
)
def test_a_study_that_is_deleted_ends_its_run(tmp_path: Path, space: dict[str, object]) -> None:
    """A run whose study is deleted says so in one line, with what to do, and leaves no process."""
    write_study(tmp_path, space=space, stopping={"patience": 0}, budget={"trials": 500})
    run = start(tmp_path, "run", "tiny.toml", "--workers", 1, apart=True)
    wait_until(lambda: epochs_reported(tmp_path) >= 5, "some epochs")
    children = children_of(run.pid)
    delete(f"sqlite:///{tmp_path}/studies/studies.db", "tiny")
    assert run.wait(60) == 1
    wait_for_end(children)
    assert count(tmp_path, "studies") == 0
    (line,) = (tmp_path / "errors.txt").read_text().splitlines()
    assert line == (
        "rnn-search: the study 'tiny' is not in sqlite:///studies/studies.db any more: it was "
        "deleted while it was in use; run its study file again to begin anew, or rnn-search copy "
        "it from a backup"
    )


def test_other_missing_keys_keep_their_traceback(tmp_path: Path) -> None:
    """A KeyError from the use of a study that is there is a fault of the program, and stays one."""
    url = f"sqlite:///{write_many(tmp_path, 2).database.path}"
    with pytest.raises(KeyError, match="typo"), deletion_told(url, "many"):
        raise KeyError("typo")
    delete(url, "many")
    with pytest.raises(LostError, match="'many' is not in"), deletion_told(url, "many"):
        raise KeyError("Record does not exist.")

"""Two trainers, one study, and kills of every kind at random moments: nothing lost, nothing twice.

The few kills of `make test` end in a minute; `make soak` does fifty, with one trainer and with two.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tiny import (
    OFTEN,
    PATIENCE,
    children_of,
    count,
    environment,
    epochs_reported,
    files_of,
    is_alive,
    read_json,
    record,
    trainers_of,
    trials_of,
    wait_for_end,
    wait_until,
    write_study,
)

from search.cli import main
from search.leases import LEASE_SECONDS

KINDS = ("coordinator", "trainer", "group", "sleep")
"""What a kill hits; ``sleep``: the coordinator is stopped until its leases have lapsed."""
OPTIONS: dict[str, Any] = {
    "rows": 500,
    "space": {
        "learning_rate": {"low": 1e-4, "high": 1e2},
        "epochs": {"low": 10, "high": 30},
        "hidden_units": {"low": 8, "high": 16},
        "batch_size": [8, 16],
    },
    "keep": 3,
}
"""Trials of some seconds, so that most kills hit one in training."""
LONG: dict[str, Any] = {
    **OPTIONS,
    "space": {**OPTIONS["space"], "epochs": {"low": 40, "high": 80}},
    "budget": {"trials": 30},
    "stopping": {"pruner": "none", "patience": 0},
}
"""Enough epochs for fifty kills."""
WITH_LEASE = """
import sys
from search import processes
processes.SERVED.append("often_saved")
processes.prepare()
from search import leases, stored_study
leases.LEASE_SECONDS = stored_study.LEASE_SECONDS = float(sys.argv.pop(1))
stored_study.REPORT_SECONDS = 0.0
from search.cli import main
sys.exit(main())
"""
"""The command line with another length of leases, and each epoch saved at once."""


class Killer:
    """Runs a study in a folder and kills it, again and again.

    Args:
        folder: Holds ``tiny.toml``.
        workers: Trainers of each run.
        lease: Seconds after which a stopped coordinator's trials are free.
        seed: Decides when and what is killed.
    """

    def __init__(self, folder: Path, workers: int, lease: float, seed: int) -> None:
        self.folder = folder
        self.workers = workers
        self.lease = lease
        self.chance = random.Random(seed)
        self.hit = dict.fromkeys(KINDS, 0)
        self.started: set[int] = set()
        self.runs: list[subprocess.Popen[bytes]] = []
        self.run = self.begin()

    def begin(self) -> subprocess.Popen[bytes]:
        """Starts a run, which goes on with the study if there is one."""
        arguments = ["run", "tiny.toml", "--workers", str(self.workers)]
        with (self.folder / "output.txt").open("ab") as output:
            run = subprocess.Popen(
                [sys.executable, "-c", WITH_LEASE, str(self.lease), *arguments],
                cwd=self.folder,
                env={**environment(), "PYTHONPATH": str(OFTEN.parent)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.runs.append(run)
        return run

    def kill(self, kind: str, epochs: int) -> bool:
        """Kills once, after some epochs more; returns False if the study ended before that."""
        self._train(self.chance.randint(1, 2 * epochs))
        self.started |= set(children_of(self.run.pid))
        if self.ended or not getattr(self, f"_{kind}")():
            return False
        self.hit[kind] += 1
        return True

    def close(self) -> None:
        """Ends all that is left of the runs, after a failure."""
        for run in self.runs:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()

    @property
    def ended(self) -> bool:
        """Whether the run has ended."""
        return self.run.poll() is not None

    @property
    def output(self) -> str:
        """What all runs have printed."""
        return (self.folder / "output.txt").read_text()

    def finish(self) -> None:
        """Lets the study end, and sees that no process is left."""
        assert self.run.wait(2 * PATIENCE) == 0, self.output
        wait_for_end(self.started)

    def _train(self, epochs: int) -> None:
        goal = epochs_reported(self.folder) + epochs
        wait_until(lambda: epochs_reported(self.folder) >= goal or self.ended, f"epoch {goal}")

    def _coordinator(self) -> bool:
        self.run.kill()
        return self._again()

    def _group(self) -> bool:
        os.killpg(self.run.pid, signal.SIGKILL)
        return self._again()

    def _again(self) -> bool:
        ended = self.run.wait(PATIENCE)
        self.run = self.begin()
        return ended == -signal.SIGKILL

    def _trainer(self) -> bool:
        trainers = [pid for pid in trainers_of(self.run.pid) if is_alive(pid)]
        # A trial that has taken three down is failed, which is right, and not what this is about.
        if not trainers or deaths(self.folder) >= 2:
            return False
        os.kill(self.chance.choice(trainers), signal.SIGKILL)
        return True

    def _sleep(self) -> bool:
        sleeper, before = self.run, set(leased(self.folder, self.run.pid))
        if not before:
            return False
        sleeper.send_signal(signal.SIGSTOP)
        # Not as long as they hold: a quick machine would have the whole study done meanwhile. The
        # next run finds leases that have just lapsed, or some that hold for a moment more.
        ahead = self.chance.choice((0, 3))

        def lapsing() -> bool:
            return not leased(self.folder, sleeper.pid, later_than=time.time() + ahead)

        wait_until(lapsing, "a sleeper's leases lapse")
        self.run = self.begin()

        patience = time.monotonic() + self.lease + 30  # Others may be busy with their own trials.

        def lost() -> bool:
            taken = not before & set(leased(self.folder, sleeper.pid))
            lapsed = not leased(self.folder, sleeper.pid, later_than=time.time())
            return self.ended or (lapsed and (taken or time.monotonic() > patience))

        wait_until(lost, "a sleeper's trials are others'")
        sleeper.send_signal(signal.SIGCONT)
        self._train(self.chance.randint(0, 30))
        self.started |= set(children_of(sleeper.pid))
        sleeper.send_signal(signal.SIGINT)
        assert sleeper.wait(PATIENCE) in (0, 130), self.output
        return True


def leased(folder: Path, pid: int, later_than: float = 0.0) -> list[int]:
    """Returns the ids of the trials that a coordinator has leases of which end after a time."""
    query = "SELECT trial_id FROM rnn_search_leases WHERE pid = ? AND expires > ?"
    return ask(folder, query, pid, later_than)


def deaths(folder: Path) -> int:
    """Returns how many trainers an unfinished trial has taken down so far, at most."""
    query = (
        "SELECT value_json FROM trial_user_attributes JOIN trials USING (trial_id) "
        "WHERE key = ? AND state = 'RUNNING'"
    )
    return max(map(int, ask(folder, query, "trainer_deaths")), default=0)


def ask(folder: Path, query: str, *values: object) -> list[Any]:
    """Returns the first column of what the folder's database answers."""
    file = folder / "studies" / "studies.db"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=60)) as connection:
        return [row[0] for row in connection.execute(query, values)]


def kill_often(killer: Killer, kills: int, epochs: int, kinds: Sequence[str] = KINDS) -> None:
    """Kills so many times, each kind once in a round, or until the study has ended."""
    left: list[str] = []
    with closing(killer):
        while sum(killer.hit.values()) < kills and not killer.ended:
            left = left or killer.chance.sample(kinds, len(kinds))
            killer.kill(left.pop(), epochs)
        killer.finish()


def check_whole(folder: Path, trials: int) -> None:
    """Each trial is there once, finished, under its own number; nothing is left over."""
    found = trials_of(folder)
    assert [trial.number for trial in found] == list(range(trials))
    assert {trial.state.name for trial in found} <= {"COMPLETE", "PRUNED"}
    assert len({tuple(sorted(trial.params.items())) for trial in found}) == trials
    assert count(folder, "rnn_search_leases") == 0
    assert not [name for name in files_of(folder) if "checkpoint" in name or name.endswith(".part")]


def check_replays(folder: Path, trials: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Each trial's epochs are, bit for bit, what training it alone and undisturbed gives."""
    for number in range(trials):
        capsys.readouterr()
        assert main(["replay", "tiny", str(number), "--json"]) == 0
        replay = read_json(capsys.readouterr().out)
        assert replay["equal"], replay
        assert replay["epochs"] > 0 or replay["outcome"] == "diverged"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_of_every_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two trainers, a kill of each kind: eight trials, each as if alone and undisturbed."""
    write_study(tmp_path, **OPTIONS, budget={"trials": 8})
    killer = Killer(tmp_path, workers=2, lease=4, seed=0)
    kill_often(killer, kills=4, epochs=12)
    assert all(killer.hit.values()), killer.hit
    assert "Traceback" not in killer.output
    check_whole(tmp_path, 8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)
    check_replays(tmp_path, 8, capsys)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fifty_kills_of_two_trainers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Thirty trials survive fifty kills, sleeps past the lease among them."""
    # Long enough to be killed in, although a second coordinator trains while the first one sleeps.
    write_study(
        tmp_path, **LONG | {"space": {**OPTIONS["space"], "epochs": {"low": 200, "high": 320}}}
    )
    killer = Killer(tmp_path, workers=2, lease=8, seed=1)
    kill_often(killer, kills=50, epochs=15)
    assert sum(killer.hit.values()) >= 50, killer.hit
    assert "Traceback" not in killer.output
    check_whole(tmp_path, 30)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)
    check_replays(tmp_path, 30, capsys)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fifty_kills_of_one_trainer(tmp_path: Path) -> None:
    """With one trainer the study that was killed fifty times equals the one that never was."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        write_study(folder, **LONG)
    undisturbed = Killer(whole, workers=1, lease=LEASE_SECONDS, seed=0)
    assert undisturbed.run.wait(1800) == 0, undisturbed.output
    # While one sleeps, another would propose without its trial: a study of two trainers.
    killer = Killer(killed, workers=1, lease=LEASE_SECONDS, seed=2)
    kill_often(killer, kills=50, epochs=15, kinds=("coordinator", "trainer", "group"))
    assert sum(killer.hit.values()) >= 50, killer.hit
    assert "Traceback" not in killer.output
    check_whole(killed, 30)
    assert record(trials_of(killed)) == record(trials_of(whole))
    assert files_of(killed) == files_of(whole)

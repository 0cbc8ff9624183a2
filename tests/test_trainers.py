"""What every kind of trainers promises, and what processes on this machine promise besides."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conformance import (
    LONG,
    RULES,
    Make,
    TrainersConformance,
    collect,
    epochs_in,
    job,
    make,
    pack,
    shared,
    splits,
    until_end,
)
from tiny import is_alive, trainers_of, wait_for_end, wait_until

from search.data.splits import Splits
from search.lane_trainers import LaneTrainers
from search.trainers import (
    STARTS,
    Event,
    LocalTrainers,
    TrainerDied,
    TrainerFault,
    Trainers,
    TrialEnded,
)
from search.trial import Outcome
from search.trial_files import WEIGHTS
from search.worker import Job

__all__ = ["make", "shared", "splits"]

LOAD = (
    "(lambda os, pickle: pickle.loads(data) if len(os.listdir(folder)) >= times"
    " else (os.mkdir(f'{folder}/{os.getpid()}'), os._exit(7)))"
    "(__import__('os'), __import__('pickle'))"
)


NO_KERNELS = """
from search import trainer_process

def broken(device):
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

class Splits:
    def to(self, device):
        return self

trainer_process.try_device = broken
"""


class Deadly:
    """Data that end the first processes that load them, as the lack of memory does."""

    def __init__(self, splits: Splits, folder: Path, times: int) -> None:
        self._words = {"data": pickle.dumps(splits), "folder": str(folder), "times": times}

    def __reduce__(self) -> tuple[object, tuple[str, dict[str, object]]]:
        return eval, (LOAD, self._words)


class TooLarge:
    """Data for which there is no memory."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("(_ for _ in ()).throw(MemoryError())",)


class Broken:
    """Data with which a device comes that has no kernels."""

    def __reduce__(self) -> tuple[object, tuple[str, dict[str, object]]]:
        return eval, ("(exec(code, made), made['Splits']())[1]", {"code": NO_KERNELS, "made": {}})


def faults(events: list[Event]) -> list[Event]:
    """Returns those that end a run."""
    return [event for event in events if isinstance(event, TrainerFault)]


KINDS = [LocalTrainers, LaneTrainers]


@pytest.mark.parametrize("kind", KINDS)
def test_who_dies_while_loading_blames_no_trial(
    kind: type[LocalTrainers | LaneTrainers], splits: Splits, tmp_path: Path
) -> None:
    """A trainer that ends before it is ready had no trial: the next one is given that."""
    (tmp_path / "died").mkdir()
    deadly = Deadly(splits, tmp_path / "died", 2)
    with kind(deadly, RULES, 1, "cpu") as trainers:  # type: ignore[arg-type]
        trainers.start(0, job(tmp_path))
        events = until_end(trainers)
        assert trainers.free() == [0]
    died = [event for event in events if isinstance(event, TrainerDied)]
    assert [(one.number, one.exit_code) for one in died] == [(None, 7)] * 2
    assert len(epochs_in(events)) == 3
    assert isinstance(events[-1], TrialEnded)
    assert events[-1].decision.outcome is Outcome.COMPLETE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (TooLarge(), "cannot work on cpu (MemoryError)"),
        (Broken(), "cannot work on cpu (CUDA error: no kernel image is available"),
    ],
    ids=["without memory", "without kernels"],
)
def test_a_device_that_cannot_work(
    kind: type[LocalTrainers | LaneTrainers], data: Any, said: str, tmp_path: Path
) -> None:
    """What has no room for the data, or takes them and cannot compute, is no trial's fault."""
    with kind(data, RULES, 1, "cpu") as trainers:
        trainers.start(0, job(tmp_path))
        (event, *_) = collect(trainers, lambda events: events != [], "a word")
    assert isinstance(event, TrainerFault)
    assert said in event.reason
    assert "--workers" in event.reason


def test_trainers_that_never_live_to_be_ready(splits: Splits, tmp_path: Path) -> None:
    """After four of them in one place, somebody else's progress notwithstanding, it is a fault."""
    (tmp_path / "died").mkdir()
    with LocalTrainers(Deadly(splits, tmp_path / "died", 9), RULES, 1, "cpu") as trainers:  # type: ignore[arg-type]
        trainers.start(0, job(tmp_path))
        events = collect(trainers, lambda events: faults(events) != [], "a fault")
    assert [type(event) for event in events] == [*[TrainerDied] * (STARTS - 1), TrainerFault]
    assert isinstance(events[-1], TrainerFault)
    assert "exit code 7" in events[-1].reason


@pytest.fixture(scope="module")
def hire(splits: Splits) -> Make:
    """Starts new trainers with one process."""
    return lambda: LocalTrainers(splits, RULES, workers=1, device="cpu")


class TestLocalTrainers(TrainersConformance):
    """Processes on this machine."""

    exit_code = -signal.SIGKILL

    def pid(self, trainers: Trainers, worker: int) -> int:
        """Returns the id of a trainer's process."""
        assert isinstance(trainers, LocalTrainers)
        pid = trainers._workers[worker].process.pid
        assert pid is not None
        return pid

    def wait_for_weights(self, one: Job) -> None:
        """A trainer writes them where they stay."""
        wait_until((one.folder / WEIGHTS).exists, "the trial to end by itself")

    def test_signals_of_a_terminal_are_blocked(self, splits: Splits, tmp_path: Path) -> None:
        """Ctrl-C, SIGTERM and SIGHUP end no trainer, not even the first one while it starts."""
        script = (
            "import os, signal, sys\nfrom search.processes import SIGNALS\n"
            "from search.trainers import LocalTrainers\n"
            "if __name__ == '__main__':\n"
            "    splits, rules, job = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
            "    trainers = LocalTrainers(splits, rules, 2, 'cpu')\n"
            "    for worker in trainers._workers:\n"
            "        for number in SIGNALS: os.kill(worker.process.pid, number)\n"
            "    trainers.start(0, job)\n"
            "    while trainers.busy():\n"
            "        for event in trainers.events(1): print(type(event).__name__, flush=True)\n"
            "    print(trainers.free())\n"
            "    trainers.kill()\n"
        )
        answer = subprocess.run(
            [
                sys.executable,
                "-c",
                f"import pathlib, pickle\n{script}",
                pack(splits, job(tmp_path)),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        assert answer.stdout.split("\n") == [*["EpochDone"] * 3, "TrialEnded", "[0, 1]", ""]
        assert answer.stderr == ""

    def test_killed_means_gone(self, make: Make) -> None:
        """kill() ends every process before it returns, also one that is still starting."""
        trainers = make()
        pids = [worker.process.pid for worker in trainers._workers]
        trainers.kill()
        assert not any(is_alive(pid) for pid in pids if pid is not None)

    def test_trainers_that_start_die_silently(self, splits: Splits, tmp_path: Path) -> None:
        """A coordinator killed while its trainer comes to life leaves no traceback of that."""
        script = (
            "import pickle, sys, pathlib\nfrom search.trainers import LocalTrainers\n"
            "if __name__ == '__main__':\n"
            "    splits, rules, _ = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
            "    print('starting', flush=True)\n"
            "    trainers = LocalTrainers(splits, rules, 1, 'cpu')\n"
            "    sys.stdin.read()\n"  # else a slow look comes after the script's own end
        )
        with (tmp_path / "said").open("w+") as said:
            parent = subprocess.Popen(
                [sys.executable, "-c", script, pack(splits, job(tmp_path))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
            assert parent.stdin is not None
            assert parent.stdout is not None
            with parent.stdin, parent.stdout:
                assert parent.stdout.readline() == "starting\n"
                wait_until(lambda: bool(trainers_of(parent.pid)), "a trainer's process")
                pids = trainers_of(parent.pid)
                parent.kill()
                parent.wait()
            wait_for_end(pids)
            said.seek(0)
            assert said.read() == ""

    def test_trainers_die_with_their_parent(self, splits: Splits, tmp_path: Path) -> None:
        """When the coordinator is killed with -9 its trainers end by themselves, busy or not."""
        script = (
            "import pickle, sys, pathlib\nfrom search.trainers import LocalTrainers\n"
            "if __name__ == '__main__':\n"
            "    splits, rules, job = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
            "    trainers = LocalTrainers(splits, rules, 2, 'cpu')\n"
            "    trainers.start(0, job)\n"
            "    while not any(trainers.events(1)): pass\n"
            "    print(*(w.process.pid for w in trainers._workers), flush=True)\n"
            "    sys.stdin.read()\n"
        )
        parent = subprocess.Popen(
            [sys.executable, "-c", script, pack(splits, job(tmp_path, 0, LONG))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert parent.stdout is not None
        assert parent.stdin is not None
        with parent.stdin, parent.stdout:
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            assert all(is_alive(pid) for pid in pids)
            parent.kill()
            parent.wait()
            wait_for_end(pids)
        assert len(pids) == 2

    def test_trainers_do_not_import_the_database(self) -> None:
        """What a trainer's process imports holds neither Optuna nor SQLAlchemy."""
        script = (
            "import sys, search.trainers\n"
            "print([name for name in ('optuna', 'sqlalchemy') if name in sys.modules])"
        )
        answer = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert answer.stdout == "[]\n"

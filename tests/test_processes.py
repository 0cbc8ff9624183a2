"""Where trainers' processes come from: one that has imported what they need, and only that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tiny import children_of, read_json, rnn_search, servers_of, wait_for_end, write_study

from search import processes


def test_all_is_imported_before_a_process_begins() -> None:
    """What a trainer needs is there when its process comes to life."""
    check = f"import sys; assert {{*{processes.SERVED!r}}} <= {{*sys.modules}}"
    process = processes.context().Process(target=exec, args=(check,))
    process.start()
    process.join(60)
    assert process.exitcode == 0


START = """
import os, sys, time
{imports}
from search import processes

print("once", end=" ")
processes.prepare()
process = processes.context().Process(target=print, args=("trained",))
process.start()
process.join()
print(process.exitcode, *sys.modules.keys() & {{"torch", "optuna"}}, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not processes.FORKS, reason="other systems have no server")
@pytest.mark.parametrize(
    ("imports", "said", "new"),
    [
        ("", "once trained 0 torch", False),
        ("import optuna", "once trained 0 optuna", True),
        ("import torch; torch.cuda.is_available()", "once trained 0 torch", True),
    ],
    ids=["as good as new", "with a database", "with a GPU"],
)
def test_the_server_is_forked_from_what_is_as_good_as_new(
    imports: str, said: str, *, new: bool
) -> None:
    """Torch is imported once for both, unless a coordinator has more; both end with it."""
    command = [sys.executable, "-c", START.format(imports=imports)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as coordinator:
        assert coordinator.stdout is not None
        try:
            heard = "".join(coordinator.stdout.readline() for _ in range(2))
            (server,), everyone = servers_of(coordinator.pid), children_of(coordinator.pid)
            lines = [psutil.Process(pid).cmdline() for pid in (server, coordinator.pid)]
        finally:
            coordinator.kill()
    assert heard.split() == said.split()
    assert (lines[0] != lines[1]) is new
    wait_for_end(everyone)


@pytest.mark.skipif(not processes.FORKS, reason="other systems have no server")
def test_a_server_is_told_what_a_new_python_would_be() -> None:
    """Of a command line the statements are run, and the words behind them are its arguments."""
    code = (
        "import os, sys\n"
        "from search.processes import _fork\n"
        "told = 'import os, sys; os.write(1, repr(sys.argv).encode())'\n"
        "sys.stdout = None\n"
        "os.waitpid(_fork(b'', ['python', '-E', '-c', told, 'run', 'tiny.toml'], []), 0)\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code]) == b"['-c', 'run', 'tiny.toml']"


@pytest.mark.slow
def test_modules_of_the_current_folder(tmp_path: Path) -> None:
    """A file there that is called like a module of Python's or torch's is not imported."""
    write_study(tmp_path, budget={"trials": 1})
    for name in ("random", "selectors", "torch", "search"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the wrong place')")
    run = rnn_search(tmp_path, "run", "tiny.toml", "--json")
    assert run.returncode == 0, run.stderr
    assert read_json(run.stdout)["trials"]["complete"] == 1


@pytest.mark.skipif(not processes.FORKS, reason="other systems have no such setting")
def test_freed_memory_is_kept() -> None:
    """Who takes and gives back the same memory again and again is given no new pages for it."""
    code = (
        "import numpy, resource, sys\n"
        "from search.processes import keep_freed_memory\n"
        "if sys.argv[1] == 'kept':\n    keep_freed_memory()\n"
        "def use():\n    pieces = [numpy.ones(1 << 20) for _ in range(6)]\n"
        "use()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(20):\n    use()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    faults = {
        way: int(subprocess.check_output([sys.executable, "-c", code, way], text=True))
        for way in ("kept", "not")
    }
    assert faults["kept"] < faults["not"] / 10

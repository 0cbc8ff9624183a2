"""Where trainers' processes come from: one that has imported what they need, and only that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import read_json, rnn_search, write_study

from search import processes


def test_all_is_imported_before_a_process_begins() -> None:
    """What a trainer needs is there when its process comes to life."""
    check = f"import sys; assert {{*{processes.SERVED!r}}} <= {{*sys.modules}}"
    process = processes.context().Process(target=exec, args=(check,))
    process.start()
    process.join(60)
    assert process.exitcode == 0


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

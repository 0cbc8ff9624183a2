"""Where trainers' processes come from: one that has imported what they need, and only that."""

from __future__ import annotations

from pathlib import Path

from tiny import read_json, rnn_search, write_study

from search import processes


def test_all_is_imported_before_a_process_begins() -> None:
    """What a trainer needs is there when its process comes to life, torch's late part, too."""
    check = f"import sys; assert {{*{processes.SERVED!r}}} <= {{*sys.modules}}"
    process = processes.context().Process(target=exec, args=(check,))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_modules_of_the_current_folder(tmp_path: Path) -> None:
    """A file there that is called like a module of Python's or torch's is not imported."""
    write_study(tmp_path, budget={"trials": 1})
    for name in ("random", "selectors", "torch", "search"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the wrong place')")
    run = rnn_search(tmp_path, "run", "tiny.toml", "--json")
    assert run.returncode == 0, run.stderr
    assert read_json(run.stdout)["trials"]["complete"] == 1

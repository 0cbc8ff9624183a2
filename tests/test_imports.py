"""The architecture: who may import whom, what is public, and how long things may be."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from many import write_many
from tiny import COMMAND, environment

import search

PACKAGE = Path(search.__file__).parent
ROOT = Path(__file__).parent.parent
ORDER = [
    "errors",
    "processes",
    "fields",
    "dimensions",
    "config",
    "space",
    "data.encodings",
    "data.calendars",
    "data.timeline",
    "data.cards",
    "data.splits",
    "data.delimited",
    "data.tables",
    "data.ts_files",
    "data.season",
    "data.forecast_baselines",
    "data.windows",
    "data.rows",
    "data.forecasting",
    "data.clocks",
    "data.roles",
    "data.labelled",
    "data.series",
    "data.classification",
    "data.language_baselines",
    "data.language",
    "data.examples",
    "data",
    "trial",
    "own_modules",
    "factories",
    "whole_files",
    "compiled",
    "threefry",
    "layer_memory",
    "layer_parts",
    "layer_passes",
    "lstm_passes",
    "head_passes",
    "packing_pass",
    "object_code",
    "dropout",
    "packing",
    "layer_tapes",
    "layer_functions",
    "layer_choices",
    "recurrent",
    "gpu_layers",
    "models",
    "network_checks",
    "optimizers",
    "gradients",
    "lane_shapes",
    "training",
    "steps",
    "lane_rows",
    "lane_batches",
    "lane_steps",
    "lanes",
    "ensembles",
    "stopping",
    "diagnosis",
    "pictures",
    "documents",
    "sparkline",
    "trial_files",
    "checkpoints",
    "worker",
    "follow_ups",
    "tpe",
    "sampling",
    "history",
    "surroundings",
    "reading",
    "sqlite_file",
    "database_faults",
    "database",
    "leases",
    "forks",
    "trial_rows",
    "telling",
    "stored_study",
    "storage",
    "copied_rows",
    "copying",
    "changes",
    "model_files",
    "intervals",
    "forecasts",
    "prediction",
    "machine",
    "objective",
    "",
    "desk",
    "lane_desk",
    "trainer_process",
    "trainers",
    "lane_trainers",
    "mixed_trainers",
    "ray_cluster",
    "ray_actor",
    "ray_trainers",
    "observing",
    "coordinator",
    "report",
    "wording",
    "notes",
    "plots",
    "trial_pictures",
    "attachments",
    "retraining",
    "evaluation",
    "looks",
    "display",
    "selection",
    "onnx_graph",
    "onnx_check",
    "model_page",
    "export",
    "answers",
    "crews",
    "running",
    "evaluating",
    "lr_range",
    "range_picture",
    "range_testing",
    "entries",
    "importance",
    "certainty",
    "study_pictures",
    "space_pictures",
    "report_answer",
    "report_sections",
    "report_ending",
    "reporting",
    "replay",
    "choices",
    "forecast_reasons",
    "forecast_choices",
    "proposals",
    "init",
    "dashboard",
    "arguments",
    "terminal",
    "cli",
    "__main__",
]
"""The reading order of DESIGN.md; a file imports only from files above it. ``""`` is `search`."""
HEAVY = (
    "numba",
    "llvmlite",
    "matplotlib",
    "PIL",
    "torch",
    "optuna",
    "pandas",
    "numpy",
    "pydantic",
    "ray",
    "rich",
    "sqlalchemy",
    "tomli_w",
)


def module_name(path: Path) -> str:
    """Returns a file's name as `ORDER` has it."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def files() -> list[Path]:
    """Returns every Python file of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def everything() -> list[Path]:
    """Returns those of the tests and the benches, too."""
    places = (PACKAGE, ROOT / "tests", ROOT / "bench")
    return sorted(path for place in places for path in place.rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    """Yields every module that is imported anywhere in a file, lazily or for types only too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            inner = [f"{node.module}.{name.name}" for name in node.names]
            known = [name for name in inner if name.removeprefix("search.") in ORDER]
            yield from known
            if len(known) < len(inner):
                yield node.module


def own(module: str) -> str | None:
    """Returns the name in `ORDER` of a module of the package, None for another's."""
    if module == "search":
        return ""
    return module.removeprefix("search.") if module.startswith("search.") else None


def modules_after(code: str) -> set[str]:
    """Returns the top-level packages that a new Python has loaded after running code."""
    code += "\nimport sys\nprint(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_the_order_is_complete() -> None:
    """Every file of the package has its place in the order, and every place its file."""
    assert sorted(ORDER) == sorted(module_name(path) for path in files())


@pytest.mark.parametrize("path", files(), ids=module_name)
def test_a_file_imports_only_from_files_above_it(path: Path) -> None:
    """Whatever is imported of the package, wherever in the file, stands above it in the order."""
    above = ORDER[: ORDER.index(module_name(path))]
    used = [own(module) for module in imports(ast.parse(path.read_text()))]
    assert [name for name in used if name is not None and name not in above] == []


@pytest.mark.parametrize("path", everything(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    """No file has more than 400 lines and no function more than 40."""
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    functions = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    lines = [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in functions]
    assert [(name, length) for name, length in lines if length > 40] == []


def test_the_check_of_imports_sees_all_forms() -> None:
    """An import inside a function, for types only, or of a module from its package is seen."""
    code = (
        "from search import cli\n"
        "from search.data import splits, load_splits\n"
        "if TYPE_CHECKING:\n    import search.running\n"
        "def f():\n    from search.report import Summary\n"
    )
    assert {own(module) for module in imports(ast.parse(code))} == {
        "cli",
        "data.splits",
        "data",
        "running",
        "report",
    }


def test_the_public_names() -> None:
    """`search` offers six names, each found when it is first used, and no others."""
    objective = ["NetworkError", "Objective", "StudyConfig"]
    assert search.__all__ == [*objective, "diagnose", "load", "load_config"]
    for name in search.__all__:
        assert getattr(search, name).__module__.startswith("search.")
    with pytest.raises(AttributeError, match="has no attribute 'Run'"):
        search.Run  # noqa: B018
    assert modules_after("import search").isdisjoint(HEAVY)


@pytest.mark.parametrize("name", ["", *(name for name in ORDER if name)])
def test_a_module_says_what_it_is(name: str) -> None:
    """Every module can be imported and begins with a docstring."""
    if name != "__main__":
        module = importlib.import_module(f"search.{name}".rstrip("."))
        assert module.__doc__


def test_help_imports_nothing_heavy() -> None:
    """``--help``, of the tool or of a command, prints without what takes long to import."""
    for arguments in (["--help"], ["run", "--help"]):
        code = (
            "import runpy, sys\n"
            f"sys.argv = [{str(COMMAND)!r}, *{arguments!r}]\n"
            "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "except SystemExit as end:\n    assert not end.code\n"
        )
        loaded = modules_after(code)
        assert "search" in loaded
        assert loaded.isdisjoint(HEAVY)


def test_a_wrong_command_line_imports_nothing_heavy() -> None:
    """A mistyped command is answered as quickly as ``--help``."""
    code = (
        "from search.cli import main\n"
        "try:\n    main(['rnu'])\nexcept SystemExit as end:\n    assert end.code == 2\n"
    )
    assert modules_after(code).isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "line", ["list", "show many", "show many 1 --json", "backup many safe.db", "copy many --to db"]
)
def test_who_looks_at_a_study_does_not_wait_for_torch(tmp_path: Path, line: str) -> None:
    """Commands that train nothing import neither torch nor what data is read with."""
    url = f"sqlite:///{write_many(tmp_path, 2).database.path}"
    places = {"safe.db": str(tmp_path / "safe.db"), "db": f"sqlite:///{tmp_path / 'to.db'}"}
    words = [places.get(word, word) for word in line.split()]
    code = f"from search.cli import main\nassert main({[*words, '--storage', url]!r}) == 0"
    loaded = modules_after(code)
    assert {"optuna", "sqlalchemy"} <= loaded
    assert loaded.isdisjoint({"torch", "numba", "pandas", "matplotlib"})


def test_only_a_cluster_imports_ray() -> None:
    """All that a run takes is imported without Ray, the trainers on a cluster included."""
    loaded = modules_after("import search.running, search.ray_cluster, search.ray_trainers")
    assert "torch" in loaded
    assert "ray" not in loaded


def test_trainers_import_neither_optuna_nor_sqlalchemy(tmp_path: Path) -> None:
    """A trainer that has read its data and trained a trial has loaded no Optuna, no database.

    Nor torch's compiler, which would take as long to import as the rest of torch.
    """
    code = (
        "import search.trainers, torch\n"
        "from pathlib import Path\n"
        "from networks import hyper, sine\n"
        "from search.trial import Goal\n"
        "from search.worker import Job, TrialRules, TrialWorker\n"
        f"job = Job(0, hyper(epochs=2), 0, Path({str(tmp_path)!r}))\n"
        "rules = TrialRules(Goal(), 0, True)\n"
        "worker = TrialWorker(job, sine(), rules, torch.device('cpu'))\n"
        "assert len(list(worker.epochs())) == 2\n"
        "worker.finish()\n"
        "import sys\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    here = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    loaded = modules_after(here + code)
    assert "torch" in loaded
    assert loaded.isdisjoint({"optuna", "sqlalchemy"})


def test_the_readme_lists_every_file() -> None:
    """The README names the files of `search/` in their order, each with what its docstring says."""
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    listed = []
    for name in ORDER:
        path = {"": "__init__.py", "data": "data/__init__.py"}.get(
            name, f"{name.replace('.', '/')}.py"
        )
        about = ast.get_docstring(ast.parse((PACKAGE / path).read_text(encoding="utf-8")))
        assert about is not None
        listed.append(f"    {path:<29}{about.splitlines()[0]}")
    assert "\n".join(listed) in readme

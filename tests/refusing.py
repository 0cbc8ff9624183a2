"""The command line in a folder, expected to refuse: one line, exit code 2, nothing left behind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from search.cli import main

Files = Mapping[str, str | bytes | None]
"""What lies in the folder, by path; None is a folder."""
Said = str | tuple[str, ...]
"""What the message must contain."""

SINE = [f"{math.sin(i / 3):.4f}" for i in range(120)]
SPACE = """[space]
hidden_units = { low = 4, high = 8 }
epochs = { low = 2, high = 4 }
batch_size = [8, 16]
[budget]
trials = 2
"""


def csv(*values: str, at: int = 50) -> str:
    """Returns a column ``y``, a sine with some values put in before the one numbered ``at``."""
    return "\n".join(["y", *SINE[:at], *values, *SINE[at:]]) + "\n"


def forecast(data: str = "", space: str = SPACE, top: str = "", path: str = "d.csv") -> str:
    """Returns a study file that forecasts ``d.csv``."""
    return f'{top}\n[data]\ntask = "forecast"\npath = "{path}"\nwindow = 8\n{data}\n{space}'


def put(folder: Path, files: Files) -> None:
    """Writes files, and makes the folders among them."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def tree(folder: Path) -> dict[str, bytes | None]:
    """Returns all that lies in a folder, by path; None is a folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def require_refusal(code: object, errors: str, says: Said) -> None:
    """Checks exit code and message."""
    assert code == 2, errors
    assert errors.count("\n") == 1, errors
    assert errors.startswith("rnn-search"), errors
    assert len(errors) < 700, errors
    for said in (says,) if isinstance(says, str) else says:
        assert said in errors
    for jargon in ("Traceback", "pydantic", "input should", "geheim", "datetime."):
        assert jargon not in errors


class Refuse:
    """The command line in a folder, expected to refuse."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys

    def __call__(self, files: Files, says: Said, *arguments: str) -> None:
        """Runs ``arguments``, by default ``run s.toml``, beside ``files``."""
        put(self.folder, files)
        before = tree(self.folder)
        self.capsys.readouterr()
        try:
            code: object = main(arguments or ("run", "s.toml"))
        except SystemExit as error:
            code = error.code
        output, errors = self.capsys.readouterr()
        require_refusal(code, errors, says)
        assert output == ""
        assert tree(self.folder) == before


def cases(named: Iterable[tuple[object, ...]]) -> list[object]:
    """Returns parameters, each a test named after its first."""
    return [pytest.param(*case[1:], id=str(case[0])) for case in named]

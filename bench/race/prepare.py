"""The data sets of the race, each written once as tensors and as a study file."""

from __future__ import annotations

from pathlib import Path

import tomli_w

from bench.data_sets import config_of, write
from bench.race.exported import export


def prepare(name: str, folder: Path) -> Path:
    """Writes a data set, unless it is there, and returns the path of its tensors.

    The study file beside it, with the ending ``.toml``, has the default space and settings.
    """
    path = folder.absolute() / f"{name}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        config, splits = config_of(name, folder)
        study = {"name": name, "data": write(name, folder)}
        path.with_suffix(".toml").write_text(tomli_w.dumps(study), encoding="utf-8")
        export(config, splits, path)
    return path

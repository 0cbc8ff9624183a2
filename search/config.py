"""StudyConfig: one TOML file, validated at the door; everything behind it can trust it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from search.dimensions import Dimension, parse_space
from search.errors import ConfigError, nearest, shown
from search.fields import Columns, FactoryName, Missing, Seconds, Share, Shares, Switch, Whole

NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

METRICS: dict[str, dict[str, Literal["minimize", "maximize"]]] = {
    "forecast": {"loss": "minimize", "rmse": "minimize", "mae": "minimize"},
    "classify": {"loss": "minimize", "accuracy": "maximize", "macro_f1": "maximize"},
    "language": {"loss": "minimize", "nats_per_char": "minimize", "perplexity": "minimize"},
}
"""The figures of each task that can be searched by, and the direction of each."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)


class _Data(_Section):
    """Where sequences come from: ``source = "example:NAME"``, or ``path`` to the user's file."""

    source: str | None = None
    path: Path | None = None

    @model_validator(mode="after")
    def _one_source(self) -> _Data:
        if (self.source is None) == (self.path is None):
            raise ValueError('needs either path = "FILE" or source = "example:NAME"')
        if self.source is not None and not self.source.startswith("example:"):
            raise ValueError('source must be "example:NAME"; for a file of yours: path = "FILE"')
        return self


class ForecastData(_Data):
    """A table of values in time, CSV or Parquet; one row a time step.

    Attributes:
        target: Columns to forecast; None: the only numeric column.
        features: Columns the network sees; None: the targets.
        time: Column with the time stamps; None: the rows are evenly spaced and in order.
        series: Column that tells several series apart.
        window: Steps T that the network sees.
        horizon: Steps ahead that it forecasts, all of them.
        season: Steps in a season, for the seasonal-naive baseline; a week is tried beside a day.
        split: Shares of training, validation and test, in time.
        missing: What to do about missing values: an error, interpolation within each part, or
            dropping their rows (which leaves a gap that no window reaches over).
    """

    task: Literal["forecast"]
    target: Columns | None = None
    features: Columns | None = None
    time: str | None = None
    series: str | None = None
    window: Whole = Field(default=24, ge=1)
    horizon: Whole = Field(default=1, ge=1)
    season: Whole | None = Field(default=None, ge=2, lt=10**9)
    split: Shares = (0.7, 0.15, 0.15)
    missing: Missing = "error"


class ClassifyData(_Data):
    """Labelled series: a ``.ts`` file or pair of files, or CSV or Parquet in long form.

    Attributes:
        test_path: The test part, if it is a file of its own.
        series: Column that says which series a row belongs to (long form).
        label: Column with the class, the same in all rows of a series (long form).
        time: Column that orders the rows of a series; None: the order of the file.
        features: Channels F; None: every other numeric column.
        valid: Share of the training series that becomes the validation part, stratified.
        test: Share of all series that becomes the test part if there is no test_path, stratified.
        missing: As for forecasts.
    """

    task: Literal["classify"]
    test_path: Path | None = None
    series: str | None = None
    label: str | None = None
    time: str | None = None
    features: Columns | None = None
    valid: Share = 0.25
    test: Share = 0.2
    missing: Missing = "error"


class LanguageData(_Data):
    """UTF-8 text, read character by character.

    Attributes:
        sequence_length: Characters T between two truncations of the gradient.
        characters: Only so many characters from the start are used; None: all.
        split: Shares of training, validation and test, in the order of the text.
    """

    task: Literal["language"]
    sequence_length: Whole = Field(default=64, ge=1)
    characters: Whole | None = Field(default=None, ge=1)
    split: Shares = (0.9, 0.05, 0.05)


DataConfig = Annotated[ForecastData | ClassifyData | LanguageData, Field(discriminator="task")]


class OwnModel(_Section):
    """A network of the user's own, see `search.factories`.

    Attributes:
        factory: The function that builds it, ``package.module:function``.
        folder: Where the module is looked for first; a study file's own folder if it is silent.
    """

    factory: FactoryName
    folder: Path | None = None


class Budget(_Section):
    """When a study is done; whatever comes first.

    Attributes:
        trials: So many trials in all.
        timeout: So much time of one run.
        stagnation: None of so many trials that finished last was better than all before.
        target: The best value is at least as good as this, in the unit of the metric.
    """

    trials: Whole = Field(default=40, ge=1)
    timeout: Seconds | None = None
    stagnation: Whole | None = Field(default=None, ge=1)
    target: Annotated[float, Field(strict=True)] | None = None


class Stopping(_Section):
    """Which trials are ended early; `studies/LOG.md` has the figures behind each default.

    Attributes:
        pruner: ``halving`` ends a trial whose best value so far is not among the best third of its
            peers' at the same epoch, at the first epoch after the warm-up and at those with 3, 9,
            27 ... times as many; ``median`` ends the worse half at every epoch; ``none`` ends none.
        warmup_epochs: No trial is pruned before it has trained more epochs than this.
        peers: No trial is pruned where fewer peers than this have reached the same epoch.
        patience: A trial ends, complete, when its validation value has not become better for this
            many epochs; 0 turns this off.
        divergence: False lets diverging trials go on; non-finite losses always end a trial.
    """

    pruner: Literal["halving", "median", "none"] = "halving"
    warmup_epochs: Whole = Field(default=1, ge=0)
    peers: Whole = Field(default=5, ge=5)
    patience: Whole = Field(default=8, ge=0)
    divergence: Switch = True


class StudyConfig(_Section):
    """Everything that decides what a study does; the same configuration gives the same study.

    Attributes:
        name: The study's name, also that of its folder.
        seed: Decides every trial's and every proposal's seed.
        metric: The validation figure that is searched by, one of `METRICS`.
        keep: How many of the best trials keep the weights of their best epoch.
        follow_advice: Whether one in five trials may be a good one again with three times or a
            third of its learning rate, where its losses ask for that; off, because it was measured
            to help no study (`studies/LOG.md`).
        model: The network, if it is the user's own.
        space: One `Dimension` for each of `HYPERPARAMETERS`, then the user's own entries by name.
        given: Names of the dimensions that the file itself gives.
    """

    name: str
    seed: Whole = Field(default=0, ge=0, lt=2**63)
    metric: str = "loss"
    keep: Whole = Field(default=5, ge=0)
    follow_advice: Switch = False
    data: DataConfig
    model: OwnModel | None = None
    space: dict[str, Dimension] = Field(default_factory=dict, validate_default=True)
    budget: Budget = Budget()
    stopping: Stopping = Stopping()
    given: frozenset[str] = frozenset()

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot be a study's name; use letters, digits, '-', '_' and '.', "
                "starting with a letter or digit"
            )
        return name

    @field_validator("space", mode="before")
    @classmethod
    def _whole_space(cls, written: object, info: ValidationInfo) -> object:
        if not isinstance(written, dict):
            raise ValueError(f"must be a table, not {shown(written)}")
        return parse_space(written, own=info.data.get("model") is not None)

    @model_validator(mode="before")
    @classmethod
    def _remember_given(cls, written: object) -> object:
        if isinstance(written, dict) and "given" not in written:
            space = written.get("space", {})
            return {**written, "given": sorted(space) if isinstance(space, dict) else []}
        return written

    @model_validator(mode="after")
    def _known_metric(self) -> StudyConfig:
        known = METRICS[self.data.task]
        if self.metric not in known:
            raise ValueError(
                f"metric: {self.metric!r} is no figure of the task "
                f"{self.data.task}{nearest(self.metric, known)}"
            )
        return self

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Whether the metric is better when it is small or when it is large."""
        return METRICS[self.data.task][self.metric]

    def resolved(self) -> dict[str, Any]:
        """Returns the configuration with every default filled in, as plain TOML and JSON data."""
        plain = self.model_dump(mode="json", exclude={"space", "given"}, exclude_none=True)
        plain["space"] = {name: space.to_toml() for name, space in self.space.items()}
        return plain

    def to_toml(self) -> str:
        """Returns the resolved configuration as a study file."""
        return tomli_w.dumps(self.resolved())


def load_config(path: Path | str) -> StudyConfig:
    """Reads a study file.

    A relative path is looked for beside the study file, then in the current folder.

    Raises:
        ConfigError: The file cannot be read, is no TOML, or makes no sense; one line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; give a study file (.toml)") from None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}; give the path of a study file (.toml)"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no UTF-8 text; give a study file (.toml)") from None
    return read_config(text, path)


def read_config(text: str, path: Path) -> StudyConfig:
    """Reads the text of a study file as if it lay at ``path``, see `load_config`.

    Raises:
        ConfigError: It is no TOML, or makes no sense; one line.
    """
    try:
        written = tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{path} nests its lists or tables too deeply") from None
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise ConfigError(f"{path} is no TOML: {error}; mend it there") from None
    own = written.get("model")
    if isinstance(own, dict):
        own.setdefault("folder", ".")
    for section, key in (("data", "path"), ("data", "test_path"), ("model", "folder")):
        table = written.get(section)
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = str(_find(table[key], f"[{section}] {key}", path))
    if "given" in written:
        raise ConfigError(f"{path}: unknown key 'given'")
    return make_config({"name": path.stem, **written}, str(path))


def make_config(written: dict[str, Any], origin: str) -> StudyConfig:
    """Validates plain data.

    Args:
        written: The tables and keys of a study file.
        origin: What an error message calls it: a path, a study's name.

    Raises:
        ConfigError: The first thing that is wrong, with the key and the remedy, on one line.
    """
    try:
        return StudyConfig.model_validate(written)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_explain(error)}") from None


def _find(written: str, key: str, study_file: Path) -> Path:
    if not written:
        what = "folder" if key.endswith("folder") else "file"
        raise ConfigError(f"{study_file}: {key}: is empty; give the path of a {what}")
    try:
        path = Path(written).expanduser()
        here = (study_file.parent / path).resolve()
        return here if here.exists() or not path.exists() else path.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{study_file}: {key}: {shown(written)} can be no path: {cause}; correct it"
        ) from None


LIMITS = ("ge", "gt", "lt")
WANTED = {
    **dict.fromkeys(("int_type", "int_from_float"), "must be a whole number"),
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    **dict.fromkeys(("string_type", "path_type"), "must be a text in quotes"),
    **dict.fromkeys(("model_type", "model_attributes_type"), "must be a table"),
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than": "must be below {lt}",
}
"""What a person is told for each of pydantic's kinds of error; others keep pydantic's words."""


def _explain(error: ValidationError) -> str:
    """Turns pydantic's first error into one sentence that names the key and the remedy."""
    errors = error.errors(include_url=False)
    first = errors[0]
    if first["type"] == "missing":  # perhaps only misspelt
        same = [one for one in errors if one["loc"][:-1] == first["loc"][:-1]]
        first = next((one for one in same if one["type"] == "extra_forbidden"), first)
    where = [str(part) for part in first["loc"] if part not in ("forecast", "classify", "language")]
    kind, message = first["type"], first["msg"].removeprefix("Value error, ")
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        given = first["ctx"].get("tag")
        tasks = "forecast, classify or language"
        return f"[data] task must be {tasks}" + (f", not {given!r}" if given else "")
    if kind == "extra_forbidden":
        key, section = where[-1], _place(where[:-1])
        where_to = (not section and _home_of(key)) or nearest(key, _known_keys(first["loc"]))
        return f"{section}unknown key '{key}'{where_to}"
    if kind == "missing":
        what = "table [data]" if where == ["data"] else f"key '{where[-1]}'"
        return f"{_place(where[:-1])}the {what} is missing"
    if kind == "value_error":
        return f"{_place(where)}{message}"
    limits = {name: f"{limit:g}" for name, limit in first.get("ctx", {}).items() if name in LIMITS}
    wanted = WANTED.get(kind, message[0].lower() + message[1:]).format(**limits)
    return f"{_place(where)}{wanted.replace('input should', 'must')}, not {shown(first['input'])}"


def _place(where: list[str]) -> str:
    if not where:
        return ""
    sections = {"data", "model", "space", "budget", "stopping"}
    head = f"[{where[0]}] " if where[0] in sections else f"{where[0]}: "
    return head + (f"{'.'.join(where[1:])}: " if len(where) > 1 else "")


TABLES: dict[str, type[BaseModel]] = {
    "forecast": ForecastData,
    "classify": ClassifyData,
    "language": LanguageData,
    "model": OwnModel,
    "budget": Budget,
    "stopping": Stopping,
}


def _home_of(key: str) -> str:
    """Says in which table a key belongs that was written above all tables; else nothing."""
    home = next((name for name, table in TABLES.items() if key in table.model_fields), "")
    return f"; it belongs below [{'data' if home in METRICS else home}]" if home else ""


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Returns the keys that the table at ``location`` (whose last part is unknown) may have."""
    inner = [TABLES[str(part)] for part in location[:-1] if str(part) in TABLES]
    model = inner[-1] if inner else StudyConfig
    return [key for key in model.model_fields if key != "given"]

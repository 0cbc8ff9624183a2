"""What a model needs besides its weights to read new data just as its study did: plain JSON data.

A study stores its card when it is made, so that a model can be exported without the data; an
exported model is read back through these types, which refuse what does not fit together.

Shapes: F features, H horizon, K targets, O = H x K outputs, C classes, V vocabulary.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from search.data.calendars import check_step
from search.data.timeline import FORMS, NUMBERS

Missing = Literal["error", "interpolate", "drop"]
Names = Annotated[tuple[str, ...], Field(min_length=1)]
Floats = tuple[FiniteFloat, ...]
Spreads = tuple[Annotated[FiniteFloat, Field(gt=0)], ...]
Count = Annotated[int, Field(ge=1, lt=2**31)]


class _Card(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _require_sizes(size: int, **arrays: tuple[object, ...]) -> None:
    for name, values in arrays.items():
        if len(values) != size:
            raise ValueError(f"{name} has {len(values)} entries where {size} belong")


def _require_distinct(**names: tuple[str, ...]) -> None:
    for key, given in names.items():
        for name in given:
            if given.count(name) > 1:
                raise ValueError(f"{key} has '{name}' twice")


def _require_form(form: str | None) -> None:
    if form not in (None, NUMBERS, *FORMS):
        raise ValueError(f"time_format {form!r} is no form of times that is read")


class ForecastCard(_Card):
    """How a table becomes windows, and outputs become forecasts; see `ForecastSplits`.

    Attributes:
        targets: The K columns that are forecast.
        features: The F columns that the network sees.
        window: Rows T that it sees.
        horizon: Rows H ahead that it forecasts.
        anchored: Whether it predicts the change from the last observed value.
        shift: (O,) in the targets' units, horizon-major.
        scale: (O,) in the targets' units.
        feature_mean: (F,) in the features' units.
        feature_std: (F,) in the features' units.
        time: Column of the time stamps.
        series: Column that tells several series apart.
        missing: What is done about missing values.
        step: Between time stamps, see `search.data.timeline.find_step`.
        time_format: Of the time stamps, see `search.data.timeline.Stamps`.
    """

    task: Literal["forecast"]
    targets: Names
    features: Names
    window: Count
    horizon: Count
    anchored: bool
    shift: Floats
    scale: Spreads
    feature_mean: Floats
    feature_std: Spreads
    time: str | None
    series: str | None
    missing: Missing
    step: str | FiniteFloat | None
    time_format: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> ForecastCard:
        _require_sizes(self.output_size, shift=self.shift, scale=self.scale)
        means, stds = self.feature_mean, self.feature_std
        _require_sizes(self.input_size, feature_mean=means, feature_std=stds)
        if self.anchored and not set(self.targets) <= set(self.features):
            raise ValueError("anchored is true, but not all targets are among the features")
        _require_distinct(targets=self.targets, features=self.features)
        check_step(self.step)
        _require_form(self.time_format)
        return self

    @property
    def input_size(self) -> int:
        """F."""
        return len(self.features)

    @property
    def output_size(self) -> int:
        """O."""
        return self.horizon * len(self.targets)


class ClassifyCard(_Card):
    """How labelled series are read; see `ClassifySplits`.

    Attributes:
        classes: The C labels; an output's place is its label's place here.
        channels: The F channels' names; their numbers, if the study read ``.ts`` files.
        mean: (F,) in the channels' units.
        scale: (F,) in the channels' units.
        series: Column that tells the series apart; None: the study read ``.ts`` files.
        label: Column of the class, which new data need not have.
        time: Column that orders the rows of a series.
        missing: What is done about missing values.
        time_format: Of the time stamps, see `search.data.timeline.Stamps`.
    """

    task: Literal["classify"]
    classes: Names
    channels: Names
    mean: Floats
    scale: Spreads
    series: str | None
    label: str | None
    time: str | None
    missing: Missing
    time_format: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> ClassifyCard:
        _require_sizes(self.input_size, mean=self.mean, scale=self.scale)
        _require_form(self.time_format)
        return self

    @property
    def input_size(self) -> int:
        """F."""
        return len(self.channels)

    @property
    def output_size(self) -> int:
        """C."""
        return len(self.classes)


class LanguageCard(_Card):
    """How text becomes indices; see `LanguageSplits`.

    Attributes:
        vocabulary: The V characters, by code point.
        sequence_length: Characters T of a chunk.
    """

    task: Literal["language"]
    vocabulary: Annotated[str, Field(min_length=1)]
    sequence_length: Count

    @property
    def input_size(self) -> int:
        """V + 1; the last index stands for an unknown character."""
        return len(self.vocabulary) + 1

    @property
    def output_size(self) -> int:
        """V."""
        return len(self.vocabulary)


Card = Annotated[ForecastCard | ClassifyCard | LanguageCard, Field(discriminator="task")]

"""From a source to `Splits`: read, cut into three parts, standardised by the training part.

`search.data.splits` is the contract that training, evaluation and export rely on; there is one
module for each task, and `load_splits` chooses among them.
"""

from __future__ import annotations

from search.config import ClassifyData, DataConfig, ForecastData
from search.data.classification import load_classification
from search.data.examples import resolve, settle
from search.data.forecasting import load_forecast
from search.data.language import load_language
from search.data.splits import Splits

__all__ = ["load_splits", "settle"]


def load_splits(data: DataConfig) -> Splits:
    """Reads the data of a study.

    Raises:
        ConfigError: A key of ``[data]`` does not fit the source, or there is no such example.
        DataError: The data cannot be used; one line names the place and the remedy.
    """
    resolved = resolve(data)
    if isinstance(resolved.data, ForecastData):
        return load_forecast(resolved.data)
    if isinstance(resolved.data, ClassifyData):
        return load_classification(resolved.data)
    return load_language(resolved.data, resolved.text)

"""What single keys of a study file may hold: durations, columns, shares, whole numbers."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from search.errors import shown


def seconds(value: object) -> object:
    """Turns ``"90s"``, ``"5m"``, ``"1.5h"`` or a number of seconds into seconds.

    Raises:
        ValueError: It is a string, but no duration.
    """
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", value)
        if not match:
            raise ValueError(f"{value!r} is no duration; write seconds, or '90s', '5m', '2h', '1d'")
        return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
    return value


def columns(value: object) -> object:
    """Lets one column stand for a list of one."""
    names = list(value) if isinstance(value, (list, tuple)) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"must be the name of a column or a list of names, not {shown(value)}")
    return names


def shares(value: object) -> object:
    """Refuses what is no cut into training, validation and test."""
    given = list(value) if isinstance(value, (list, tuple)) else []
    numbers = [share for share in given if type(share) in (int, float)]
    if len(given) == len(numbers) == 3 and min(numbers) > 0 and abs(sum(numbers) - 1) <= 1e-6:
        return value
    wanted = "three shares above 0 that add up to 1, such as [0.7, 0.15, 0.15]"
    raise ValueError(f"must be {wanted}, not {shown(value)}")


def factory(value: object) -> object:
    """Refuses what does not name a function of a module.

    Raises:
        ValueError: It is not of the form ``package.module:function``.
    """
    words = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
    if isinstance(value, str) and re.fullmatch(f"{words}:{words}", value):
        module = value.split(":")[0]
        if not module.endswith(".py"):
            return value
        raise ValueError(f"{value!r} names a file; leave out '.py' and write dots for slashes")
    raise ValueError(f'must be "module:function" or "package.module:function", not {shown(value)}')


Whole = Annotated[int, Field(strict=True)]
Share = Annotated[float, Field(strict=True, gt=0, lt=1)]
Switch = Annotated[bool, Field(strict=True)]
Seconds = Annotated[float, BeforeValidator(seconds), Field(strict=True, gt=0)]
FactoryName = Annotated[str, BeforeValidator(factory)]
Columns = Annotated[tuple[str, ...], BeforeValidator(columns)]
Shares = Annotated[tuple[float, float, float], BeforeValidator(shares)]
Missing = Literal["error", "interpolate", "drop"]

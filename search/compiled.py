"""What layers are calculated with where torch's calls cost more than what they do: Numba's code.

Numba comes with its compiler; none has to be installed. What it has compiled, when it is first
needed, it keeps beside the source, or in the user's cache if that cannot be written.

Matrix products are made by the library that torch has with it and makes them by on a CPU, called
directly: for a small matrix a call of torch takes ten times as long as the product. Where torch
keeps it to itself, as on Windows, there are none.

The exponential function is ours, as one that a loop over an array can be vectorised with; sigmoid
and tanh are right to 2 roundings of 1 (seen over [-20, 20] in both precisions), infinity and NaN
included.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding
import numba
import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
Array = NDArray[Any]

# A product and a sum may be one operation; sums are not reordered, and NaN stays NaN.
_OPTIONS: dict[str, Any] = {"fastmath": {"contract"}, "error_model": "numpy"}


_CONFIG: Any = numba.config
ENABLED = not _CONFIG.DISABLE_JIT
"""Whether anything is compiled at all; the environment can forbid it (``NUMBA_DISABLE_JIT``)."""


def compiled(function: F) -> F:
    """Returns the function compiled, for each kind of arguments when it is first called with it."""
    try:
        with _kept_for_these_sources():
            made: F = njit(function, cache=True, **_OPTIONS)
    except RuntimeError:  # Neither the source's folder nor any of the user's can be written.
        made = njit(function, **_OPTIONS)
    return made


@contextlib.contextmanager
def _kept_for_these_sources() -> Iterator[None]:
    """Has Numba keep what it compiles in a folder that is of all the sources of compiled code.

    Numba itself would look at a function's own file only, and go on with what an older version of
    another file, from which it calls something, was compiled to.
    """
    before = _CONFIG.CACHE_DIR
    for base in (Path(before),) if before else _folders():
        folder = base / f"compiled-{_DIGEST}"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                _CONFIG.CACHE_DIR = str(folder)
                break
    try:
        yield
    finally:
        _CONFIG.CACHE_DIR = before


def _folders() -> Iterator[Path]:
    """Yields where compiled code may be kept: beside its source, else among the user's own."""
    yield Path(__file__).parent / "__pycache__"
    with contextlib.suppress(RuntimeError):  # Not everybody has a home.
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "rnn-search")


def _digest() -> str:
    """Returns a fingerprint of all sources of compiled code."""
    found = hashlib.sha256()
    for name in ("compiled.py", "layer_passes.py", "threefry.py"):
        with contextlib.suppress(OSError):
            found.update(Path(__file__).with_name(name).read_bytes())
    return found.hexdigest()[:12]


_DIGEST = _digest()


def _exponential(real: Any, whole: Any, degree: int, bits: int, bias: int, top: float) -> Any:
    """Returns exp(x) of one precision, for x from ``-top`` to ``top``; beyond, of the nearest.

    x = n ln 2 + r, and so exp(x) = 2^n exp(r), of which exp(r), |r| ≤ ln 2 / 2, is Taylor's
    polynomial of some degree, and 2^n a number whose exponent is n, stored with a bias after the
    bits of the fraction.
    """
    leading, *others = (real(1 / math.factorial(power)) for power in range(degree, -1, -1))
    factors = tuple(others)
    # Whole numbers that are added to it are the last bits of its fraction.
    magic, per_unit = real(1.5 * 2.0**bits), real(1 / math.log(2))
    # ln 2 in two parts, of which n times the first is exact.
    digits = bits // 2 + 1
    high = math.floor(math.log(2) * 2.0**digits) / 2.0**digits
    high, low = real(high), real(math.log(2) - high)
    most, least, offset, places = real(top), real(-top), whole(bias), whole(bits)

    def exponential(x: Any) -> Any:
        # Unlike min and max these leave NaN as it is.
        if x > most:  # noqa: PLR1730
            x = most
        if x < least:  # noqa: PLR1730
            x = least
        shifted = real(x * per_unit + magic)
        power = whole((shifted.view(whole) + offset) << places).view(real)
        n = shifted - magic
        rest = (x - n * high) - n * low
        value = leading
        for factor in factors:
            value = value * rest + factor
        return value * power

    return exponential


_SINGLE = _exponential(np.float32, np.int32, 7, 23, 127, 87.0)
_DOUBLE = _exponential(np.float64, np.int64, 13, 52, 1023, 700.0)


def _exp(x: Any) -> Any:
    """Stands for the one of x's precision in what is compiled."""
    raise NotImplementedError


@overload(_exp, inline="always", jit_options=_OPTIONS)  # type: ignore[arg-type]
def _exp_of(x: Any) -> Any:
    return _SINGLE if x is types.float32 else _DOUBLE


@compiled
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)) of a number."""
    one = type(x)(1)
    return one / (one + _exp(-x))


@compiled
def tanh(x: Any) -> Any:
    """2 sigmoid(2 x) - 1 of a number."""
    one = type(x)(1)
    return one - (one + one) / (one + _exp(x + x))


_PRODUCTS = {types.float32: "sgemm_", types.float64: "dgemm_"}
"""By precision, the general product of matrices of every such library (Dongarra et al. 1990, ACM
TOMS 16)."""
_NAMES = {name: f"rnn_search_{name}" for name in _PRODUCTS.values()}
"""By what compiled code calls them."""
_LETTERS = np.frombuffer(b"NT", np.int8)
"""Whether a matrix is taken as it is, or turned."""


def _find_products() -> bool:
    """Tells the compiler where the products are; False if torch keeps them to itself."""
    for path in sorted(Path(torch.__file__).with_name("lib").glob("libtorch_cpu.*")):
        try:
            library = ctypes.CDLL(str(path))
            for name, ours in _NAMES.items():
                place = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
                llvmlite.binding.add_symbol(ours, place)
        except (AttributeError, OSError):
            continue
        return True
    return False


HAS_PRODUCTS = ENABLED and _find_products()
"""Whether `multiply` can be called."""


def _multiply(*arguments: Any) -> None:
    """Stands for the one of a precision in what is compiled."""
    raise NotImplementedError


@overload(_multiply)
def _multiply_of(result: Any, *pointers: Any) -> Any:
    address = types.voidptr
    call = types.ExternalFunction(_NAMES[_PRODUCTS[result.dtype]], types.void(*[address] * 13))

    def multiply(result: Any, *pointers: Any) -> None:
        call(*pointers)

    return multiply


@compiled
def multiply(
    result: Array, left: Array, right: Array, kept: int, turn_left: int, turn_right: int
) -> None:
    """Adds a product of matrices to ``kept`` times what is there.

    Args:
        result: (M, N).
        left: (M, K); or (K, M) if it is to be turned.
        right: (K, N); or (N, K).
        kept: 0 or 1.
        turn_left: 0 or 1.
        turn_right: 0 or 1.
    """
    # Fortran has columns where we have rows: it makes the turned product, of the other order.
    sizes = np.empty(6, np.int32)
    sizes[0], sizes[1] = result.shape[1], result.shape[0]
    sizes[2] = left.shape[0] if turn_left else left.shape[1]
    sizes[3], sizes[4], sizes[5] = right.shape[1], left.shape[1], result.shape[1]
    factors = np.empty(2, result.dtype)
    factors[0], factors[1] = 1, kept
    _multiply(
        result,
        _LETTERS[turn_right:].ctypes,
        _LETTERS[turn_left:].ctypes,
        sizes.ctypes,
        sizes[1:].ctypes,
        sizes[2:].ctypes,
        factors.ctypes,
        right.ctypes,
        sizes[3:].ctypes,
        left.ctypes,
        sizes[4:].ctypes,
        factors[1:].ctypes,
        result.ctypes,
        sizes[5:].ctypes,
    )


if HAS_PRODUCTS:
    # The first call of all takes half a second, which is better spent here, where the server from
    # which trainers are forked imports this, than in each of them.
    _NOTHING = np.zeros((1, 1), np.float32)
    with contextlib.suppress(OSError):  # A full disk is told by who has something to say.
        multiply(_NOTHING, _NOTHING, _NOTHING, 0, 0, 0)

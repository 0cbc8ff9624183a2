"""What code that is compiled consists of: sigmoid, tanh, products of matrices; Numba compiles it.

Numba comes with its compiler; none has to be installed. What it makes is machine code that needs
neither Numba nor Python any more (`search.object_code` keeps it): this is imported only where
something is to be compiled.

Matrix products are made by the library that torch has with it and makes them by on a CPU, called
directly: for a small matrix a call of torch takes ten times as long as the product.

The exponential function is ours, as one that a loop over an array can be vectorised with; sigmoid
and tanh are right to 2 roundings of 1 (seen over [-20, 20] in both precisions), infinity and NaN
included.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
Array = NDArray[Any]
Pointer = Any
"""Where numbers of the precision lie, one after another."""
Words = Any
"""Where whole numbers of 32 bits lie, without sign."""
Counts = Any
"""Where whole numbers of 64 bits lie."""

PRODUCTS = {"float32": "sgemm_", "float64": "dgemm_"}
"""By precision, the general product of matrices of every such library (Dongarra et al. 1990, ACM
TOMS 16)."""

# A product and a sum may be one operation; sums are not reordered, and NaN stays NaN.
_OPTIONS: dict[str, Any] = {"fastmath": {"contract"}, "error_model": "numpy"}


def compiled(function: F) -> F:
    """Returns a function that compiled ones may call."""
    made: F = njit(function, **_OPTIONS)
    return made


def machine_code(entries: Sequence[Callable[..., None]], precision: str) -> bytes:
    """Compiles functions for this processor.

    Args:
        entries: Their arguments are declared as `int` (64 bits), `float` (64 bits), `Pointer`,
            `Words` or `Counts`; they neither allocate memory nor raise anything.
        precision: ``float32`` or ``float64``.

    Returns:
        An object file, in which each has its own name. As Numba's functions do, each takes two
        addresses of 64 bits of room before its arguments, and returns 0 if it has raised nothing.

    Raises:
        RuntimeError: A function needs something that is not there without Numba.
    """
    target, whole = _target(), llvmlite.binding.parse_assembly(_UNCOUNTED)
    for entry in entries:
        whole.link_in(_module(entry, precision))
    _sweep(whole, target)
    for function in whole.functions:
        free = function.name.startswith("llvm.") or function.name in PRODUCTS.values()
        if function.is_declaration and not free:
            raise RuntimeError(f"compiled code calls {function.name}, which is Numba's")
    made: bytes = target.emit_object(whole)
    return made


_UNCOUNTED = "define void @NRT_MemInfo_call_dtor(ptr %memory) {\n  ret void\n}"
"""What Numba would call to free an array's memory that nobody needs any more: of what lies at an
address it counts nothing, and so never calls it."""


def _module(entry: Callable[..., None], precision: str) -> Any:
    """Returns what a function has become, under its own name."""
    kinds = {
        "int": types.int64,
        "float": types.float64,
        "Pointer": types.CPointer(getattr(types, precision)),
        "Words": types.CPointer(types.uint32),
        "Counts": types.CPointer(types.int64),
    }
    declared = inspect.signature(entry).parameters.values()
    kind = types.void(*[kinds[argument.annotation] for argument in declared])
    alone = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    made = njit(kind, **alone, **_OPTIONS)(entry)
    [overload] = made.overloads.values()
    module = llvmlite.binding.parse_assembly(made.inspect_llvm(made.signatures[0]))
    for function in module.functions:
        if function.name == overload.fndesc.llvm_func_name:
            function.name = entry.__name__
        elif not function.is_declaration:
            function.linkage = llvmlite.binding.Linkage.internal
    return module


def _sweep(module: Any, target: Any) -> None:
    """Removes what nothing in a module calls any more."""
    passes = llvmlite.binding.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    options = llvmlite.binding.create_pipeline_tuning_options()
    passes.run(module, llvmlite.binding.create_pass_builder(target, options))


def _target() -> Any:
    """Returns what makes machine code for this processor, as Numba's own does."""
    binding = llvmlite.binding
    target = binding.Target.from_triple(binding.get_process_triple())
    return target.create_target_machine(
        cpu=binding.get_host_cpu_name(),
        features=binding.get_host_cpu_features().flatten(),
        opt=3,
        reloc="static" if target.name.startswith("x86") else "default",
        codemodel="jitdefault",
        jit=True,
    )


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


@overload(_exp, inline="always", jit_options=_OPTIONS)  # type: ignore[untyped-decorator]
def _exp_of(x: Any) -> Any:
    return _SINGLE if x is types.float32 else _DOUBLE


@compiled
def exponential(x: Any) -> Any:
    """exp(x) of a number."""
    return _exp(x)


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


def _call_product(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Calls the general product of matrices, which is Fortran's: everything is an address."""
    result, left, right = (
        context.make_array(kind)(context, builder, value).data
        for kind, value in zip(signature.args[:3], arguments[:3], strict=True)
    )
    sizes, turns = (cgutils.unpack_tuple(builder, arguments[at]) for at in (3, 5))

    def put(value: Any) -> Any:
        return cgutils.alloca_once_value(builder, value)

    def letter(turn: Any) -> Any:
        byte, turned = ir.IntType(8), builder.icmp_signed("!=", turn, turn.type(0))
        return put(builder.select(turned, byte(ord("T")), byte(ord("N"))))

    m, n, k, *across = (put(builder.trunc(size, ir.IntType(32))) for size in sizes)
    real = context.get_value_type(signature.args[0].dtype)
    one, some = put(real(1)), put(builder.sitofp(arguments[4], real))
    handed = [letter(turns[1]), letter(turns[0]), m, n, k, one, right, across[0], left, across[1]]
    handed += [some, result, across[2]]
    address = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [address] * len(handed))
    name = PRODUCTS[str(signature.args[0].dtype)]
    product = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(product, [builder.bitcast(value, address) for value in handed])
    return context.get_dummy_value()


@intrinsic
def _multiply(_, result, left, right, sizes, kept, turns):  # type: ignore[no-untyped-def]
    return types.void(result, left, right, sizes, kept, turns), _call_product


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
    inner = left.shape[0] if turn_left else left.shape[1]
    rows, columns = result.shape
    sizes = columns, rows, inner, right.shape[1], left.shape[1], columns
    _multiply(result, left, right, sizes, kept, (turn_left, turn_right))

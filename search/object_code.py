"""Compiled code as it is used: loaded from a file, by name, without what has compiled it.

To import Numba takes a second, LLVM's loader and the code some fifty milliseconds. It is made when
it is first needed on a machine, and kept beside its source, or in the user's cache if that cannot
be written (or in ``NUMBA_CACHE_DIR``), by a fingerprint of all that it depends on.

Without it, which the environment can ask for (``NUMBA_DISABLE_JIT``), all that is calculated by it
is left to torch; layers are, too, where torch keeps its products of matrices to itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from llvmlite import binding
from torch import Tensor

from search.whole_files import written_whole

ENABLED = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"
"""Whether anything is compiled at all."""

PRECISIONS = {torch.float32: "float32", torch.float64: "float64"}
"""What it calculates in."""

_SOURCES = (
    "object_code",
    "compiled",
    "threefry",
    "layer_memory",
    "layer_parts",
    "layer_passes",
    "lstm_passes",
    "head_passes",
    "packing_pass",
)


def _find_products() -> bool:
    """Tells LLVM where torch's products are; returns False if torch keeps them to itself."""
    for path in sorted(Path(torch.__file__).with_name("lib").glob("libtorch_cpu.*")):
        try:
            library = ctypes.CDLL(str(path))
            for name in ("sgemm_", "dgemm_"):
                place = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
                binding.add_symbol(name, place)
        except (AttributeError, OSError):
            continue
        return True
    return False


HAS_PRODUCTS = ENABLED and _find_products()
"""Whether layers can be calculated by compiled code."""


def run(
    name: str, precision: torch.dtype, numbers: Sequence[float], tensors: Sequence[Tensor]
) -> None:
    """Calls compiled code, which looks at memory without asking whether it is there.

    Args:
        name: Of one of the ``ENTRIES`` of `search.layer_passes` and other files.
        precision: In which it calculates.
        numbers: What it wants first; of each the kind, whole or not, that it is declared with.
        tensors: What it wants then, in one piece.

    Raises:
        RuntimeError: It has not come to its end.
    """
    function = _find(name, precision, tuple(map(type, numbers)), len(tensors))
    if function(_ROOM, _ROOM, *numbers, *[tensor.data_ptr() for tensor in tensors]):
        raise RuntimeError(f"{name} has failed with {numbers}")


_ROOM = ctypes.create_string_buffer(8)
"""Where compiled code leaves what nobody wants to know."""


@functools.cache
def _find(
    name: str, precision: torch.dtype, numbers: tuple[type, ...], tensors: int
) -> Callable[..., int]:
    """Returns a function that takes these numbers and the addresses of so many tensors."""
    with _LOADING:
        engine = _load(PRECISIONS[precision])
    kinds = [ctypes.c_int64 if kind is int else ctypes.c_double for kind in numbers]
    address = ctypes.c_void_p
    declare = ctypes.CFUNCTYPE(ctypes.c_int32, address, address, *kinds, *[address] * tensors)
    return declare(engine.get_function_address(name))


_LOADING = threading.Lock()


@functools.cache
def _load(precision: str) -> Any:
    """Returns LLVM's loader with all functions of a precision."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_triple(binding.get_process_triple())
    nothing = binding.parse_assembly("")
    engine = binding.create_mcjit_compiler(nothing, target.create_target_machine(jit=True))
    engine.add_object_file(binding.ObjectFileRef.from_data(_machine_code(precision)))
    engine.finalize_object()
    return engine


def _machine_code(precision: str) -> bytes:
    """Returns what is kept; if there is nothing yet, compiles and keeps it."""
    found = _kept(precision)
    if found is not None:
        return found
    if _fingerprint() != FINGERPRINT:  # Else it would be called as it was, and is another.
        raise RuntimeError("rnn-search was changed while it ran; start it again")
    from search import head_passes, layer_passes, lstm_passes, packing_pass, threefry
    from search.compiled import machine_code

    # LLVM would end the process over a product that is not there.
    with_products = [*layer_passes.ENTRIES, *lstm_passes.ENTRIES, *head_passes.ENTRIES]
    others = [*packing_pass.ENTRIES, *threefry.ENTRIES]
    made = machine_code([*(with_products if HAS_PRODUCTS else []), *others], precision)
    name = _name(precision)
    for folder in cache_folders():
        # A full disk is told by who has something to say.
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            with written_whole(folder / name) as part:
                part.write_bytes(hashlib.sha256(made).digest() + made)
            break
    return made


def is_missing() -> bool:
    """Says whether it helps who trains or predicts next that all is compiled and kept before."""
    if not ENABLED or _kept(PRECISIONS[torch.float32]) is not None:
        return False
    return any(map(_takes_files, cache_folders()))


def _takes_files(folder: Path) -> bool:
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    return there.is_dir() and os.access(there, os.W_OK)


def _kept(precision: str) -> bytes | None:
    """Returns what is kept; None if there is nothing, or what there is has been damaged."""
    for folder in cache_folders():
        with contextlib.suppress(OSError):
            check, made = _split((folder / _name(precision)).read_bytes())
            if check == hashlib.sha256(made).digest():
                return made
    return None


def _name(precision: str) -> str:
    return f"{precision}-{FINGERPRINT}.o"


def _split(kept: bytes) -> tuple[bytes, bytes]:
    """Returns a checksum and what it is of; LLVM would end the process over a damaged file."""
    size = hashlib.sha256().digest_size
    return kept[:size], kept[size:]


def cache_folders() -> Iterator[Path]:
    """Yields where what is made once on a machine may be kept, the best place first."""
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(chosen)
        return
    yield Path(__file__).parent / "__pycache__"
    with contextlib.suppress(RuntimeError):  # Not everybody has a home.
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "rnn-search")


def _fingerprint() -> str:
    """Returns a fingerprint of all that machine code depends on."""
    found = hashlib.sha256()
    for name in _SOURCES:
        with contextlib.suppress(OSError):
            found.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    found.update(importlib.metadata.version("numba").encode())
    found.update(importlib.metadata.version("rnn-search").encode())
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_"))
    others = [item for item in settings if item[0] != "NUMBA_CACHE_DIR"]
    found.update(f"{binding.get_process_triple()} {_processor()} {HAS_PRODUCTS} {others}".encode())
    return found.hexdigest()[:12]


def _processor() -> str:
    """Returns the processor as the compiler knows it, with what it can do."""
    features = ""
    with contextlib.suppress(RuntimeError):
        features = binding.get_host_cpu_features().flatten()
    return f"{binding.get_host_cpu_name()} {features}"


FINGERPRINT = _fingerprint()
"""Of what this process has been made of, whatever has been installed since."""

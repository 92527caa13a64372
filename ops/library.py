"""The compiled kernels: where they are, whether they loaded, and how an op finds its kernel.

Two shared libraries, built by ``python -m suite3d.ops.build``, hold the kernels:
``ops/lib/suite3d_ops_cpu.so`` and ``ops/lib/suite3d_ops_cuda.so``. Both are optional: an op without a kernel
for a device runs its plain torch version from ``suite3d.ops.reference``, with one notice.

How an op is made of this (``scatter.py`` is a short example)::

    library.define("name(Tensor values, SymInt size) -> Tensor", fake)   # schema and fake kernel, in Python
    STABLE_TORCH_LIBRARY_IMPL(suite3d, CPU, m) { m.impl("name", TORCH_BOX(&name)); }   # kernel, in csrc/name/name_cpu.cpp

    def name(values, size):                                               # public function: checks, then one or the other
        kernel = library.kernel("name", values.device.type)
        return kernel(values, size) if kernel is not None else reference.name(values, size)
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

NAMESPACE = "suite3d"
LIBRARY_FOLDER = Path(__file__).resolve().parent / "lib"

schemas = torch.library.Library(NAMESPACE, "FRAGMENT")
_loaded: set[str] = set()
_errors: dict[str, str] = {}
_kernels: dict[str, Any] = {}
_forced_reference: list[bool] = [False]
_noticed: set[str] = set()
_defined: list[str] = []


def _load(device_type: str) -> None:
    """Load the library of a device type; note why not instead of failing."""
    path = LIBRARY_FOLDER / f"suite3d_ops_{device_type}.so"
    if device_type == "cuda" and not torch.cuda.is_available():
        _errors[device_type] = "torch sees no CUDA device"
        return
    if not path.is_file():
        flag = " --cuda" if device_type == "cuda" else ""
        _errors[device_type] = f"{path} is not built: run `python -m suite3d.ops.build{flag}`"
        return
    try:
        torch.ops.load_library(str(path))
    except (OSError, RuntimeError) as error:
        _errors[device_type] = f"{path} did not load into torch {torch.__version__}: {error}"
        return
    _loaded.add(device_type)


def load_errors() -> dict[str, str]:
    """Device type ("cpu", "cuda") -> why its compiled kernels are not in use; a device that works is absent."""
    return dict(_errors)


def compiled(device_type: str) -> bool:
    """Whether ops on this device type run compiled kernels right now (loaded, and not inside :func:`use_reference`)."""
    return device_type in _loaded and not _forced_reference[0]


def reference_forced() -> bool:
    """Whether this runs inside :func:`use_reference`."""
    return _forced_reference[0]


@contextlib.contextmanager
def use_reference() -> Iterator[None]:
    """Run every op through its plain torch reference inside the block; for tests and bug hunts, not thread-safe."""
    before = _forced_reference[0]
    _forced_reference[0] = True
    try:
        yield
    finally:
        _forced_reference[0] = before


def define(schema: str, fake: Callable[..., Any]) -> None:
    """Declare an op ``suite3d::name`` and its fake kernel (shapes only, what ``torch.compile`` traces with).

    Args:
        schema: ``"name(Tensor x, ...) -> ..."``.
        fake: same arguments, returns empty tensors of the right shape and dtype.
    """
    name = schema.partition("(")[0].strip()
    schemas.define(schema)
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=schemas)
    packet = getattr(torch.ops.suite3d, name)
    _defined.append(name)
    for device_type in _loaded:
        if torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{name}", device_type.upper()):
            _kernels[f"{name}/{device_type}"] = packet


def defined() -> list[str]:
    """Names of the ops that were declared."""
    return list(_defined)


def kernel(name: str, device_type: str) -> Any | None:
    """The compiled op for this device type, or None where the reference has to serve (said once for each device type)."""
    found = None if _forced_reference[0] else _kernels.get(f"{name}/{device_type}")
    if found is None and not _forced_reference[0] and not torch.compiler.is_compiling():
        _notice(name, device_type)
    return found


def run(compiled_op: Any, arguments: tuple[Any, ...], explain: Callable[[], object]) -> Any:
    """Call a compiled op that checks its own arguments; where it refuses, ``explain`` raises the ``ValueError`` that says why.

    (Before torch 2.13 the text of a C++ error does not come through the stable ABI, and scanning the values in Python first
    would cost more than many kernels.)
    """
    if torch.compiler.is_compiling():
        return compiled_op(*arguments)
    try:
        return compiled_op(*arguments)
    except RuntimeError:
        explain()
        raise


def _notice(name: str, device_type: str) -> None:
    if device_type in _noticed:
        return
    _noticed.add(device_type)
    reason = _errors.get(device_type, f"the library has no kernel {name!r} for this device type")
    warnings.warn(f"suite3d.ops runs in plain torch on {device_type} (correct, but slow): {reason}", RuntimeWarning, stacklevel=4)


for _device_type in ("cpu", "cuda"):
    _load(_device_type)

"""A small emulator of CUDA for the tests: every ``*_cuda.cu`` is compiled by the host's C++ compiler and run on the CPU.

A machine without a GPU can compile the kernels with nvcc, but not run them. Here their sources are rewritten a little
(:mod:`tests.ops.cuda_emulator.rewrite`), compiled against the shim headers in ``include/`` and linked with ``emulator.cpp``
into one library whose ops are registered as ``suite3d_emulated::name`` for CPU tensors. Inside :func:`emulated`, the CPU
kernels of ``suite3d::name`` are those, so that public functions, autograd and existing tests run on them unchanged.

How a launch runs: blocks one after another, in an order drawn from a seed; the threads of a block as fibers that switch at
barriers, warp operations, atomics and fences, in an order drawn too (any of those that can go on, or one warp ahead of the
others as far as it gets). Shared memory, temporary memory of CUB and (by torch's own switch) new tensors are filled with
rubbish; copies to the host appear there after the next wait for the stream, not before. A launch fails with a message
where threads wait at different places, for threads that have returned, outside of their own mask, or for more than the
device has.

What passing here proves: the kernels' arithmetic, indexing, launches, use of CUB, of shared memory and of warp operations give
the right results, for these orders of the threads and these inputs. What it cannot show:

- anything about time,
- the memory model: every access here is seen at once, by all, in program order; a missing fence or ``volatile`` is not found,
  a missing barrier only where the drawn order meets it (:func:`seed` draws others),
- two blocks at the same time; what atomics of different blocks do to each other is seen in one order of whole blocks,
- nvcc's own arithmetic: fused multiply-adds that it makes of ``a * b + c`` (``SUITE3D_EMULATOR_FLAGS="-mfma
  -ffp-contract=fast"`` comes close; here there are none), and the last bits of ``sin``, ``exp`` or ``rsqrt`` on the device,
- registers, local memory and occupancy; sources that hold PTX, tensor-core fragments or cooperative groups do not compile,
- that accesses stay inside of their arrays: for that, by hand, ``SUITE3D_EMULATOR_FLAGS="-fsanitize=address -g"`` with
  ``LD_PRELOAD=$(g++ -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0``.

Environment: ``SUITE3D_EMULATOR_SEED`` (default 0), ``SUITE3D_EMULATOR_FLAGS`` (more flags for the compiler; another library).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import re
import subprocess
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from suite3d.ops import build, library
from tests.ops.cuda_emulator.rewrite import rewrite

HERE = Path(__file__).resolve().parent
NAMESPACE = "suite3d_emulated"
SERVICES = {  # of a CUDA torch, with their stand-ins in emulator.cpp
    "aoti_torch_get_current_cuda_stream": "cuda_emulator_get_stream",
    "aoti_torch_create_device_guard": "cuda_emulator_create_guard",
    "aoti_torch_delete_device_guard": "cuda_emulator_delete_guard",
    "aoti_torch_device_guard_set_index": "cuda_emulator_guard_set_index",
}
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=off", "-fno-math-errno", "-w"]


def why_not() -> str | None:
    """Why kernels cannot be emulated here, or None."""
    if build.find_compiler() is None:
        return "no C++ compiler (g++, c++ or CXX)"
    if build.find_torch() is None:
        return "torch has no headers of the stable ABI"
    return None


def registered_ops() -> list[str]:
    """Names of the ops that the CUDA sources register."""
    return sorted({name for source in build.cuda_sources() for name in re.findall(r'm\.impl\("(\w+)"', source.read_text(encoding="utf-8"))})


def _digest(*parts: str | bytes) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode() if isinstance(part, str) else part)
        total.update(b"\0")
    return total.hexdigest()[:20]


def _run(command: list[str], target: Path) -> None:
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    result = subprocess.run([*command, "-o", str(draft)], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"the CUDA emulator does not build: {' '.join(command)}\n{result.stderr[-6000:]}")
    draft.replace(target)


def compile_library(sources: list[Path], *, folder: Path | None = None, name: str = "cuda_emulated", jobs: int = 2) -> Path:
    """Rewrite and compile CUDA sources (and ``emulator.cpp``) into one shared library; what is there already is kept.

    Objects are named after the content of everything they are made of, so a folder serves any state of the tree.

    Args:
        sources: ``.cu`` files; those that include headers of ``ops/csrc`` lie in a folder of it.
        folder: receives rewritten sources, objects and library; default ``build/cuda_emulator`` beside the objects of the ops.
        name: first part of the library's name.
        jobs: compilers at a time.

    Raises:
        RuntimeError: a source does not compile, with the compiler's words.
    """
    torch_here, compiler = build.find_torch(), build.find_compiler()
    assert torch_here is not None and compiler is not None
    folder = folder or build.object_folder().parent / "cuda_emulator"
    csrc = build.OPS / "csrc"
    headers = {path.relative_to(csrc): rewrite(path.read_text(encoding="utf-8")) for path in sorted(csrc.rglob("*.*h"))}
    own = [path.read_bytes() for path in sorted((HERE / "include").rglob("*.*h"))]
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    extra = os.environ.get("SUITE3D_EMULATOR_FLAGS", "").split()
    base = _digest(*map(str, headers.values()), *map(str, headers), *own, *FLAGS, *extra, version, torch_here.version, str(torch_here.root))
    tree = folder / base / "csrc"
    command = [compiler, *FLAGS, *extra, f"-DTORCH_TARGET_VERSION={build.TORCH_TARGET}", *(f"-D{a}={b}" for a, b in SERVICES.items())]
    command += [f"-I{tree}", f"-I{HERE / 'include'}", f"-isystem{torch_here.include}"]
    with _only_builder(folder):
        for relative, text in headers.items():
            (tree / relative).parent.mkdir(parents=True, exist_ok=True)
            (tree / relative).write_text(text, encoding="utf-8")
        emulator = HERE / "emulator.cpp"
        inputs = [(emulator, folder / base / f"emulator.{_digest(emulator.read_bytes())}.o")]
        for source in sources:
            text = rewrite(source.read_text(encoding="utf-8"))
            copy = tree / source.parent.name / f"{source.stem}.{_digest(text)}.cpp"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text, encoding="utf-8")
            inputs.append((copy, folder / base / f"{copy.stem}.o"))
        target = folder / base / f"{name}.{_digest(*(path.name for _, path in inputs))}.so"
        missing = [item for item in inputs if not item[1].is_file()]
        with _prelude(command, tree, len(missing)) as first, ThreadPoolExecutor(max_workers=jobs) as pool:
            list(pool.map(lambda item: _run([*command, *(first if item[0].is_relative_to(tree) else []), "-c", str(item[0])], item[1]), missing))
        if not target.is_file():
            link = [compiler, "-shared", "-Wl,-Bsymbolic", *extra, *(str(path) for _, path in inputs)]
            _run([*link, f"-L{torch_here.lib}", "-Wl,--push-state,--no-as-needed", "-ltorch", "-Wl,--pop-state"], target)
    return target


@contextlib.contextmanager
def _prelude(command: list[str], tree: Path, sources: int) -> Iterator[list[str]]:
    """Flags that include the headers of every op first, compiled once: for many sources that takes less time (and 70 MB for as long)."""
    if sources < 5:
        yield []
        return
    header, compiled = tree / "prelude.h", tree / "prelude.h.gch"
    header.write_text('#include "geometry/device.cuh"\n', encoding="utf-8")
    _run([*command, "-x", "c++-header", str(header)], compiled)
    try:
        yield ["-include", str(header)]
    finally:
        compiled.unlink()


@contextlib.contextmanager
def _only_builder(folder: Path) -> Iterator[None]:
    """One build at a time: workers of one test run share the folder."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@functools.cache
def load() -> ctypes.CDLL:
    """The library with every CUDA op, built if need be, its ops declared with the schemas of the real ones."""
    import suite3d.ops  # noqa: F401  (declares the schemas)

    path = compile_library(build.cuda_sources())
    torch.ops.load_library(str(path))
    _declared.extend(_declare(name) for name in registered_ops())
    emulator = ctypes.CDLL(str(path))
    emulator.cuda_emulator_last_message.restype = ctypes.c_char_p
    emulator.cuda_emulator_seed.argtypes = [ctypes.c_uint64]
    emulator.cuda_emulator_limit_shared.argtypes, emulator.cuda_emulator_limit_shared.restype = [ctypes.c_size_t], ctypes.c_size_t
    return emulator


_schemas = torch.library.Library(NAMESPACE, "FRAGMENT")
_declared: list[Any] = []
calls: Counter[str] = Counter()  # of emulated kernels, by op


def _declare(name: str) -> Any:
    schema = str(getattr(torch.ops.suite3d, name).default._schema)
    _schemas.define(schema.removeprefix("suite3d::"))
    return getattr(torch.ops.suite3d_emulated, name).default


def seed(value: int) -> None:
    """Draw the orders of blocks and threads, and rubbish, from here on from this seed."""
    load().cuda_emulator_seed(value)


@contextlib.contextmanager
def shared_memory(limit: int) -> Iterator[None]:
    """Inside, a block has at most so many bytes of shared memory (227 KB otherwise, as on Hopper; 99 KB on GPUs for desktops)."""
    before = load().cuda_emulator_limit_shared(limit)
    try:
        yield
    finally:
        load().cuda_emulator_limit_shared(before)


def _runner(op: Any) -> Any:
    """The op, with the emulator's message where it fails (before torch 2.13 that does not come through the stable ABI)."""

    def run(*arguments: Any) -> Any:
        calls[op._schema.name.partition("::")[2]] += 1
        try:
            return op(*arguments)
        except RuntimeError as error:
            message = load().cuda_emulator_last_message().decode()
            raise RuntimeError(f"{error}\n{message}") from error

    return run


@contextlib.contextmanager
def emulated() -> Iterator[None]:
    """Inside, ops on CPU tensors run the emulated CUDA kernels. Not for threads."""
    load()
    override = torch.library.Library("suite3d", "IMPL")
    known, loaded = dict(library._kernels), set(library._loaded)
    deterministic, filled = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    try:
        for op in _declared:
            name = op._schema.name.removeprefix(f"{NAMESPACE}::")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that a kernel is replaced
                override.impl(name, _runner(op), "CPU", allow_override=True)
            library._kernels[f"{name}/cpu"] = getattr(torch.ops.suite3d, name)
        library._loaded.add("cpu")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = True  # NaN, or the largest number
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = filled
        override._destroy()
        library._kernels.clear(), library._kernels.update(known)
        library._loaded.clear(), library._loaded.update(loaded)

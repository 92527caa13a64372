"""Compile the ops: ``python -m suite3d.ops.build [--cuda]``. Standalone: setup.py imports it from its path, without suite3d or torch.

``csrc/<op>/`` holds the sources of one op:

- ``*_cpu.cpp``: for any machine; this is where kernels are registered,
- ``*_avx2.cpp``, ``*_avx512.cpp``: the same inner loops for newer x86 machines, chosen at run time by ``suite3d::isa()`` in
  ``csrc/common.h``. They must hold no inline function that other files share (the linker would keep one copy, perhaps theirs),
- ``*_cuda.cu``: the CUDA kernels.

Everything goes through the LibTorch stable ABI: ``lib/suite3d_ops_cpu.so`` and ``lib/suite3d_ops_cuda.so`` need no Python and
work with every torch >= 2.10. A machine without torch, compiler or nvcc gets what it allows, and is told what was left out.
An op that does not compile is left out whole; the others are kept.

Environment: ``SUITE3D_BUILD_OPS=0`` builds nothing; ``SUITE3D_BUILD_CUDA=1|0`` forces or forbids CUDA (default: when nvcc is
found and torch is a CUDA build); ``SUITE3D_CUDA_ARCHS="80;90"``; ``CXX``; ``CUDA_HOME``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

OPS = Path(__file__).resolve().parent
CUDA_ARCHS = ("80", "90", "100", "120")
TORCH_TARGET = "0x020a000000000000"
SHARED_FLAGS = ["-std=c++17", "-O3", f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"]
ISA_FLAGS = {
    "_avx2.cpp": ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2"],
    "_avx512.cpp": [
        "-mavx2",
        "-mfma",
        "-mf16c",
        "-mbmi",
        "-mbmi2",
        "-mavx512f",
        "-mavx512dq",
        "-mavx512bw",
        "-mavx512vl",
        "-mprefer-vector-width=512",
    ],
}


class Report:
    """What was built, and one line for each thing that was left out, with the reason."""

    def __init__(self) -> None:
        self.built: list[Path] = []
        self.left_out: list[str] = []

    def lines(self) -> list[str]:
        return [f"built {path}" for path in self.built] + [f"left out {reason}" for reason in self.left_out]


class Torch(NamedTuple):
    """The installed torch, found without importing it."""

    root: Path
    version: str
    cuda: str | None

    @property
    def include(self) -> Path:
        return self.root / "include"

    @property
    def lib(self) -> Path:
        return self.root / "lib"


def find_torch() -> Torch | None:
    """The torch that this Python would import, or None."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(next(iter(spec.submodule_search_locations)))
    if not (root / "include" / "torch" / "csrc" / "stable").is_dir():
        return None
    text = (root / "version.py").read_text(encoding="utf-8") if (root / "version.py").is_file() else ""
    cuda = re.search(r"^cuda\b.*?=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return Torch(root=root, version=importlib.metadata.version("torch"), cuda=cuda.group(1) if cuda else None)


def find_nvcc() -> Path | None:
    """nvcc of CUDA_HOME, of PATH, or of /usr/local/cuda."""
    home = os.environ.get("CUDA_HOME")
    candidates = [str(Path(home) / "bin" / "nvcc")] if home else []
    candidates += [shutil.which("nvcc") or "", "/usr/local/cuda/bin/nvcc"]
    return next((Path(path).resolve() for path in candidates if path and os.access(path, os.X_OK)), None)


def find_compiler() -> str | None:
    """The C++ compiler: CXX, else g++ or c++."""
    return next((path for name in (os.environ.get("CXX", ""), "g++", "c++") if name and (path := shutil.which(name))), None)


def object_folder() -> Path:
    """Where objects are kept between builds: ``build/ops`` of a checkout, a temporary folder for an installed package."""
    checkout = (OPS.parent / "suite3d").is_dir() and (OPS.parent / "suite3d" / "ops").exists()
    return OPS.parent / "build" / "ops" if checkout else Path(tempfile.gettempdir()) / f"suite3d_ops_{os.getuid()}"


def _x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def cpu_sources() -> list[Path]:
    """C++ sources for this machine."""
    endings = ("_cpu.cpp", *(ISA_FLAGS if _x86() else ()))
    return sorted(path for path in (OPS / "csrc").glob("*/*.cpp") if path.name.endswith(endings))


def cuda_sources() -> list[Path]:
    """CUDA sources."""
    return sorted((OPS / "csrc").glob("*/*_cuda.cu"))


def cpu_command(source: Path, torch: Torch, compiler: str) -> list[str]:
    """Compiler and flags of one C++ source, without ``-c``, input and output."""
    flags = [*SHARED_FLAGS, "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-fno-math-errno", "-fno-trapping-math", "-Wall"]
    flags += ["-DSUITE3D_X86"] if _x86() else []
    flags += next((isa for ending, isa in ISA_FLAGS.items() if source.name.endswith(ending)), [])
    return [compiler, *flags, f"-I{OPS / 'csrc'}", f"-isystem{torch.include}"]


def cuda_command(torch: Torch, nvcc: Path, archs: Sequence[str]) -> list[str]:
    """nvcc and flags, without ``-c``, input and output: machine code for each architecture, PTX for the newest."""
    codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    newest = max(archs, key=int)
    codes.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    flags = [*SHARED_FLAGS, "-Xcompiler=-fPIC,-fvisibility=hidden", "-DUSE_CUDA", "--extended-lambda", "--expt-relaxed-constexpr", "-cudart=static"]
    return [str(nvcc), *flags, *codes, f"-I{OPS / 'csrc'}", f"-isystem={torch.include}"]


def _object_path(source: Path) -> Path:
    return object_folder() / f"{source.parent.name}__{source.name}.o"


def _stamp(target: Path) -> Path:
    """File that remembers the command that made ``target``."""
    return object_folder() / (re.sub(r"\W+", "_", str(target)) + ".cmd")


def _is_current(target: Path, command: Sequence[str], inputs: Sequence[Path]) -> bool:
    stamp = _stamp(target)
    if not target.is_file() or not stamp.is_file() or stamp.read_text(encoding="utf-8") != "\n".join(command):
        return False
    return all(path.is_file() and path.stat().st_mtime <= target.stat().st_mtime for path in inputs)


def _prerequisites(rule: Path) -> list[Path]:
    """Files named in the make rule that a compiler wrote of one object: its source and the headers that are not the system's."""
    words = re.findall(r"(?:[^\\\s]|\\.)+", rule.read_text(encoding="utf-8").partition(":")[2])
    return [Path(re.sub(r"\\(.)", r"\1", word)) for word in words]


def _run(command: Sequence[str], target: Path) -> str:
    """Run a compiler into ``target`` (written under a temporary name, then renamed). Returns "" or its complaint."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    result = subprocess.run([*command, "-o", str(draft)], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        draft.unlink(missing_ok=True)
        return (result.stderr or result.stdout).strip() or f"exit code {result.returncode}"
    if result.stderr.strip():
        print(result.stderr.strip(), file=sys.stderr)
    draft.replace(target)
    _stamp(target).write_text("\n".join(command), encoding="utf-8")
    return ""


def compile_sources(commands: dict[Path, list[str]], *, jobs: int = 2) -> tuple[list[Path], dict[Path, str]]:
    """Compile what is out of date (source, a header that it includes, or command changed).

    Args:
        commands: source -> compiler and flags.
        jobs: compilers at a time.

    Returns:
        Objects by source order, and source -> complaint for those that failed.
    """

    def compile_one(source: Path) -> str:
        target = _object_path(source)
        rule = target.with_suffix(".d")
        command = [*commands[source], "-MMD", "-MF", str(rule), "-c", str(source)]
        return "" if rule.is_file() and _is_current(target, command, _prerequisites(rule)) else _run(command, target)

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        complaints = dict(zip(commands, pool.map(compile_one, commands), strict=True))
    return [_object_path(s) for s in commands if not complaints[s]], {s: c for s, c in complaints.items() if c}


def _build_library(
    name: str, commands: dict[Path, list[str]], link: list[str], libraries: list[str], folder: Path, report: Report, jobs: int
) -> None:
    _, failed = compile_sources(commands, jobs=jobs)
    broken = {source.parent for source in failed}
    for source, complaint in failed.items():
        report.left_out.append(f"op {source.parent.name} ({name}): {source.name} does not compile:\n{complaint}")
    objects = [_object_path(source) for source in commands if source.parent not in broken]
    if not objects:
        report.left_out.append(f"{name}: nothing to link")
        return
    target = folder / name
    command = [*link, *map(str, objects), *libraries]
    if not _is_current(target, command, objects) and (complaint := _run(command, target)):
        report.left_out.append(f"{name}: does not link:\n{complaint}")
        return
    report.built.append(target)


def _torch_libraries(torch: Torch) -> list[str]:
    # --as-needed would drop libtorch: every symbol is resolved through it at run time, whatever torch that is
    return [f"-L{torch.lib}", "-Wl,--push-state,--no-as-needed", "-ltorch", "-Wl,--pop-state"]


def build_cpu(folder: Path, torch: Torch, report: Report, *, jobs: int = 2) -> None:
    """Build ``suite3d_ops_cpu.so`` in ``folder``."""
    compiler = find_compiler()
    if compiler is None:
        report.left_out.append("the compiled ops: no C++ compiler (g++, c++ or CXX); the ops run in plain torch")
        return
    commands = {source: cpu_command(source, torch, compiler) for source in cpu_sources()}
    _build_library("suite3d_ops_cpu.so", commands, [compiler, "-shared", "-s"], _torch_libraries(torch), folder, report, jobs)


def build_cuda(archs: Sequence[str] | None = None, *, folder: Path = OPS / "lib", report: Report | None = None, jobs: int = 2) -> Report:
    """Build ``suite3d_ops_cuda.so`` in ``folder`` for the given compute capabilities ("80", "90", ...)."""
    report = report if report is not None else Report()
    torch, nvcc = find_torch(), find_nvcc()
    if torch is None or nvcc is None:
        report.left_out.append(f"the CUDA ops: no {'torch' if torch is None else 'nvcc (CUDA_HOME, PATH, /usr/local/cuda)'}")
        return report
    wish = os.environ.get("SUITE3D_CUDA_ARCHS", "")
    archs = list(archs or [arch for arch in re.split(r"[;,\s]+", wish) if arch] or CUDA_ARCHS)
    commands = {source: cuda_command(torch, nvcc, archs) for source in cuda_sources()}
    link = [find_compiler() or "g++", "-shared", "-s", "-Wl,-z,lazy", "-Wl,--exclude-libs,ALL"]
    runtime = next((path for path in nvcc.parents[1].glob("**/libcudart_static.a") if "stubs" not in path.parts), Path("libcudart_static.a"))
    libraries = [*_torch_libraries(torch), str(runtime), "-ldl", "-lrt", "-lpthread"]
    _build_library("suite3d_ops_cuda.so", commands, link, libraries, folder, report, jobs)
    return report


@contextlib.contextmanager
def _only_builder() -> Iterator[None]:
    """One build at a time on one machine: objects are shared."""
    import fcntl  # absent on Windows, where nothing is built

    object_folder().mkdir(parents=True, exist_ok=True)
    with (object_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(inplace_dir: str | Path = OPS / "lib", *, cuda: bool | None = None, jobs: int = 2) -> Report:
    """Build what this machine allows. Never raises for what is missing; prints and returns what was built, what not, and why.

    Args:
        inplace_dir: the folder that receives the libraries, ``ops/lib`` of the tree that is being built or installed.
        cuda: build the CUDA library; None decides by environment, nvcc and torch (see the module).
        jobs: compilers at a time.
    """
    report, folder = Report(), Path(inplace_dir)
    torch = find_torch()
    if os.environ.get("SUITE3D_BUILD_OPS") == "0":
        report.left_out.append("the compiled ops: SUITE3D_BUILD_OPS=0")
    elif sys.platform != "linux":
        report.left_out.append(f"the compiled ops: built on Linux only, this is {sys.platform}; the ops run in plain torch")
    elif torch is None:
        report.left_out.append("the compiled ops: torch >= 2.10 is not installed here (an isolated build? use --no-build-isolation)")
    elif tuple(int(part) for part in re.findall(r"\d+", torch.version)[:2]) < (2, 10):
        report.left_out.append(f"the compiled ops: they need torch >= 2.10, this is {torch.version}")
    else:
        wish = os.environ.get("SUITE3D_BUILD_CUDA", "")
        with _only_builder():
            build_cpu(folder, torch, report, jobs=jobs)
            if cuda or (cuda is None and wish != "0" and (wish == "1" or (torch.cuda is not None and find_nvcc() is not None))):
                build_cuda(folder=folder, report=report, jobs=jobs)
    print("suite3d ops: " + "\nsuite3d ops: ".join(report.lines()), flush=True)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m suite3d.ops.build", description="Compile the ops into ops/lib.")
    parser.add_argument("--cuda", action="store_true", default=None, help="build the CUDA library too (needs nvcc, not a CUDA torch)")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at a time")
    options = parser.parse_args(arguments)
    report = build(cuda=options.cuda, jobs=options.jobs)
    return 1 if report.left_out else 0


if __name__ == "__main__":
    sys.exit(main())

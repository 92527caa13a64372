"""The build: what the binary needs from outside, what happens on a machine that lacks something, and CUDA sources that compile."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import suite3d.ops as ops
from suite3d.ops import build, library

CPU_LIBRARY = library.LIBRARY_FOLDER / "suite3d_ops_cpu.so"
STABLE = re.compile(r"^(aoti_torch_|torch_)")
RUNTIME = re.compile(r"@(GLIBC|GLIBCXX|CXXABI|GCC)_|^(_ITM_|__gmon_start__|__cxa_finalize)")


def undefined(path: Path) -> list[str]:
    table = subprocess.run(["nm", "-D", "--undefined-only", str(path)], capture_output=True, text=True, check=True).stdout
    return [line.split()[-1] for line in table.splitlines()]


def needs_library() -> None:
    if not CPU_LIBRARY.is_file() or shutil.which("nm") is None:
        pytest.skip("needs the built CPU library and nm")


def test_only_stable_symbols_are_undefined():
    needs_library()
    symbols = undefined(CPU_LIBRARY)
    assert any(STABLE.match(s) for s in symbols)
    assert [s for s in symbols if not STABLE.match(s) and not RUNTIME.search(s)] == []


def test_nothing_of_python_or_of_one_torch():
    needs_library()
    dynamic = subprocess.run(["readelf", "-d", str(CPU_LIBRARY)], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"NEEDED.*\[(.*)\]", dynamic)
    assert set(needed) - {"libtorch.so"} <= {"ld-linux-x86-64.so.2", "libc.so.6", "libgcc_s.so.1", "libm.so.6", "libstdc++.so.6"}
    assert "libtorch.so" in needed
    exported = subprocess.run(["nm", "-D", "--defined-only", str(CPU_LIBRARY)], capture_output=True, text=True, check=True).stdout
    assert "suite3d" not in exported  # everything of ours is hidden


def test_no_instruction_beyond_the_baseline_leaks():
    """Inline functions of a vector file could be the copy that the linker keeps: those files must define none that others use."""
    if not build.object_folder().is_dir() or shutil.which("nm") is None:
        pytest.skip("needs the objects of the build and nm")
    weak = {}
    for path in build.object_folder().glob("*.o"):
        table = subprocess.run(["nm", "-C", str(path)], capture_output=True, text=True, check=True).stdout
        weak[path.name] = {line[19:] for line in table.splitlines() if line[17:18] in "WV"}
    for vector in (name for name in weak if "_avx" in name):
        for other in (name for name in weak if name != vector):
            assert not weak[vector] & weak[other], f"{vector} and {other} share inline functions"


def test_each_cpu_op_is_registered():
    if not ops.compiled("cpu"):
        pytest.skip("needs the compiled ops")
    if any(source.stat().st_mtime > CPU_LIBRARY.stat().st_mtime for source in build.cpu_sources()):
        pytest.skip("the library is older than its sources: run `python -m suite3d.ops.build`")
    written = {name for source in build.cpu_sources() for name in re.findall(r'm\.impl\("(\w+)"', source.read_text())}
    assert {"dynamic_voxelize", "hard_voxelize", "scatter_sum", "scatter_max", "submanifold_map", "strided_map", "sparse_conv"} <= written
    assert written <= set(library.defined())
    assert [name for name in sorted(written) if library.kernel(name, "cpu") is None] == []


def test_runs_on_every_instruction_set(tmp_path):
    if not ops.compiled("cpu"):
        pytest.skip("needs the compiled ops")
    script = (
        "import torch, sys; from suite3d.ops import *; g = torch.Generator().manual_seed(0)\n"
        "c = torch.cartesian_prod(*map(torch.arange, (1, 4, 5, 6))).int(); f = torch.randn(120, 20, generator=g)\n"
        "w = torch.randn(36, 3, 3, 3, 20, generator=g); m = submanifold_map(c, spatial_shape=(4, 5, 6), batch_size=1, kernel=(3, 3, 3))\n"
        "w.requires_grad_(); f.requires_grad_(); o = sparse_conv(f, w, None, m); o.square().sum().backward()\n"
        "torch.save((o.detach(), f.grad, w.grad), sys.argv[1])\n"
    )
    results = []
    for isa in ("any", "avx2", "avx512"):
        target = tmp_path / f"{isa}.pt"
        environment = {**os.environ, "SUITE3D_ISA": isa, "PYTHONPATH": str(build.OPS.parent)}
        subprocess.run([sys.executable, "-c", script, str(target)], check=True, env=environment, timeout=120)
        results.append(torch.load(target))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))


def test_import_leaves_out_compilers():
    """``torch._dynamo`` and triton take longer to import than all else; only who compiles or runs Triton's kernels pays for them."""
    script = (
        "import torch, sys; before = set(sys.modules); import suite3d.ops; print(*sorted({'torch._dynamo', 'triton'} & (set(sys.modules) - before)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(build.OPS.parent)}
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120, env=environment)
    assert said.stdout.strip() == ""


def test_is_standalone():
    """setup.py imports it from its path where neither torch nor suite3d can be imported."""
    script = (
        "import sys, importlib.util\n"
        "class Hide:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.split('.')[0] in ('suite3d', 'torch', 'numpy'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        f"spec = importlib.util.spec_from_file_location('build_ops', {str(build.OPS / 'build.py')!r})\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "module.find_torch = lambda: None\n"
        "module.build('/nonexistent')\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "torch >= 2.10 is not installed here" in said


def test_says_what_it_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("SUITE3D_BUILD_OPS", "0")
    assert build.build(tmp_path).lines() == ["left out the compiled ops: SUITE3D_BUILD_OPS=0"]
    monkeypatch.delenv("SUITE3D_BUILD_OPS")
    monkeypatch.setenv("SUITE3D_BUILD_CUDA", "0")
    monkeypatch.setattr(build, "find_compiler", lambda: None)
    assert "no C++ compiler" in build.build(tmp_path).left_out[0]
    monkeypatch.setattr(build, "find_torch", lambda: build.Torch(root=tmp_path, version="2.9.1+cpu", cuda=None))
    assert "need torch >= 2.10, this is 2.9.1+cpu" in build.build(tmp_path).left_out[0]
    assert not any(tmp_path.iterdir())


def test_an_op_that_does_not_compile_is_left_out_whole(tmp_path, monkeypatch):
    if build.find_compiler() is None or build.find_torch() is None:
        pytest.skip("needs a C++ compiler and torch")
    for name, text in {
        "good/good_cpu.cpp": "int good() { return 1; }",
        "bad/bad_cpu.cpp": "int bad( {",
        "bad/other_cpu.cpp": "int other() { return 1; }",
    }.items():
        source = tmp_path / "ops" / "csrc" / name
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(text)
    monkeypatch.setattr(build, "OPS", tmp_path / "ops")
    monkeypatch.setattr(build, "object_folder", lambda: tmp_path / "objects")
    monkeypatch.setenv("SUITE3D_BUILD_CUDA", "0")
    report = build.build(tmp_path / "out")
    assert [path.name for path in report.built] == ["suite3d_ops_cpu.so"]
    assert len(report.left_out) == 1 and "op bad" in report.left_out[0]
    stamp = report.built[0].stat().st_mtime_ns
    assert build.build(tmp_path / "out").built[0].stat().st_mtime_ns == stamp  # nothing changed, nothing is built


def test_a_changed_header_compiles_only_what_includes_it(tmp_path, monkeypatch):
    if build.find_compiler() is None or build.find_torch() is None:
        pytest.skip("needs a C++ compiler and torch")
    folder = tmp_path / "a place" / "ops" / "csrc" / "op"  # the rule that the compiler writes masks the blank
    folder.mkdir(parents=True)
    header = folder / "shared.h"
    header.write_text("inline int one() { return 1; }")
    (folder / "with_cpu.cpp").write_text('#include "shared.h"\nint with() { return one(); }')
    (folder / "without_cpu.cpp").write_text("int without() { return 2; }")
    monkeypatch.setattr(build, "OPS", folder.parents[1])
    monkeypatch.setattr(build, "object_folder", lambda: tmp_path / "objects")
    monkeypatch.setenv("SUITE3D_BUILD_CUDA", "0")

    def built() -> dict[str, int]:
        assert build.build(tmp_path / "out").left_out == []
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "objects").glob("*.o")}

    first = built()
    assert built() == first
    later = header.stat().st_mtime + 10
    header.write_text("inline int one() { return 3; }")
    os.utime(header, (later, later))
    assert {name for name, when in built().items() if when != first[name]} == {"op__with_cpu.cpp.o"}
    header.unlink()
    (folder / "with_cpu.cpp").write_text("int with() { return 4; }")
    assert built()["op__without_cpu.cpp.o"] == first["op__without_cpu.cpp.o"]  # a header that is gone is no reason to fail


def test_missing_or_broken_library_is_explained(tmp_path):
    (tmp_path / "suite3d_ops_cpu.so").write_bytes(b"not a library")
    script = (
        "import sys, pathlib, warnings; warnings.simplefilter('ignore')\n"
        "import torch, suite3d.ops.library as library\n"
        "library._errors.clear(); library._loaded.clear(); library.LIBRARY_FOLDER = pathlib.Path(sys.argv[1]); library._load('cpu')\n"
        "print(library.load_errors()['cpu'])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(build.OPS.parent)}
    for folder, message in ((tmp_path, "did not load into torch"), (tmp_path / "none", "is not built: run `python -m suite3d.ops.build`")):
        said = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True, env=environment, timeout=120)
        assert message in said.stdout


def test_cuda_library_builds_and_loads(tmp_path):
    """Every .cu compiles; the library links, needs stable symbols alone, and loads beside a CPU torch (where it cannot run)."""
    if build.find_nvcc() is None or build.find_torch() is None:
        pytest.skip("needs nvcc and torch")
    report = build.build_cuda(["90"], folder=tmp_path)
    assert report.left_out == []
    (path,) = report.built
    assert [s for s in undefined(path) if not STABLE.match(s) and not RUNTIME.search(s)] == []
    names = sorted({name for source in build.cuda_sources() for name in re.findall(r'm\.impl\("(\w+)"', source.read_text())})
    script = (
        "import sys, torch, suite3d.ops; torch.ops.load_library(sys.argv[1])\n"
        "print([n for n in sys.argv[2:] if not torch._C._dispatch_has_kernel_for_dispatch_key(f'suite3d::{n}', 'CUDA')])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(build.OPS.parent)}
    said = subprocess.run([sys.executable, "-c", script, str(path), *names], capture_output=True, text=True, check=True, env=environment, timeout=120)
    assert said.stdout.strip() == "[]" and "sparse_conv" in names


def test_spec_of_this_torch():
    found = build.find_torch()
    assert found is not None and found.root == Path(torch.__file__).parent
    assert found.version.partition("+")[0] == torch.__version__.partition("+")[0]  # the registry's wheels leave "+cu128" out of their metadata
    assert found.cuda == torch.version.cuda
    assert importlib.util.find_spec("torch") is not None

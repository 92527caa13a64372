"""The masked implicit GEMM: the cases of ``implicit_gemm_cases.py`` in a process of their own, machine code for two GPUs, and who runs when."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from suite3d import ops
from suite3d.ops import library
from suite3d.ops.sparse import backend, set_backend
from suite3d.ops.sparse.implicit_gemm.tiles import PRECISIONS, TABLE, WIDTHS, Tile, candidates, choose, use_tile

ROOT = Path(__file__).parents[2]
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="needs triton: pip install triton, or the dev extra on Linux x86_64")
MOST_SHARED = {90: 227 * 1024, 80: 163 * 1024}  # bytes of shared memory a program can have


@pytest.fixture
def automatic():
    before = set_backend("auto")
    yield
    set_backend(before)


def release(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in importlib.metadata.version(package).split(".")[:2])


@needs_triton
@pytest.mark.timeout(900)
def test_cases():
    """On the GPU where torch sees one, else in the interpreter, which has to be asked for before triton is imported."""
    there = torch.cuda.is_available()
    if not there and release("triton") < (3, 9) and release("numpy") >= (2, 4):
        pytest.skip("this triton's interpreter does not loop on NumPy 2.4 and later (seen with 3.6): take triton 3.9, or an older NumPy")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | ({} if there else {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"})
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=", "--import-mode=importlib", "-q", "--tb=short"]
    file = Path(__file__).with_name("implicit_gemm_cases.py")
    done = subprocess.run([sys.executable, "-m", "pytest", *options, str(file)], cwd=ROOT, env=environment, capture_output=True, text=True)
    found = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert found and int(found[1]) >= 30 and "skipped" not in done.stdout.splitlines()[-1]


def compile_for(kernel, pointers, constants, capability, *, warps=4, stages=3):
    """Triton's machine code of a kernel for a GPU that need not be there; channel counts and addresses are multiples of 16, as in most networks."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    even = {"depth", "width", "offset_stride", "depth_stride", "width_stride"}
    signature = {name: "constexpr" if name in constants else pointers.get(name, "i32") for name in kernel.arg_names}
    aligned = [number for number, (name, kind) in enumerate(signature.items()) if kind.startswith("*") or (name in even and kind == "i32")]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs={(number,): [["tt.divisibility", 16]] for number in aligned})
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps, "num_stages": stages})


def stack_bytes(machine_code: bytes, folder: Path) -> int:
    """Bytes of stack that a thread uses, where registers are spilled to, by the tool that comes with triton; 0 where it does not."""
    import triton

    tool, file = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump", folder / "kernel.cubin"
    if not tool.is_file():
        return 0
    file.write_bytes(machine_code)
    report = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True)
    return int(re.search(r"STACK:(\d+)", report.stdout + report.stderr)[1])


@pytest.fixture
def triton_cache(tmp_path, monkeypatch):
    """Compile anew, and leave nothing behind."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("compiles, which triton's interpreter does not: unset TRITON_INTERPRET")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


TYPES = {"bfloat16": ("*bf16", "half"), "float16": ("*fp16", "half"), "tf32": ("*fp32", "tf32"), "float32": ("*fp32", "ieee")}
COMPILED = [(dtype, "rows", 128, False) for dtype in TYPES] + [("bfloat16", "rows", 16, True), ("tf32", "rows", 64, True)]
COMPILED += [("bfloat16", "weight", 128, False), ("tf32", "weight", 64, False), ("float32", "weight", 64, False)]


@needs_triton
@pytest.mark.parametrize(("dtype", "kind", "width", "transposed"), COMPILED)
def test_products_compile_to_tensor_cores(dtype, kind, width, transposed, triton_cache, tmp_path):
    """For Hopper and Ampere: no type error, shared memory that fits, matrix instructions, loads that run ahead, next to nothing spilled."""
    from suite3d.ops.sparse.implicit_gemm import kernels

    pointer, precision = TYPES[dtype]
    tile = TABLE[kind, precision, width]
    shape = {"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth}
    multiplies = {"VOLUME": 27, "PRECISION": "tf32" if precision == "tf32" else "ieee", "UPCAST": False}
    if kind == "rows":
        pointers = {"x": pointer, "weight": pointer, "bias": "*fp32", "arranged": "*i32", "order": "*i32", "masks": "*i64", "split": "*i32"}
        pointers |= {"partial": "*fp32", "out": pointer}
        flags = {"GROUPS": 2, "GROUP": int(transposed), "REVERSED": transposed, "HAS_BIAS": True, "EVEN": True}
        constants = {**multiplies, **shape, **flags, "width_stride" if transposed else "depth_stride": 1}
    else:
        pointers = {"x": pointer, "grad": pointer, "sources": "*i32", "targets": "*i32", "counts": "*i32", "partial": "*fp32"}
        constants = {**multiplies, **shape}
    kernel = kernels.convolve_kernel if kind == "rows" else kernels.weight_grad_kernel
    for capability in MOST_SHARED if (dtype, kind, width) == ("bfloat16", "rows", 128) else (90,):
        code = compile_for(kernel, pointers, constants, capability, warps=tile.warps, stages=tile.stages)
        assert 0 < code.metadata.shared <= MOST_SHARED[capability]
        assert bool(re.search(r"\b(mma\.sync|wgmma\.mma_async)", code.asm["ptx"])) == (dtype != "float32")
        assert "cp.async" in code.asm["ptx"]
        assert stack_bytes(code.asm["cubin"], tmp_path) <= 16


@needs_triton
def test_plans_compile(triton_cache):
    from suite3d.ops.sparse.implicit_gemm import kernels

    table = {"table": "*i32", "masks": "*i64", "pairs": "*i32", "split": "*i32", "order": "*i32", "arranged": "*i32", "counts": "*i32"}
    table |= {"low_order": "*i64", "high_order": "*i64", "ends": "*i32", "sources": "*i32", "targets": "*i32", "partial": "*fp32"}
    for kernel, more, constants in (
        (kernels.row_mask_kernel, {}, {"VOLUME": 63}),
        (kernels.sort_key_kernel, {"low_keys": "*i16", "high_keys": "*i16"}, {"CHOICE": 1, "VOLUME": 9, "CUT": 4}),
        (kernels.sort_key_kernel, {"low_keys": "*i64", "high_keys": "*i64"}, {"CHOICE": 0, "VOLUME": 63, "CUT": 31}),
        (kernels.arrange_kernel, {}, {"VOLUME": 27, "GROUPS": 1, "CUT": 13}),
        (kernels.arrange_kernel, {}, {"VOLUME": 63, "GROUPS": 2, "CUT": 31}),
        (kernels.count_pairs_kernel, {}, {}),
        (kernels.list_pairs_kernel, {}, {}),
        (kernels.sum_pieces_kernel, {"out": "*bf16"}, {"VOLUME": 27}),
    ):
        code = compile_for(kernel, {**table, **more}, {**constants, "BLOCK": 256}, 90)
        assert code.metadata.shared <= 48 * 1024


def test_every_tile_fits_its_channels():
    for precision in PRECISIONS:
        for width in (1, 3, 16, 17, 64, 100, 128, 130, 512):
            for depth in (1, 16, 48, 256):
                rows = choose("rows", precision, depth=depth, width=width, volume=27)
                weight = choose("weight", precision, depth=depth, width=width, volume=27)
                for tile in (rows, weight):
                    sizes = (tile.rows, tile.columns, tile.depth)
                    assert min(sizes) >= 16 and all(size & size - 1 == 0 for size in sizes)
                    assert tile.columns < 2 * max(width, 8) + 1 and tile.depth < 2 * max(depth, 8) + 1
                few = choose("rows", precision, depth=depth, width=width, volume=8)
                assert few.rows == (rows.rows if precision == "ieee" else 2 * rows.rows)
    assert set(TABLE) == {(kind, precision, width) for kind in ("rows", "weight") for precision in PRECISIONS for width in WIDTHS}
    for kind, precision, width in TABLE:
        tile = choose(kind, precision, depth=width, width=width, volume=27)
        assert any(
            (c.rows, c.columns, c.depth, c.warps) == (tile.rows, tile.columns, tile.depth, tile.warps) for c in candidates(kind, precision, width)
        )
    with use_tile(Tile(16, 16, 16, 1, 1)):
        assert choose("rows", "half", depth=64, width=64, volume=27) == Tile(16, 16, 16, 1, 1)


def test_backends_that_are_not_there_are_refused(automatic, monkeypatch):
    with pytest.raises(ValueError, match="expected one of auto, cuda, triton, got 'fast'"):
        set_backend("fast")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    backend._not_installed.cache_clear()
    with pytest.raises(ValueError, match="triton is not installed.*pip install triton"):
        set_backend("triton")
    backend._not_installed.cache_clear()
    monkeypatch.setitem(library._errors, "cuda", "no library: run this")
    with pytest.raises(ValueError, match="backend 'cuda': no library: run this"):
        set_backend("cuda")
    assert set_backend("auto") == "auto"


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("problem", ["", "too old"])
def test_who_runs_on_cuda(problem, compiled, allowed, automatic, monkeypatch):
    """The rule of ``set_backend``, on tensors that only say that they are on a GPU."""

    class Feats:
        def __init__(self, dtype: torch.dtype) -> None:
            self.dtype, self.device = dtype, torch.device("cuda", 0)

    monkeypatch.setattr(backend, "_problem", lambda index: problem)
    monkeypatch.setattr(backend, "tf32_allowed", lambda: allowed)
    monkeypatch.setattr(library, "compiled", lambda device_type: compiled)
    runs = {dtype: backend.runs_triton(Feats(dtype), 27) for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}
    single = allowed or not compiled
    assert runs == {torch.float16: not problem, torch.bfloat16: not problem, torch.float32: not problem and single, torch.float64: False}
    assert not backend.runs_triton(Feats(torch.float16), 64)
    monkeypatch.setitem(backend.__dict__, "_chosen", ["triton"])
    if problem:
        with pytest.raises(ValueError, match="too old"):
            backend.runs_triton(Feats(torch.float32), 27)
    else:
        assert backend.runs_triton(Feats(torch.float32), 27)
    monkeypatch.setitem(backend.__dict__, "_chosen", ["cuda"])
    assert not backend.runs_triton(Feats(torch.float16), 27)


def test_tf32_follows_torch():
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert backend.tf32_allowed()
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        assert not backend.tf32_allowed()
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter takes CPU tensors")
def test_cpu_tensors_are_not_for_triton(automatic, coords_of, generator, monkeypatch):
    """Asked for Triton, features on the CPU take the CPU kernels; the ops themselves say what they need."""
    monkeypatch.setitem(backend.__dict__, "_chosen", ["triton"])
    monkeypatch.setattr(backend, "_interpreted", lambda: False)
    table = ops.submanifold_map(coords_of((3, 4, 5), 1, 20, generator), spatial_shape=(3, 4, 5), batch_size=1, kernel=(3, 3, 3))
    out = ops.sparse_conv(torch.ones(20, 2), torch.ones(3, 3, 3, 3, 2), None, table)
    torch.testing.assert_close(out[:, 0], 2.0 * (table.forward >= 0).sum(0))
    if HAS_TRITON:
        with pytest.raises(RuntimeError, match="expected CUDA tensors, or triton's interpreter"):
            torch.ops.suite3d.implicit_gemm_pairs(table.forward)

"""The emulator of CUDA itself: what it computes, and the mistakes of a kernel that it must find."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from tests.ops import cuda_emulator
from tests.ops.cuda_emulator.rewrite import rewrite

pytestmark = pytest.mark.skipif(cuda_emulator.why_not() is not None, reason=f"needs the CUDA emulator: {cuda_emulator.why_not()}")
MESSAGES = ("sum_of_blocks", "diverge", "warp_operations", "uninitialised", "dynamic_memory", "histogram", "visit", "copy_back")


@pytest.fixture(scope="module")
def kernels():
    path = cuda_emulator.compile_library([Path(cuda_emulator.__file__).parent / "selftest.cu"], name="selftest")
    loaded = ctypes.CDLL(str(path))
    for name in MESSAGES:
        getattr(loaded, name).restype = ctypes.c_char_p
    loaded.cuda_emulator_seed.argtypes = [ctypes.c_uint64]
    loaded.cuda_emulator_seed(1)
    return loaded


def pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def sums(kernels, mistake, seed):
    kernels.cuda_emulator_seed(seed)
    values, out = np.random.default_rng(seed).integers(0, 1000, (5, 128)).astype(np.int32), np.zeros(5, np.int32)
    assert kernels.sum_of_blocks(pointer(values), pointer(out), 5, mistake) == b""
    return np.array_equal(out, values.sum(1))


def test_a_sum_with_barriers_is_right_in_every_order(kernels):
    assert all(sums(kernels, 0, seed) for seed in range(20))


@pytest.mark.parametrize("mistake", [1, 2])
def test_a_missing_barrier_shows(kernels, mistake):
    assert not any(sums(kernels, mistake, seed) for seed in range(20))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (0, "deadlock: the threads of a block wait at different places: 40 returned .*; 24 wait in __syncthreads at selftest"),
        (1, "divergent barrier: thread .* waits in __syncthreads at .*, thread .* in __syncthreads at"),
        (2, "is not in the mask of its own __shfl_sync at selftest"),
        (3, "in __ballot_sync at .* for thread .* has returned|deadlock: .* wait in __ballot_sync .* for the lanes ffffffff"),
        (4, "deadlock: .* wait in __syncthreads at .* for the block .* wait in __syncwarp at .* for the lanes ffffffff"),
    ],
)
def test_divergence_is_refused(kernels, kind, message):
    import re

    for seed in range(5):
        kernels.cuda_emulator_seed(seed)
        assert re.search(message, kernels.diverge(kind).decode())
    assert sums(kernels, 0, 0)  # and the next launch is a fresh one


@pytest.mark.parametrize("threads", [32, 64, 75])
def test_warp_operations(kernels, threads):
    out, lane = np.zeros((9, 32), np.int32), np.arange(32)
    assert kernels.warp_operations(threads, pointer(out)) == b""
    expected = [
        (lane // 8 * 8 + 7) * 3,
        (lane ^ 5) * 3,
        np.where(lane % 16 >= 2, lane - 2, lane) * 3,
        np.where(lane % 16 < 13, lane + 3, lane) * 3,
        np.full(32, sum(1 << i for i in range(0, 32, 3))),
        np.array([sum(1 << i for i in range(j % 4, 32, 4)) for j in range(32)]),
        np.where(lane % 2, 31, -1),
        np.ones(32),
        np.ones(32),
    ]
    for row, values in zip(out, expected, strict=True):
        assert row.astype(np.uint32).tolist() == [int(v) & 0xFFFFFFFF for v in values]


def test_shared_memory_holds_rubbish_at_first(kernels):
    seen = set()
    for _ in range(10):
        out = np.zeros(32, np.int32)
        assert kernels.uninitialised(pointer(out)) == b"" and (out != 0).any()
        seen.add(out.tobytes())
    assert len(seen) > 1


def test_dynamic_shared_memory(kernels):
    out = np.zeros(1, np.int32)
    assert kernels.dynamic_memory(4096, False, 4096, pointer(out)) == b"" and out[0] == 1023
    assert b"none was asked for" in kernels.dynamic_memory(0, False, 4096, pointer(out))
    assert kernels.dynamic_memory(100 << 10, False, 4096, pointer(out)) == b"invalid configuration argument"
    assert kernels.dynamic_memory(100 << 10, True, 100 << 10, pointer(out)) == b"" and out[0] == 25599
    assert kernels.dynamic_memory(300 << 10, True, 4096, pointer(out)) == b"invalid configuration argument"


def test_atomics(kernels):
    values = np.random.default_rng(0).integers(0, 10, 1000).astype(np.int32)
    bins, largest, total = np.zeros(10, np.int32), np.zeros(1, np.uint64), np.zeros(1, np.float32)
    assert kernels.histogram(pointer(values), 1000, pointer(bins), pointer(largest), pointer(total)) == b""
    assert np.array_equal(bins, np.bincount(values, minlength=10)) and total[0] == values.sum()
    assert int(largest[0]) == (9 << 32 | int(np.flatnonzero(values == 9)[-1]))


@pytest.mark.parametrize("size", [(1, 1, 1, 1, 1, 1), (7, 3, 2, 4, 5, 3), (100, 1, 1, 33, 1, 1)])
def test_every_thread_runs_once(kernels, size):
    visits = np.zeros(np.prod(size), np.int32)
    assert kernels.visit(*size, pointer(visits)) == b"" and (visits == 1).all()


@pytest.mark.parametrize("size", [(0, 1, 1, 1, 1, 1), (1, 65536, 1, 1, 1, 1), (1, 1, 1, 1025, 1, 1), (1, 1, 1, 1, 1, 65)])
def test_launches_beyond_the_device_are_refused(kernels, size):
    assert kernels.visit(*size, pointer(np.zeros(1, np.int32))) == b"invalid configuration argument"


def test_copies_to_the_host_are_seen_after_the_wait(kernels):
    before, after = ctypes.c_int(), ctypes.c_int()
    kernels.copy_back(77, ctypes.byref(before), ctypes.byref(after))
    assert before.value != 77 and after.value == 77


def test_cub(kernels):
    rng = np.random.default_rng(0)
    keys, values = rng.integers(-1000, 1000, 500), np.arange(500, dtype=np.int32)
    out, moved = np.empty_like(keys), np.empty_like(values)

    def sort(begin, end, missing=0):
        return kernels.sort_long(pointer(keys), pointer(out), pointer(values), pointer(moved), 500, begin, end, missing)

    assert sort(0, 64) == 0 and np.array_equal(moved, np.argsort(keys, kind="stable")) and np.array_equal(out, keys[moved])
    assert sort(3, 7) == 0 and np.array_equal(moved, np.argsort(keys >> 3 & 15, kind="stable")) and np.array_equal(out, keys[moved])
    assert sort(0, 64, 1) != 0 and sort(0, 65) != 0  # too little memory, too many bits
    floats = rng.standard_normal(500).astype(np.float32)
    sorted_floats = np.empty_like(floats)
    assert kernels.sort_float(pointer(floats), pointer(sorted_floats), pointer(values), pointer(moved), 500) == 0
    assert np.array_equal(sorted_floats, np.sort(floats))
    total, ones = np.zeros(3, np.int64), np.array([2**31 - 1, 1, 1], np.int32)
    assert kernels.sum_up(pointer(ones), pointer(total), 3, False) == 0 and total.tolist() == [2**31 - 1, -(2**31), 1 - 2**31]  # in int32, as CUB
    assert kernels.sum_up(pointer(ones), pointer(total), 3, True) == 0 and total.tolist() == [2**31 - 1, 2**31, 2**31 + 1]


def test_a_source_it_cannot_rewrite_is_refused():
    with pytest.raises(ValueError, match="expected <<< in a form"):
        rewrite("(table[0])<<<1, 2>>>(x);")
    lines = "a<b>(c);\n__global__ void f(\n  int x) {\n  __shared__ float s[2][3], t;\n}\nf<<<dim3(1,\n 2), 3>>>(\n  4);"
    assert rewrite(lines).count("\n") == lines.count("\n")

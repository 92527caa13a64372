"""Parity helpers: compiled against reference, and one thread against two."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import suite3d.ops as ops
from tests.ops import cuda_emulator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test runs first on the emulator builds it: half a minute of computing, on a busy machine far more of waiting."""
    for item in items:
        if "emulat" in item.nodeid:
            item.add_marker(pytest.mark.timeout(1500))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def compiled_cpu() -> None:
    if not ops.compiled("cpu"):
        pytest.skip(f"needs the compiled ops: {ops.load_errors()['cpu']}")


@contextlib.contextmanager
def running_on(backend: str) -> Iterator[str]:
    """Ops on CPU tensors run the compiled CPU kernels, the references, or the CUDA kernels in the emulator."""
    if backend == "reference":
        with ops.use_reference():
            yield backend
    elif backend == "emulated":
        if reason := cuda_emulator.why_not():
            pytest.skip(f"needs the CUDA emulator: {reason}")
        with cuda_emulator.emulated():
            yield backend
    else:
        if not ops.compiled("cpu"):
            pytest.skip(f"needs the compiled ops: {ops.load_errors()['cpu']}")
        yield backend


@pytest.fixture(params=["compiled", "reference", "emulated"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on the compiled kernels, on the references, and on the CUDA kernels."""
    with running_on(request.param) as name:
        yield name


@pytest.fixture(params=["compiled", "reference"])
def host_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """As ``backend``, for refusals of values that only kernels on the host read: CUDA kernels do not wait for the device to say no."""
    with running_on(request.param) as name:
        yield name


def assert_same(compute: Callable[[], tuple[Tensor, ...]], *, atol: float = 0.0, rtol: float = 0.0) -> None:
    """``compute()`` gives the same on compiled kernels as on references, and bit for bit the same on one thread as on two."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = compute()
        torch.set_num_threads(2)
        two = compute()
    finally:
        torch.set_num_threads(before)
    with ops.use_reference():
        slow = compute()
    for first, second, expected in zip(one, two, slow, strict=True):
        assert torch.equal(first.nan_to_num(nan=12345.0), second.nan_to_num(nan=12345.0))
        torch.testing.assert_close(first, expected, atol=atol, rtol=rtol, equal_nan=True)


def random_coords(shape: tuple[int, int, int], batch_size: int, count: int, generator: torch.Generator) -> Tensor:
    """``(<= count, 4)`` int32 distinct sorted voxels."""
    z, y, x = shape
    keys = torch.randperm(batch_size * z * y * x, generator=generator)[:count].sort().values
    return torch.stack([keys // (z * y * x), keys // (y * x) % z, keys // x % y, keys % x], dim=1).int()


@pytest.fixture
def same() -> Callable[..., None]:
    return assert_same


@pytest.fixture
def coords_of() -> Callable[..., Tensor]:
    return random_coords

"""Which kernels run a sparse convolution on CUDA: the compiled ones, or Triton's on the tensor cores."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from suite3d.ops import library
from suite3d.ops.checks import expect
from suite3d.ops.sparse import implicit_gemm

Backend = Literal["auto", "cuda", "triton"]
Question = TypeVar("Question", bound=Callable[..., object])
TENSOR_CORES = (8, 0)  # compute capability from which Triton multiplies bfloat16 and TF32 on tensor cores
_chosen: list[Backend] = ["auto"]


def _constant(function: Question) -> Question:
    """``torch.compile`` asks it once, as with ``torch.compiler.assume_constant_result``, whose call would import the compiler at every start."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def set_backend(name: Backend) -> Backend:
    """Choose the kernels of :func:`sparse_conv` for CUDA tensors, for this process.

    ``"auto"``: Triton for float16 and bfloat16, and for float32 where TF32 is allowed (``torch.backends.cuda.matmul.fp32_precision == "tf32"``,
    which ``torch.set_float32_matmul_precision("high")`` sets) or no CUDA library is compiled; the compiled CUDA kernel for other float32, and
    wherever triton is not installed or the GPU is older than compute capability 8.0. Which of the two is faster for float32 as it is has not been
    measured. ``"cuda"``: always the compiled kernel, in float32. ``"triton"``: Triton, also for float32 as it is; on CPU tensors too under
    triton's interpreter (``TRITON_INTERPRET=1``). float64 and kernels of more than 63 offsets take the way that they take without Triton.

    Returns:
        The former setting.

    Raises:
        ValueError: another name, or kernels that this installation does not have.
    """
    expect(name in get_args(Backend), f"backend: expected one of {', '.join(get_args(Backend))}, got {name!r}")
    if name == "triton":
        problem = _not_installed()
        expect(not problem, f"backend 'triton': {problem}")
    if name == "cuda":
        problem = library.load_errors().get("cuda", "")
        expect(not problem, f"backend 'cuda': {problem}")
    before = _chosen[0]
    _chosen[0] = name
    return before


def runs_triton(feats: Tensor, volume: int) -> bool:
    """Whether :func:`sparse_conv` of these features over ``volume`` offsets runs Triton's kernels; ValueError where it was told to and cannot."""
    fits = feats.dtype in (torch.float16, torch.bfloat16, torch.float32) and volume <= implicit_gemm.MAX_VOLUME
    if library.reference_forced() or _chosen[0] == "cuda" or not fits:
        return False
    if feats.device.type != "cuda":
        return _chosen[0] == "triton" and _interpreted()
    problem = _problem(feats.device.index)
    if _chosen[0] == "triton":
        expect(not problem, f"backend 'triton': {problem}")
        return True
    return not problem and (feats.dtype != torch.float32 or tf32_allowed() or not library.compiled("cuda"))


@_constant
def tf32_allowed() -> bool:
    """Whether float32 matrix products may be rounded to TF32; ``torch.compile`` reads it when it traces."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


@functools.cache
def _not_installed() -> str:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: it comes with the CUDA builds of torch on Linux, or `pip install triton`"
    return ""


@_constant
def _problem(index: int) -> str:
    """Why Triton does not serve this GPU; empty where it does."""
    capability = torch.cuda.get_device_capability(index)
    if capability < TENSOR_CORES:
        return f"expected a GPU of compute capability 8.0 or later, got {capability[0]}.{capability[1]}: choose 'cuda' or 'auto'"
    return _not_installed()


@_constant
def _interpreted() -> bool:
    from suite3d.ops.sparse.implicit_gemm import launch

    return launch.interpreted()

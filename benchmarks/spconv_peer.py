"""spconv 2.3 beside our sparse convolutions: the same layers on the same voxels. Everything is empty where spconv does not import.

On a CPU its native algorithm runs (the only one there), which asks for a CUDA stream that is not: 0 is given. Its scatter races where OpenMP gives
it two threads, so results are right with ``OMP_NUM_THREADS=1`` only; its times are taken with any number.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[], object]
STAGES = ((16, 16), (16, 32), (32, 64), (64, 64))
"""Channels of the four levels of SECOND's encoder; the first does not stride."""


def load(device: torch.device) -> Any:
    """``spconv.pytorch``, ready for the device; None where it does not import."""
    try:
        spconv = importlib.import_module("spconv.pytorch")
        parts = [importlib.import_module(f"spconv.pytorch.{name}") for name in ("cppcore", "ops", "utils")]
    except (ImportError, OSError):
        return None
    if device.type == "cpu":
        for part in parts:
            part.get_current_stream = lambda: 0  # type: ignore[attr-defined]
    return spconv


def algorithm(spconv: Any, device: torch.device) -> dict[str, Any]:
    """Keyword of a layer: the native algorithm on a CPU, spconv's own choice elsewhere."""
    return {"algo": spconv.ConvAlgo.Native} if device.type == "cpu" else {}


def layer_runs(coords: Tensor, shape: tuple[int, ...], feats: Tensor, grad: Tensor) -> tuple[Run, Run] | None:
    """Forward, and forward with backward, of a submanifold layer whose map is kept."""
    spconv = load(feats.device)
    if spconv is None:
        return None
    width = feats.shape[1]
    layer = spconv.SubMConv3d(width, width, 3, bias=False, indice_key="kept", **algorithm(spconv, feats.device)).to(feats.device, feats.dtype)
    kept = layer(spconv.SparseConvTensor(feats, coords, list(shape), 1)).indice_dict

    def run() -> Tensor:
        result: Tensor = layer(spconv.SparseConvTensor(feats, coords, list(shape), 1, indice_dict=kept)).features
        return result

    def forward() -> Tensor:
        with torch.no_grad():
            return run()

    return forward, lambda: torch.autograd.grad(run(), [feats, layer.weight], grad)


def map_run(coords: Tensor, shape: tuple[int, ...]) -> Run | None:
    """The pairs of a submanifold layer of 3 x 3 x 3."""
    spconv = load(coords.device)
    if spconv is None:
        return None
    ones, zeros = [1, 1, 1], [0, 0, 0]
    pairs = importlib.import_module("spconv.pytorch.ops").get_indice_pairs
    return lambda: pairs(coords, 1, list(shape), spconv.ConvAlgo.Native, [3, 3, 3], ones, ones, ones, zeros, subm=True)


def voxel_run(scan: Tensor, point_range: tuple[float, ...], voxel_size: tuple[float, ...]) -> Run | None:
    """Hard voxels of a scan, 5 points each."""
    if load(scan.device) is None:
        return None
    maker = importlib.import_module("spconv.pytorch.utils").PointToVoxel(
        list(voxel_size), list(point_range), scan.shape[1], 150000, 5, device=scan.device
    )
    return lambda: maker(scan)


def encoder_run(coords: Tensor, shape: tuple[int, ...], feats: Tensor, dtype: torch.dtype = torch.float32) -> Run | None:
    """Forward and backward of SECOND's encoder (Yan et al., 2018, as OpenPCDet sizes it), maps included, loss on every level."""
    spconv = load(feats.device)
    if spconv is None:
        return None
    how = algorithm(spconv, feats.device)

    def block(layer: nn.Module, channels: int) -> Any:
        return spconv.SparseSequential(layer, nn.BatchNorm1d(channels, eps=1e-3, momentum=0.01), nn.ReLU())

    def same(cin: int, cout: int, key: str) -> Any:
        return block(spconv.SubMConv3d(cin, cout, 3, padding=1, bias=False, indice_key=key, **how), cout)

    levels = [spconv.SparseSequential(same(feats.shape[1], 16, "0"), same(16, 16, "0"))]
    for number, (cin, cout) in enumerate(STAGES[1:], 1):
        padding = (0, 1, 1) if number == 3 else 1
        down = block(spconv.SparseConv3d(cin, cout, 3, stride=2, padding=padding, bias=False, **how), cout)
        levels.append(spconv.SparseSequential(down, same(cout, cout, str(number)), same(cout, cout, str(number))))
    levels.append(block(spconv.SparseConv3d(64, 128, (3, 1, 1), stride=(2, 1, 1), bias=False, **how), 128))
    network = nn.ModuleList(levels).to(feats.device).train()

    def step() -> None:
        with torch.autocast(feats.device.type, dtype=dtype, enabled=dtype is not torch.float32):
            tensor, losses = spconv.SparseConvTensor(feats, coords, list(shape), 1), []
            for level in network:
                tensor = level(tensor)
                losses.append(tensor.features.float().square().mean())
        torch.stack(losses).sum().backward()
        network.zero_grad(set_to_none=True)

    return step

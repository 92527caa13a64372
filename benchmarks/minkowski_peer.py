"""MinkowskiEngine 0.5 beside our sparse convolutions, on the same voxels. Everything is empty where it does not import."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from spconv_peer import STAGES
from torch import Tensor, nn

Run = Callable[[], object]


def load() -> Any:
    """``MinkowskiEngine``; None where it does not import."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it was built without CUDA
            return importlib.import_module("MinkowskiEngine")
    except (ImportError, OSError):
        return None


def layer_runs(coords: Tensor, feats: Tensor, grad: Tensor) -> tuple[Run, Run] | None:
    """Forward, and forward with backward, of a 3 x 3 x 3 layer whose map is kept."""
    engine = load()
    if engine is None:
        return None
    width = feats.shape[1]
    layer = engine.MinkowskiConvolution(width, width, kernel_size=3, bias=False, dimension=3)
    first = engine.SparseTensor(feats.detach(), coords)
    sites = {"coordinate_map_key": first.coordinate_map_key, "coordinate_manager": first.coordinate_manager}

    def run() -> Tensor:
        result: Tensor = layer(engine.SparseTensor(feats, **sites)).F
        return result

    def forward() -> Tensor:
        with torch.no_grad():
            return run()

    return forward, lambda: torch.autograd.grad(run(), [feats, layer.kernel], grad)


def encoder_run(coords: Tensor, feats: Tensor) -> Run | None:
    """As :func:`spconv_peer.encoder_run`, on a CPU in float32.

    Its strided layers have an output only where an input falls into the cell, spconv's and ours also where a kernel reaches one: it has the
    fewer voxels in the coarser levels, and less to do.
    """
    engine = load()
    if engine is None or feats.device.type != "cpu":
        return None

    def block(cin: int, cout: int, kernel: int | list[int] = 3, stride: int | list[int] = 1) -> nn.Sequential:
        layer = engine.MinkowskiConvolution(cin, cout, kernel_size=kernel, stride=stride, bias=False, dimension=3)
        return nn.Sequential(layer, engine.MinkowskiBatchNorm(cout, eps=1e-3, momentum=0.01), engine.MinkowskiReLU())

    levels = [nn.Sequential(block(feats.shape[1], 16), block(16, 16))]
    levels += [nn.Sequential(block(cin, cout, stride=2), block(cout, cout), block(cout, cout)) for cin, cout in STAGES[1:]]
    levels.append(block(64, 128, [3, 1, 1], [2, 1, 1]))
    network = nn.ModuleList(levels).train()

    def step() -> None:
        tensor, losses = engine.SparseTensor(feats, coords), []
        for level in network:
            tensor = level(tensor)
            losses.append(tensor.F.square().mean())
        torch.stack(losses).sum().backward()
        network.zero_grad(set_to_none=True)

    return step

"""MinkowskiEngine 0.5 beside our submanifold convolution: the same layer on the same voxels, where it imports."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

Run = Callable[[], object]


def layer_runs(coords: Tensor, feats: Tensor, grad: Tensor) -> tuple[Run, Run] | None:
    """Forward, and forward with backward, of a 3 x 3 x 3 layer whose map is kept; None where it does not import."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it was built without CUDA
            engine = importlib.import_module("MinkowskiEngine")
    except (ImportError, OSError):
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

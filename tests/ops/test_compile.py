"""Every op traces into one graph: a fake kernel for each, and no public function that breaks the graph around it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from suite3d import ops
from suite3d.ops import library

GRID = ((0.0, 0.0, 0.0, 4.0, 4.0, 4.0), (0.5, 0.5, 0.5))
ENDS = torch.tensor([0, 50, 200])


def points() -> Tensor:
    return torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 4


def boxes(xyz: Tensor) -> Tensor:
    """Boxes around some of the points."""
    turned = xyz[:40].sum(1, keepdim=True)
    return torch.cat([xyz[:40], xyz.new_ones(40, 3), turned], dim=1)


def convolve(xyz: Tensor, kind: str) -> Tensor:
    coords = torch.cartesian_prod(*map(torch.arange, (1, 4, 4, 4))).int()
    shape = {"spatial_shape": (4, 4, 4), "batch_size": 1, "kernel": (3, 3, 3)}
    table = ops.submanifold_map(coords, **shape) if kind == "submanifold" else ops.strided_map(coords, **shape, stride=(2, 2, 2), padding=(1, 1, 1))
    return ops.sparse_conv(xyz[:64], xyz.new_ones(5, 3, 3, 3, 3), None, table)


def pool_voxels(xyz: Tensor) -> tuple[Tensor, Tensor]:
    coords = torch.cartesian_prod(*map(torch.arange, (1, 4, 4, 4))).int()
    voxels = ops.SparseTensor(coords=coords, feats=xyz[:64], spatial_shape=(4, 4, 4), batch_size=1)
    return ops.roi_grid_pool_voxels(boxes(xyz), voxels, start=(0.0, 0.0, 0.0), voxel_size=(1.0, 1.0, 1.0), grid_size=2, distance=2, k=4)


# Public function on (200, 3) points -> the ops of the graph.
CASES: dict[str, tuple[Callable[[Tensor], object], set[str]]] = {
    "ball_query": (lambda x: ops.ball_query(x, x, 0.5, 4, query_offsets=ENDS, point_offsets=ENDS), {"ball_query"}),
    "box_iou_3d": (lambda x: ops.box_iou_3d(boxes(x), boxes(x)), {"box_iou"}),
    "box_iou_bev": (lambda x: ops.box_iou_bev(boxes(x), boxes(x)), {"box_iou"}),
    "box_overlap_bev": (lambda x: ops.box_overlap_bev(boxes(x), boxes(x)), {"box_iou"}),
    "chamfer_distance": (lambda x: ops.chamfer_distance(x[:90], x[90:])[0].sum(), {"chamfer"}),
    "curve_codes": (lambda x: ops.curve_codes((x * 9).int(), "hilbert"), {"curve_codes"}),
    "curve_codes, batch": (lambda x: ops.curve_codes((x * 9).int(), batch=x[:, 0].int()), {"curve_codes"}),
    "curve_order": (lambda x: ops.curve_order((x * 9).int(), "z-trans", offsets=ENDS), {"curve_order"}),
    "dynamic_voxelize": (lambda x: ops.dynamic_voxelize(x, ENDS, *GRID), {"dynamic_voxelize"}),
    "furthest_point_sample": (lambda x: ops.furthest_point_sample(x, ENDS, 9), {"furthest_point_sample"}),
    "hard_voxelize": (lambda x: ops.hard_voxelize(x, x[:, :1], ENDS, *GRID, max_points=3, max_voxels=40), {"hard_voxelize"}),
    "knn": (lambda x: ops.knn(x, x, 4, query_offsets=ENDS, point_offsets=ENDS), {"knn"}),
    "nms_rotated": (lambda x: ops.nms_rotated(boxes(x), x[:40, 0], 0.1), {"nms_rotated"}),
    "points_in_boxes": (lambda x: ops.points_in_boxes(x, boxes(x)), {"points_in_boxes"}),
    "points_in_boxes_mask": (lambda x: ops.points_in_boxes_mask(x, boxes(x)), {"points_in_boxes_mask"}),
    "scatter_max": (lambda x: ops.scatter_max(x, x[:, 0].long(), 4), {"scatter_max"}),
    "scatter_mean": (lambda x: ops.scatter_mean(x, x[:, 0].long(), 4), {"scatter_sum"}),
    "scatter_sum": (lambda x: ops.scatter_sum(x, x[:, 0].long(), 4), {"scatter_sum"}),
    "three_interpolate": (lambda x: ops.three_interpolate(x, x[:50], x[:50]), {"knn"}),
    "group_points": (lambda x: ops.group_points(x, x, x, ops.ball_query(x, x, 0.5, 4)[0]), {"ball_query", "group_points"}),
    "roi_grid_points": (lambda x: ops.roi_grid_points(boxes(x), 3), set()),
    "roi_grid_pool": (lambda x: ops.roi_grid_pool(boxes(x), x, x, grid_size=2, radius=0.5, k=4), {"ball_query", "group_points"}),
    "roi_grid_pool_voxels": (lambda x: pool_voxels(x), {"voxel_query", "group_points"}),
    "traverse_voxels": (lambda x: ops.traverse_voxels(x, x.flip(0), *GRID, offsets=ENDS), {"traverse_voxels"}),
    "submanifold_map, sparse_conv": (lambda x: convolve(x, "submanifold"), {"submanifold_map", "sparse_conv"}),
    "strided_map, sparse_conv": (lambda x: convolve(x, "strided"), {"strided_map", "sparse_conv"}),
}


def flat(result: object) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


@pytest.mark.parametrize("name", CASES)
def test_is_one_graph(name, compiled_cpu):
    function, expected = CASES[name]
    seen: set[str] = set()

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        for node in graph.graph.nodes:
            namespace, _, name = str(node.target).partition(".")  # an overload or all of them: "suite3d.knn.default", "suite3d.knn"
            if namespace == library.NAMESPACE:
                seen.add(name.partition(".")[0])
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)  # through the fake kernels

    torch.compiler.reset()
    eager, xyz = flat(function(points())), points()
    torch._dynamo.maybe_mark_dynamic(xyz, 0)  # with a size that is not known
    compiled = flat(torch.compile(function, fullgraph=True, backend=backend)(xyz))
    assert seen == expected  # the ops are in the graph, not their references
    for got, want in zip(compiled, eager, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", ["ball_query", "curve_order", "dynamic_voxelize", "hard_voxelize", "roi_grid_pool", "traverse_voxels"])
def test_numbers_may_be_unknown_too(name, compiled_cpu):
    """``dynamic=True`` takes the floats of a closure (ranges, radii) for unknown as well."""
    torch.compiler.reset()
    traced = flat(torch.compile(CASES[name][0], fullgraph=True, backend="aot_eager", dynamic=True)(points()))
    for got, want in zip(traced, flat(CASES[name][0](points())), strict=True):
        assert torch.equal(got, want)


GRADIENTS = {
    "roi_grid_pool": lambda x: ops.roi_grid_pool(boxes(x.detach()), x.detach(), x, grid_size=2, radius=0.5, k=4)[0].square().sum(),
    "chamfer_distance": lambda x: ops.chamfer_distance(x[:90], x[90:])[0].sum(),
    "scatter_sum": lambda x: ops.scatter_sum(x, torch.arange(200) % 7, 7).square().sum(),
    "scatter_max": lambda x: ops.scatter_max(x, torch.arange(200) % 7, 7).square().sum(),
    "sparse_conv": lambda x: convolve(x, "strided").square().sum(),
    "three_interpolate": lambda x: ops.three_interpolate(x.detach(), x[:50].detach(), x[:50]).square().sum(),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_trace_too(name, compiled_cpu):
    torch.compiler.reset()
    grads = []
    for function in (GRADIENTS[name], torch.compile(GRADIENTS[name], fullgraph=True, backend="aot_eager")):
        xyz = points().requires_grad_()
        function(xyz).backward()
        grads.append(xyz.grad)
    torch.testing.assert_close(grads[1], grads[0])


# Ops of the Triton kernels; ``implicit_gemm_cases.py`` traces them where triton is.
TRITON = {"implicit_gemm", "implicit_gemm_plan", "implicit_gemm_pairs", "implicit_gemm_input_grad", "implicit_gemm_weight_grad"}
# Ops that only the backward pass of another runs.
BACKWARD = {"chamfer_backward", "group_points_backward", "sparse_conv_input_grad", "sparse_conv_weight_grad"}


def test_no_op_is_forgotten():
    assert set(library.defined()) - BACKWARD - TRITON == set().union(*(names for _, names in CASES.values()))
    for name in library.defined():
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"{library.NAMESPACE}::{name}", "Meta") or (
            torch._library.simple_registry.singleton.find(f"{library.NAMESPACE}::{name}").fake_impl.kernel is not None
        ), f"{name} has no fake kernel"

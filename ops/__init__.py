"""Compiled ops and the sparse tensor. Every op has a plain torch reference that runs where nothing is compiled."""

from suite3d.ops.boxes import box_iou_3d, box_iou_bev, box_overlap_bev, nms_rotated, points_in_boxes, points_in_boxes_mask
from suite3d.ops.chamfer import chamfer_distance
from suite3d.ops.curves import curve_codes, curve_order
from suite3d.ops.grouping import group_points, voxel_query
from suite3d.ops.library import compiled, load_errors, use_reference
from suite3d.ops.neighbors import ball_query, knn, three_interpolate
from suite3d.ops.rays import traverse_voxels
from suite3d.ops.roi import roi_grid_points, roi_grid_pool, roi_grid_pool_voxels
from suite3d.ops.sampling import furthest_point_sample
from suite3d.ops.scatter import scatter_max, scatter_mean, scatter_sum
from suite3d.ops.sparse import (
    KernelMap,
    SparseConv3d,
    SparseInverseConv3d,
    SparseModule,
    SparseSequential,
    SparseTensor,
    SubMConv3d,
    sparse_conv,
    strided_map,
    submanifold_map,
)
from suite3d.ops.voxelize import dynamic_voxelize, grid_cells, hard_voxelize

__all__ = [
    "KernelMap",
    "SparseConv3d",
    "SparseInverseConv3d",
    "SparseModule",
    "SparseSequential",
    "SparseTensor",
    "SubMConv3d",
    "ball_query",
    "box_iou_3d",
    "box_iou_bev",
    "box_overlap_bev",
    "chamfer_distance",
    "compiled",
    "curve_codes",
    "curve_order",
    "dynamic_voxelize",
    "furthest_point_sample",
    "grid_cells",
    "group_points",
    "hard_voxelize",
    "knn",
    "load_errors",
    "nms_rotated",
    "points_in_boxes",
    "points_in_boxes_mask",
    "roi_grid_points",
    "roi_grid_pool",
    "roi_grid_pool_voxels",
    "scatter_max",
    "scatter_mean",
    "scatter_sum",
    "sparse_conv",
    "strided_map",
    "submanifold_map",
    "three_interpolate",
    "traverse_voxels",
    "use_reference",
    "voxel_query",
]

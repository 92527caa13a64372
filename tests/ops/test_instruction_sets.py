"""The geometry kernels give the same bits on every instruction set."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from suite3d import ops


def digest() -> str:
    """Hash of what every geometry op returns on a fixed scene."""
    generator = torch.Generator().manual_seed(0)
    points = torch.cat([torch.randn(3000, 3, generator=generator), torch.randn(3000, 3, generator=generator).round()])
    query = torch.randn(500, 3, generator=generator)
    ends, query_ends = torch.tensor([0, 100, 6000]), torch.tensor([0, 40, 500])
    low, high = torch.tensor([-3.0, -3, -1, 0.1, 0.1, 0.1, -9]), torch.tensor([3.0, 3, 1, 3, 2, 2, 9])
    boxes = low + torch.rand(90, 7, generator=generator) * (high - low)
    results = [
        ops.furthest_point_sample(points, ends, torch.tensor([90, 1200])),
        *ops.knn(query, points, 11, query_offsets=query_ends, point_offsets=ends),
        *ops.knn(points, points, 3),
        *ops.ball_query(query, points, 0.4, 9),
        *ops.chamfer_distance(query, points),
        ops.points_in_boxes(points, boxes),
        ops.points_in_boxes_mask(points, boxes),
        ops.box_overlap_bev(boxes, boxes),
        ops.box_iou_bev(boxes, boxes),
        ops.box_iou_3d(boxes, boxes[:7]),
        ops.nms_rotated(boxes, boxes[:, 0], 0.1),
        *ops.dynamic_voxelize(points, ends, [-2.0, -2.0, -2.0, 2.0, 2.0, 2.0], [0.1, 0.1, 0.2]),
        *(ops.curve_codes((points * 1000).int() + 2**15, curve) for curve in ("z", "hilbert-trans")),
    ]
    return hashlib.sha256(b"".join(result.numpy().tobytes() for result in results)).hexdigest()


@pytest.mark.parametrize("level", ["any", "avx2"])
def test_same_bits_on_every_instruction_set(level, compiled_cpu):
    code = f"import runpy; print(runpy.run_path({str(Path(__file__))!r})['digest']())"
    environment = {**os.environ, "SUITE3D_ISA": level, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == digest()

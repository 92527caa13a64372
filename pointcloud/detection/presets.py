"""The published configurations: what the encoder's grid, the neck and the head must be for a known result.

The voxel presets go with ``VoxelBackBone8x`` (KITTI) and ``VoxelResBackBone8x`` (nuScenes), the pillar preset with a pillar encoder of
64 channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from suite3d.pointcloud.detection.centerpoint import CenterHeadConfig
from suite3d.pointcloud.detection.detector import CenterPointConfig, SecondConfig
from suite3d.pointcloud.detection.neck import NeckConfig

KITTI_CLASSES = ("Car", "Pedestrian", "Cyclist")
NUSCENES_CLASSES = (
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)
NUSCENES_GROUPS = (
    ("car",),
    ("truck", "construction_vehicle"),
    ("bus", "trailer"),
    ("barrier",),
    ("motorcycle", "bicycle"),
    ("pedestrian", "traffic_cone"),
)


@dataclass(frozen=True, kw_only=True)
class DetectorPreset:
    """A published detector configuration.

    Attributes:
        kind, class_names, config: arguments of :func:`build_detector`.
        point_range, voxel_size: of the encoder's grid, metres.
        channels: point channels of the encoder after xyz.
    """

    kind: Literal["second", "centerpoint"]
    class_names: tuple[str, ...]
    point_range: tuple[float, float, float, float, float, float]
    voxel_size: tuple[float, float, float]
    channels: tuple[str, ...]
    config: SecondConfig | CenterPointConfig


def kitti_second() -> DetectorPreset:
    """SECOND on KITTI, three classes (OpenPCDet kitti_models/second.yaml)."""
    return DetectorPreset(
        kind="second",
        class_names=KITTI_CLASSES,
        point_range=(0.0, -40.0, -3.0, 70.4, 40.0, 1.0),
        voxel_size=(0.05, 0.05, 0.1),
        channels=("intensity",),
        config=SecondConfig(),
    )


def nuscenes_centerpoint_voxel() -> DetectorPreset:
    """CenterPoint with 0.075 m voxels on nuScenes, ten classes in six heads (cbgs_voxel0075_res3d_centerpoint.yaml)."""
    return DetectorPreset(
        kind="centerpoint",
        class_names=NUSCENES_CLASSES,
        point_range=(-54.0, -54.0, -5.0, 54.0, 54.0, 3.0),
        voxel_size=(0.075, 0.075, 0.2),
        channels=("intensity", "time"),
        config=CenterPointConfig(head=CenterHeadConfig(groups=[list(group) for group in NUSCENES_GROUPS], center_margin=7.2)),
    )


def nuscenes_centerpoint_pillar() -> DetectorPreset:
    """CenterPoint with 0.2 m pillars on nuScenes, ten classes in six heads (cbgs_dyn_pp_centerpoint.yaml)."""
    neck = NeckConfig(
        layer_nums=(3, 5, 5),
        layer_strides=(2, 2, 2),
        num_filters=(64, 128, 256),
        upsample_strides=(0.5, 1.0, 2.0),
        num_upsample_filters=(128, 128, 128),
    )
    return DetectorPreset(
        kind="centerpoint",
        class_names=NUSCENES_CLASSES,
        point_range=(-51.2, -51.2, -5.0, 51.2, 51.2, 3.0),
        voxel_size=(0.2, 0.2, 8.0),
        channels=("intensity", "time"),
        config=CenterPointConfig(neck=neck, head=CenterHeadConfig(groups=[list(group) for group in NUSCENES_GROUPS])),
    )

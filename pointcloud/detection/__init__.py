"""LiDAR object detection: SECOND and CenterPoint."""

from suite3d.pointcloud.detection.anchors import AnchorConfig
from suite3d.pointcloud.detection.centerpoint import CenterHeadConfig
from suite3d.pointcloud.detection.detections import Detections
from suite3d.pointcloud.detection.detector import CenterPointConfig, Detector, SecondConfig, build_detector
from suite3d.pointcloud.detection.neck import NeckConfig
from suite3d.pointcloud.detection.presets import DetectorPreset, kitti_second, nuscenes_centerpoint_pillar, nuscenes_centerpoint_voxel
from suite3d.pointcloud.detection.second import AnchorHeadConfig

__all__ = [
    "AnchorConfig",
    "AnchorHeadConfig",
    "CenterHeadConfig",
    "CenterPointConfig",
    "Detections",
    "Detector",
    "DetectorPreset",
    "NeckConfig",
    "SecondConfig",
    "build_detector",
    "kitti_second",
    "nuscenes_centerpoint_pillar",
    "nuscenes_centerpoint_voxel",
]

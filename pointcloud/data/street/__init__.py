"""Procedural streets: LiDAR sweeps, camera pictures, boxes, tracks, labels, poses and flow of one scene."""

from suite3d.pointcloud.data.street.config import StreetConfig
from suite3d.pointcloud.data.street.shapes import CLASS_NAMES, POINT_CLASSES
from suite3d.pointcloud.data.street.world import StreetWorld

__all__ = ["CLASS_NAMES", "POINT_CLASSES", "StreetConfig", "StreetWorld"]

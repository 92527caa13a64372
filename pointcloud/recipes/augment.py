"""Augmentation of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from suite3d.pointcloud.data.transforms import BeamDropout, PointDropout, RandomFlip, RandomScale, RandomShift, RandomYaw, ShufflePoints, Transform


@dataclass(kw_only=True)
class AugmentConfig:
    """Global augmentations; each is off at its zero.

    Attributes:
        flip_x, flip_y: mirror the x axis (y -> -y) or the y axis with probability 1/2.
        yaw: rotation by up to this many radians either way.
        scale: global scale in [1 - scale, 1 + scale].
        shift: standard deviation of a global translation (x, y, z), metres.
        point_dropout: up to this share of the points removed.
        beam_dropout: up to this share of the beams removed.
        shuffle: random order of the points (matters where only the first points of a voxel are used).
    """

    flip_x: bool = True
    flip_y: bool = False
    yaw: float = 0.78539816
    scale: float = 0.05
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    point_dropout: float = 0.0
    beam_dropout: float = 0.0
    shuffle: bool = False


def build_transforms(config: AugmentConfig) -> list[Transform]:
    """The transforms in the order they are applied."""
    transforms: list[Transform] = []
    if config.flip_x:
        transforms.append(RandomFlip(axis="x"))
    if config.flip_y:
        transforms.append(RandomFlip(axis="y"))
    if config.yaw > 0:
        transforms.append(RandomYaw(low=-config.yaw, high=config.yaw))
    if config.scale > 0:
        transforms.append(RandomScale(low=1 - config.scale, high=1 + config.scale))
    if any(config.shift):
        transforms.append(RandomShift(std=config.shift))
    if config.point_dropout > 0:
        transforms.append(PointDropout(high=config.point_dropout))
    if config.beam_dropout > 0:
        transforms.append(BeamDropout(high=config.beam_dropout))
    if config.shuffle:
        transforms.append(ShufflePoints())
    return transforms

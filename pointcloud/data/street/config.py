"""Knobs of the street world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(kw_only=True)
class StreetConfig:
    """What the street world generates.

    Attributes:
        seed: every frame is a pure function of (seed, split, sequence, frame).
        train_sequences, val_sequences: drives per split; the splits share none.
        frames: frames per drive.
        frame_rate: frames a second (Hz).
        beams, elevation_low, elevation_high: beam table, evenly spaced, degrees.
        elevations: explicit beam table in degrees, ascending; overrides the three above when not empty.
        azimuths: firings a revolution.
        min_range, max_range: metres.
        sensor_height: LiDAR above the road, metres.
        range_noise: standard deviation of the range, metres.
        dropout: share of returns lost at random, on top of what material and distance cost.
        intensity_noise: standard deviation of the intensity.
        parked, traffic, pedestrians, cyclists, vegetation, clutter: densities, 1 = an ordinary city street, 0 = none.
        min_points: a box with fewer points is dropped.
        keep_empty: keep every box within ``max_range`` or with returns, whatever ``min_points``.
        images: render the camera with every frame (``meta["image"]``); ``StreetWorld.image`` renders on demand.
        image_width, image_height: pixels; the focal length scales with the width (721.5 px at 1242, as KITTI).
        threads: threads of the ray caster within one frame; the result does not depend on it.
    """

    seed: int = 0
    train_sequences: int = 40
    val_sequences: int = 10
    frames: int = 20
    frame_rate: float = 10.0
    beams: int = 64
    elevation_low: float = -24.8
    elevation_high: float = 2.0
    elevations: tuple[float, ...] = ()
    azimuths: int = 1024
    min_range: float = 1.5
    max_range: float = 80.0
    sensor_height: float = 1.73
    range_noise: float = 0.02
    dropout: float = 0.02
    intensity_noise: float = 0.02
    parked: float = 1.0
    traffic: float = 1.0
    pedestrians: float = 1.0
    cyclists: float = 1.0
    vegetation: float = 1.0
    clutter: float = 1.0
    min_points: int = 1
    keep_empty: bool = False
    images: bool = False
    image_width: int = 1242
    image_height: int = 375
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("frames", "beams", "azimuths", "image_width", "image_height", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"street.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("seed", "train_sequences", "val_sequences", "range_noise", "dropout", "intensity_noise", "min_points"):
            if getattr(self, name) < 0:
                raise ValueError(f"street.{name} must not be negative, got {getattr(self, name)}")
        for name in ("parked", "traffic", "pedestrians", "cyclists", "vegetation", "clutter"):
            if not 0 <= getattr(self, name) <= 3:
                raise ValueError(f"street.{name} is a density between 0 and 3, got {getattr(self, name)}")
        if self.frame_rate <= 0:
            raise ValueError(f"street.frame_rate must be positive, got {self.frame_rate}")
        if not 0 < self.min_range < self.max_range:
            raise ValueError(f"street needs 0 < min_range < max_range, got {self.min_range} and {self.max_range}")
        table = self.beam_table()
        if np.any(np.diff(table) <= 0) or np.any(np.abs(table) >= np.pi / 2):
            raise ValueError(f"street beam elevations must ascend within (-90, 90) degrees, got {np.degrees(table).round(2).tolist()}")

    def beam_table(self) -> NDArray[np.float64]:
        """``(beams,)`` elevations in radians, ascending; row r is ring r."""
        if self.elevations:
            return np.radians(np.asarray(self.elevations, dtype=np.float64))
        return np.radians(np.linspace(self.elevation_low, self.elevation_high, self.beams))

    def sequences(self, split: str) -> int:
        """Drives in a split ("train" or "val")."""
        if split not in ("train", "val"):
            raise ValueError(f'the street world has the splits "train" and "val", got "{split}"')
        return self.train_sequences if split == "train" else self.val_sequences

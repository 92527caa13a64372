"""Where the cells of a detector's bird's-eye-view map lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from suite3d.pointcloud.encoders.base import VoxelGrid


@dataclass(frozen=True, kw_only=True)
class BevMap:
    """Geometry of a ``(B, C, height, width)`` map over the ground plane; height along y, width along x.

    Attributes:
        point_range: (x0, y0, z0, x1, y1, z1) metres that the map covers.
        height, width: cells along y and x.
    """

    point_range: tuple[float, float, float, float, float, float]
    height: int
    width: int

    @classmethod
    def from_grid(cls, grid: VoxelGrid, stride: int) -> BevMap:
        """The map at ``stride`` voxels a cell.

        Raises:
            ValueError: the grid is not a whole number of cells.
        """
        _, rows, columns = grid.shape
        for axis, cells in (("y", rows), ("x", columns)):
            if cells % stride:
                raise ValueError(
                    f"the voxel grid has {cells} voxels along {axis}, not a multiple of the detector's stride {stride}: "
                    f"change encoder.grid.point_range or voxel_size so that the {axis} extent holds a multiple of {stride} voxels"
                )
        return cls(point_range=grid.point_range, height=rows // stride, width=columns // stride)

    @property
    def cell_size(self) -> tuple[float, float]:
        """Metres of a cell along x and y."""
        x0, y0, _, x1, y1, _ = self.point_range
        return (x1 - x0) / self.width, (y1 - y0) / self.height

    def to_cells(self, xy: Tensor) -> Tensor:
        """``(..., 2)`` metres -> ``(..., 2)`` position in cells (x, y); the integer part is the cell."""
        return (xy - xy.new_tensor(self.point_range[:2])) / xy.new_tensor(self.cell_size)

    def to_metres(self, position: Tensor) -> Tensor:
        """Inverse of :meth:`to_cells`."""
        return position * position.new_tensor(self.cell_size) + position.new_tensor(self.point_range[:2])

    def check(self, features: Tensor) -> None:
        """Raises ValueError when a map is not of this size."""
        if features.ndim != 4 or tuple(features.shape[2:]) != (self.height, self.width):
            raise ValueError(f"the detection head expected a map (B, C, {self.height}, {self.width}), got {tuple(features.shape)}")

"""Plain torch ray traversal: the definition the compiled kernels are held to."""

from __future__ import annotations

import torch
from torch import Tensor


def _crossings(first: Tensor, last: Tensor, origin: Tensor, extent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Planes between cell ``first`` and cell ``last`` of each ray on one axis, in the order they are met.

    Returns:
        ``ray (E,)`` int64, ``parameter (E,)`` float64 along the segment, ``step (E,)`` int64, +1 or -1.
    """
    counts = (last - first).abs()
    ray = torch.repeat_interleave(torch.arange(len(first), device=first.device), counts)
    number = torch.arange(len(ray), device=first.device) - (counts.cumsum(0) - counts)[ray]
    step = (last - first).sign()[ray]
    plane = first[ray] + torch.where(step > 0, 1, 0) + step * number
    return ray, (plane.double() - origin[ray]) / extent[ray], step


def traverse_voxels(
    origins: Tensor, ends: Tensor, offsets: Tensor, start: list[float], size: list[float], cells: list[int], include_end: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Cells of each ray in the order they are met: sort the crossings of all planes by parameter, then add up their steps.

    Returns:
        ``coords (T, 4)`` int32 [batch, z, y, x]; ``ray_offsets (R + 1,)`` int64; ``spans (T, 2)`` float32.
    """
    rays = len(origins)
    grid_from, grid_to = ((points - points.new_tensor(start)) / points.new_tensor(size) for points in (origins, ends))
    count = torch.tensor(cells, device=origins.device)
    meets = ((grid_from >= 0) | (grid_to >= 0)) & ((grid_from < count) | (grid_to < count)) & grid_from.isfinite() & grid_to.isfinite()
    meets = meets.all(dim=1)
    grid_from, grid_to = (torch.where(meets[:, None], g, 0.0) for g in (grid_from, grid_to))
    # planes outside the grid separate no two of its cells: a cell outside may as well be the next one to it
    first, last = (torch.minimum(g.double().floor().clamp(min=-1), count.double()).long() for g in (grid_from, grid_to))  # [R, 3]
    extent = grid_to.double() - grid_from
    axes = [_crossings(first[:, a], last[:, a], grid_from[:, a].double(), extent[:, a]) for a in range(3)]
    # Events: for each ray its start, then its crossings by parameter, equal ones by axis.
    everyone = torch.arange(rays, device=origins.device)
    ray = torch.cat([everyone, *(a[0] for a in axes)])
    parameter = torch.cat([extent.new_full((rays,), -1.0), *(a[1] for a in axes)])
    step = torch.zeros(len(ray), 3, dtype=torch.int64, device=origins.device)
    step[:rays] = first
    place = rays
    for a in range(3):
        step[place : place + len(axes[a][0]), a] = axes[a][2]
        place += len(axes[a][0])
    order = parameter.argsort(stable=True)
    order = order[ray[order].argsort(stable=True)]
    ray, parameter = ray[order], parameter[order].clamp(min=0.0)
    total = step[order].cumsum(0)
    begins = torch.searchsorted(ray, everyone)
    before = torch.cat([total.new_zeros(1, 3), total])[begins]  # what the rays before added up to
    cell = total - before[ray]
    final = torch.cat([ray[1:] != ray[:-1], ray.new_ones(min(1, len(ray)), dtype=torch.bool)])
    leave = torch.where(final, 1.0, parameter.roll(-1))
    keep = meets[ray] & ((cell >= 0) & (cell < count)).all(dim=1)
    if not include_end:
        keep &= ~final
    clouds = torch.repeat_interleave(torch.arange(len(offsets) - 1, device=ray.device), offsets.diff(), output_size=rays)
    ray, cell = ray[keep], cell[keep]
    coords = torch.cat([clouds[ray, None], cell.flip(1)], dim=1).int()
    ray_offsets = torch.cat([ray.new_zeros(1), torch.bincount(ray, minlength=rays).cumsum(0)])
    return coords, ray_offsets, torch.stack([parameter[keep], leave[keep]], dim=1).float()

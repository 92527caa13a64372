"""Mask samplers: which tokens a masked method hides. A bool per token, ``True`` = hidden.

``jagged`` serves sets of any size (voxels, points), ``grid`` dense token grids of a clip, an image or a volume, ``blocks`` the
multi-block masks of joint-embedding prediction, ``indices`` turns masks into gathers. The samplers hide a fixed number of tokens of
each sample unless they say otherwise, so that the visible gather has a known size.

The randomness of sample b comes from its own ``torch.Generator``, on the CPU, so masks do not depend on the device, on the rest
of the batch or on the number of ranks.
"""

from suite3d.masking.blocks import two_block_masks
from suite3d.masking.grid import Grid, decoded_cells, running_cell_masks, space_time_mask, temporal_mask, tube_mask
from suite3d.masking.indices import hidden_indices, padded_indices, visible_indices
from suite3d.masking.jagged import block_mask, check_bands, disjoint_masks, farthest_kept_mask, random_mask, range_mask, split_hidden
from suite3d.masking.streams import Generators, generators_of, hidden_count, sub_generator

__all__ = [
    "Generators",
    "Grid",
    "block_mask",
    "check_bands",
    "decoded_cells",
    "disjoint_masks",
    "farthest_kept_mask",
    "generators_of",
    "hidden_count",
    "hidden_indices",
    "padded_indices",
    "random_mask",
    "range_mask",
    "running_cell_masks",
    "space_time_mask",
    "split_hidden",
    "sub_generator",
    "temporal_mask",
    "tube_mask",
    "two_block_masks",
    "visible_indices",
]

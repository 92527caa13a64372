"""Mask samplers: which tokens a masked method hides. A bool per token, ``True`` = hidden.

``jagged`` serves sets of any size (voxels, points), ``space`` hides regions of any coordinate set, ``grid`` dense token grids of a clip, an
image or a volume, ``blocks`` the multi-block masks of joint-embedding prediction, ``boxes`` BEiT's and GMML's, ``colour_noise`` ColorMAE's,
``disjoint`` several views' complementary ones; ``scores`` follows a map, ``levels`` carries a mask to finer levels, ``schedule`` changes the
ratio, ``indices`` turns masks into gathers. The samplers hide a fixed number of tokens of each sample unless they say otherwise, so that the
visible gather has a known size.

The randomness of sample b comes from its own ``torch.Generator``, on the CPU, so masks do not depend on the device, on the rest
of the batch or on the number of ranks.
"""

from suite3d.masking.blocks import two_block_masks
from suite3d.masking.boxes import blockwise_mask, grouped_mask, over_time
from suite3d.masking.colour_noise import ColourNoise, ColourNoiseConfig, colour_noise_bank, colour_noise_mask
from suite3d.masking.disjoint import disjoint_block_masks
from suite3d.masking.grid import Grid, decoded_cells, running_cell_masks, space_time_mask, temporal_mask, tube_mask
from suite3d.masking.indices import hidden_indices, padded_indices, visible_indices
from suite3d.masking.jagged import block_mask, check_bands, disjoint_masks, farthest_kept_mask, random_mask, range_mask, split_hidden
from suite3d.masking.levels import inherited_mask, members_mask, refined_mask
from suite3d.masking.schedule import drawn_ratio, ratio_at
from suite3d.masking.scores import jagged_score_mask, score_mask
from suite3d.masking.space import nearest_mask, space_block_mask
from suite3d.masking.streams import Generators, generators_of, hidden_count, sub_generator

__all__ = [
    "ColourNoise",
    "ColourNoiseConfig",
    "Generators",
    "Grid",
    "block_mask",
    "blockwise_mask",
    "check_bands",
    "colour_noise_bank",
    "colour_noise_mask",
    "decoded_cells",
    "disjoint_block_masks",
    "disjoint_masks",
    "drawn_ratio",
    "farthest_kept_mask",
    "generators_of",
    "grouped_mask",
    "hidden_count",
    "hidden_indices",
    "inherited_mask",
    "jagged_score_mask",
    "members_mask",
    "nearest_mask",
    "over_time",
    "padded_indices",
    "random_mask",
    "range_mask",
    "ratio_at",
    "refined_mask",
    "running_cell_masks",
    "score_mask",
    "space_block_mask",
    "space_time_mask",
    "split_hidden",
    "sub_generator",
    "temporal_mask",
    "tube_mask",
    "two_block_masks",
    "visible_indices",
]

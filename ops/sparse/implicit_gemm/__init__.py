"""Sparse convolution as a masked implicit GEMM on the tensor cores, in Triton.

Output stationary: a program owns a tile of output rows x channels, loops over the kernel offsets that any of its rows has, gathers the
input rows under that offset and multiplies them by the offset's matrix; nothing is scattered, nothing is added atomically, sums are
float32. The rows of a tile should have the same offsets, or it multiplies by zeros: a :func:`plan <make_plan>` sorts the rows by the place
of their mask of offsets in the Gray sequence, in which neighbours differ by one offset; rare offsets are the high bits, which change least.
Where outputs have fewer than eight neighbours on average the offsets are cut in two halves with an order each; the second pass goes on from
the float32 sums of the first. The device itself decides that (the second pass finds empty masks otherwise), so no plan waits for it. The
input gradient is the same kernel on the map read backwards: for a submanifold map that is the same plan with the offsets in reverse. The
weight gradient multiplies, offset by offset, the rows of its pairs, in pieces that are summed in order. Equal calls give equal bits.

Sources: the dataflow of spconv 2 (mask sorting and splits), TorchSparse++ (Tang et al. 2023) and FlexGEMM (Gray order). Chosen here: one
loop over (offset present, slice of channels) driven by the bits of the mask, bits by how rare an offset is, the decision to split on the
device, the table laid out in sorted order, and compacted pairs for the weight gradient.
"""

from suite3d.ops.sparse.implicit_gemm.ops import MAX_VOLUME, convolve, make_plan

__all__ = ["MAX_VOLUME", "convolve", "make_plan"]

// Exact furthest point sampling, one block a cloud: every distance at every step for clouds that fit a block, leaves with bounding boxes
// for larger ones. Both give the same rows. The values (offsets, counts, starts, finite coordinates) are checked in Python.
#include "fps/fps_leaves.cuh"
#include "fps/fps_scan.cuh"

namespace suite3d {
namespace {

// Most points of a cloud whose coordinates fit the shared memory of a block: 16,384 on data-centre GPUs from Hopper on, else 8,192.
int64_t most_scanned() {
  int device = 0, bytes = 0;
  SUITE3D_CUDA(cudaGetDevice(&device));
  SUITE3D_CUDA(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes >= scan_bytes(16384) + 1024 ? 16384 : 8192;
}

Tensor furthest_point_sample(Tensor xyz, Tensor offsets, Tensor counts, Tensor start, int64_t total, int64_t largest) {
  xyz = as_contiguous(xyz), offsets = as_contiguous(offsets), counts = as_contiguous(counts), start = as_contiguous(start);
  const OnDevice device(xyz);
  const cudaStream_t stream = device.stream();
  const int64_t clouds = offsets.size(0) - 1;
  if (clouds <= 0) return empty({0}, ScalarType::Long, offsets);
  const Buffer<int64_t> out_ends(clouds, offsets);
  inclusive_sum(data<int64_t>(counts), out_ends.get(), clouds, offsets, stream);
  if (total < 0) total = read_one(out_ends.get() + clouds - 1, stream);
  const Tensor result = empty({total}, ScalarType::Long, offsets);
  if (total == 0) return result;
  const Batch batch{data<float>(xyz), data<int64_t>(offsets), data<int64_t>(start), out_ends.get(), data<int64_t>(counts),
                    mutable_data<int64_t>(result)};
  // Each kernel takes the clouds of its sizes; sizes that cannot occur are not launched.
  const int64_t scanned = most_scanned();
  fps_scan<256, 4>(batch, clouds, 1, largest, stream);
  fps_scan<512, 8>(batch, clouds, 1025, largest, stream);
  fps_scan<1024, 8>(batch, clouds, 4097, largest, stream);
  if (scanned > 8192) fps_scan<1024, 16>(batch, clouds, 8193, largest, stream);
  if (largest <= scanned) return result;
  const Buffer<Slot> slots = fps_slots(batch, xyz, clouds, stream);
  const Buffer<float> nearest(xyz.size(0), xyz);
  fps_leaves<1024, 1>(batch, slots.get(), nearest.get(), clouds, scanned + 1, largest, stream);
  fps_leaves<512, 4>(batch, slots.get(), nearest.get(), clouds, 131073, largest, stream);
  fps_leaves<512, 8>(batch, slots.get(), nearest.get(), clouds, 262145, largest, stream, INT32_MAX);
  return result;
}

}  // namespace
}  // namespace suite3d

STABLE_TORCH_LIBRARY_IMPL(suite3d, CUDA, m) { m.impl("furthest_point_sample", TORCH_BOX(&suite3d::furthest_point_sample)); }

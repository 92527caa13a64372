"""The 2D backbone: checkpoint layout, strides, numbers."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch.nn import functional

from suite3d.pointcloud.detection.neck import BevNeck, NeckConfig
from suite3d.pointcloud.detection.presets import nuscenes_centerpoint_pillar

TINY = NeckConfig(layer_nums=(1, 1), layer_strides=(1, 2), num_filters=(4, 6), upsample_strides=(1.0, 2.0), num_upsample_filters=(5, 7))


def test_checkpoint_layout_is_openpcdets():
    state = {key: tuple(value.shape) for key, value in BevNeck(256, NeckConfig()).state_dict().items()}
    expected = {}

    def norm(prefix: str, channels: int) -> None:
        expected.update({f"{prefix}.{key}": (channels,) for key in ("weight", "bias", "running_mean", "running_var")})
        expected[f"{prefix}.num_batches_tracked"] = ()

    for stage, (cin, width) in enumerate([(256, 128), (128, 256)]):
        for index, position in enumerate((1, 4, 7, 10, 13, 16)):
            expected[f"blocks.{stage}.{position}.weight"] = (width, cin if index == 0 else width, 3, 3)
            norm(f"blocks.{stage}.{position + 1}", width)
    expected["deblocks.0.0.weight"] = (128, 256, 1, 1)
    expected["deblocks.1.0.weight"] = (256, 256, 2, 2)
    norm("deblocks.0.1", 256)
    norm("deblocks.1.1", 256)
    assert state == expected


def test_forward_equals_the_written_out_network():
    neck = BevNeck(3, TINY, generator=torch.Generator().manual_seed(0)).eval()
    generator = torch.Generator().manual_seed(1)
    for name, buffer in neck.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(generator=generator)
    state = neck.state_dict()
    bev = torch.randn(2, 3, 8, 10, generator=generator)

    def unit(x: torch.Tensor, conv: str, norm: str, function, **settings) -> torch.Tensor:
        x = function(x, state[f"{conv}.weight"], **settings)
        mean, var = state[f"{norm}.running_mean"][:, None, None], state[f"{norm}.running_var"][:, None, None]
        return torch.relu((x - mean) / (var + 1e-3).sqrt() * state[f"{norm}.weight"][:, None, None] + state[f"{norm}.bias"][:, None, None])

    conv, up = functional.conv2d, functional.conv_transpose2d
    first = unit(unit(bev, "blocks.0.1", "blocks.0.2", conv, padding=1), "blocks.0.4", "blocks.0.5", conv, padding=1)
    second = unit(unit(first, "blocks.1.1", "blocks.1.2", conv, stride=2, padding=1), "blocks.1.4", "blocks.1.5", conv, padding=1)
    expected = torch.cat([unit(first, "deblocks.0.0", "deblocks.0.1", up), unit(second, "deblocks.1.0", "deblocks.1.1", up, stride=2)], dim=1)
    torch.testing.assert_close(neck(bev), expected, rtol=1e-4, atol=1e-5)
    assert neck.out_channels == 12 and neck.stride == 1 and neck.divisor == 2


def test_pillar_neck_brings_three_stages_to_stride_four():
    neck = BevNeck(64, nuscenes_centerpoint_pillar().config.neck)
    assert neck.stride == 4 and neck.divisor == 8 and neck.out_channels == 384
    shapes = {key: tuple(value.shape) for key, value in neck.state_dict().items() if key.startswith("deblocks") and key.endswith(".0.weight")}
    assert shapes == {"deblocks.0.0.weight": (128, 64, 2, 2), "deblocks.1.0.weight": (128, 128, 1, 1), "deblocks.2.0.weight": (256, 128, 2, 2)}
    with torch.no_grad():
        assert neck(torch.zeros(1, 64, 16, 24)).shape == (1, 384, 4, 6)


def test_a_map_that_the_strides_do_not_divide_is_refused():
    neck = BevNeck(3, TINY)
    with pytest.raises(ValueError, match="multiples of 2"):
        neck(torch.zeros(1, 3, 7, 8))


def test_stages_that_arrive_at_different_strides_are_refused():
    config = NeckConfig(layer_strides=(2, 2), upsample_strides=(1.0, 1.0))
    with pytest.raises(ValueError, match=r"strides \[2.0, 4.0\]"):
        BevNeck(3, config)


@pytest.mark.parametrize(
    "bad", [{"layer_nums": (5,)}, {"layer_nums": (), "layer_strides": (), "num_filters": (), "upsample_strides": (), "num_upsample_filters": ()}]
)
def test_uneven_lists_are_refused(bad):
    with pytest.raises(ValueError, match="five lists of one length"):
        BevNeck(3, NeckConfig(**bad))


def test_factors_that_no_layer_makes_are_refused():
    with pytest.raises(ValueError, match="whole numbers or their inverses"):
        BevNeck(3, NeckConfig(upsample_strides=(1.5, 3.0)))


def test_an_upsampling_neck_has_a_fractional_stride():
    config = NeckConfig(layer_nums=(0,), layer_strides=(1,), num_filters=(4,), upsample_strides=(2.0,), num_upsample_filters=(4,))
    assert BevNeck(3, config).stride == Fraction(1, 2)


def test_weights_follow_the_generator():
    first, second, other = (BevNeck(3, TINY, generator=torch.Generator().manual_seed(seed)).state_dict() for seed in (4, 4, 5))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)

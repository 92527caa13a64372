"""The point-patch transformer: groups against their definition, Point-MAE's layout, and what may not change its answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from suite3d.interop.load import LoadRefused
from suite3d.nn.pooling import pooled_features
from suite3d.pointcloud.data.objects.views import ObjectViewConfig
from suite3d.pointcloud.encoders.point_patch import PatchTokenizer, PointPatchConfig, PointPatchTransformer
from suite3d.pointcloud.interop.point_mae import load_point_mae
from tests.pointcloud.objects.clouds import batch, encoder


def test_groups_are_the_nearest_points_of_furthest_samples():
    model, points = encoder(channels=("nz",)), batch(3, channels=("nz",)).views[0]
    patches = model.group(points)
    assert patches.centers.shape == (3, 8, 3) and patches.points.shape == (3, 8, 10, 4)
    for cloud in range(3):
        rows = slice(96 * cloud, 96 * (cloud + 1))
        xyz, nz = points.xyz[rows].double().numpy(), points.feats[rows, 0].numpy()
        chosen = [0]
        while len(chosen) < 8:  # furthest point sampling, as it is defined
            chosen.append(int(np.square(xyz[:, None] - xyz[chosen][None]).sum(2).min(1).argmax()))
        for group, center in enumerate(chosen):
            near = np.argsort(np.square(xyz - xyz[center]).sum(1), kind="stable")[:10]
            torch.testing.assert_close(patches.centers[cloud, group].double(), torch.tensor(xyz[center]))
            expected = np.concatenate([xyz[near] - xyz[center], nz[near, None]], axis=1)
            np.testing.assert_allclose(patches.points[cloud, group].numpy(), expected, atol=1e-6)


def test_tokenizer_is_the_published_stack_of_convolutions():
    torch.manual_seed(0)
    tokenizer = PatchTokenizer(3, (8, 12, 16), 20)
    for parameter in tokenizer.parameters():
        torch.nn.init.normal_(parameter)
    patches = torch.randn(7, 10, 3)
    for mode in (True, False):
        tokenizer.train(mode)
        twin = tokenizer.__class__(3, (8, 12, 16), 20).train(mode)
        twin.load_state_dict(tokenizer.state_dict())
        feature = twin.first_conv(patches.transpose(1, 2))
        whole = feature.max(dim=2, keepdim=True).values
        expected = twin.second_conv(torch.cat([whole.expand(-1, -1, 10), feature], dim=1)).max(dim=2).values
        torch.testing.assert_close(tokenizer(patches), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(tokenizer.second_conv[1].running_var, twin.second_conv[1].running_var, atol=1e-4, rtol=1e-4)


def test_point_mae_layout_and_size():
    with torch.device("meta"):
        model = PointPatchTransformer(PointPatchConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 21_825_024
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes["encoder.first_conv.0.weight"] == (128, 3, 1) and shapes["encoder.first_conv.3.weight"] == (256, 128, 1)
    assert shapes["encoder.second_conv.0.weight"] == (512, 512, 1) and shapes["encoder.second_conv.3.bias"] == (384,)
    assert shapes["pos_embed.0.weight"] == (128, 3) and shapes["pos_embed.2.weight"] == (384, 128)
    assert shapes["blocks.blocks.11.attn.qkv.weight"] == (1152, 384) and "blocks.blocks.0.attn.qkv.bias" not in shapes
    assert shapes["blocks.blocks.0.mlp.fc1.weight"] == (1536, 384) and shapes["norm.bias"] == (384,)
    with torch.device("meta"):
        assert PointPatchTransformer(PointPatchConfig(class_token=True)).cls_pos.shape == (1, 1, 384)


def test_published_files_load_and_others_are_refused(tmp_path):
    source, target = encoder(), encoder()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_()
    state = {f"module.MAE_encoder.{name}": value for name, value in source.state_dict().items()}
    state |= {"module.mask_token": torch.zeros(1, 1, 16), "module.increase_dim.0.weight": torch.zeros(30, 16, 1)}
    torch.save({"base_model": state, "epoch": 300}, tmp_path / "pretrain.pth")
    report = load_point_mae(target, tmp_path / "pretrain.pth")
    assert report.share == 1.0 and not report.missing and set(report.unexpected) == {"mask_token", "increase_dim.0.weight"}
    points = batch(2).views[0]
    assert torch.equal(source.eval()(points), target.eval()(points))
    torch.save({"base_model": {name.replace("encoder.", "enc."): value for name, value in state.items()}}, tmp_path / "other.pth")
    with pytest.raises(LoadRefused):
        load_point_mae(target, tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError):
        load_point_mae(target, tmp_path / "nothing.pth")


def test_visible_tokens_do_not_see_the_others():
    model, points = encoder(class_token=True).eval(), batch(3).views[0]
    patches = model.group(points)
    visible = torch.tensor([[5, 0, 3], [1, 2, 7], [4, 6, 0]])
    first, tokens = model.encode(patches, visible)
    assert first.shape == (3, 1, 16) and tokens.shape == (3, 3, 16)
    hidden = torch.ones(3, 8, dtype=torch.bool).scatter_(1, visible, False)
    patches.points[hidden] = 99.0
    patches.centers[hidden] = -99.0
    again = model.encode(patches, visible)
    assert torch.equal(first, again[0]) and torch.equal(tokens, again[1])
    every = model.encode(patches, torch.arange(8).expand(3, -1))
    torch.testing.assert_close(every[1], model.encode(patches)[1])


def test_clouds_do_not_see_one_another_and_pooling():
    for model in (encoder().eval(), encoder(class_token=True).eval()):
        points = batch(4).views[0]
        whole = model.described(points)
        assert whole.shape == (4, 48 if model.config.class_token else 32)
        for cloud in range(4):
            alone = replace(points, xyz=points.xyz[96 * cloud : 96 * (cloud + 1)], feats=points.feats[:96], offsets=torch.tensor([0, 96]))
            torch.testing.assert_close(model.described(alone)[0], whole[cloud], atol=1e-5, rtol=1e-4)
        first, tokens = model.encode(model.group(points))
        expected = first[:, 0] if model.config.class_token else tokens.mean(1)
        torch.testing.assert_close(pooled_features(model, points), expected)
        torch.testing.assert_close(whole[:, -32:], torch.cat([model(points).amax(1), model(points).mean(1)], 1))


def test_small_clouds_repeat_and_bad_input_is_named():
    tiny = batch(2, [ObjectViewConfig(points=5)]).views[0]
    patches = encoder().group(tiny)
    assert patches.points.shape == (2, 1, 10, 3)
    torch.testing.assert_close(patches.points[0, 0, 5:], patches.points[0, 0, :1].expand(5, -1))
    with pytest.raises(ValueError, match="as many points each"):
        encoder().group(replace(tiny, offsets=torch.tensor([0, 4, 10])))
    with pytest.raises(ValueError, match="channels"):
        encoder(channels=("r",)).group(tiny)
    with pytest.raises(ValueError, match="positive"):
        PointPatchConfig(depth=0)


def test_nothing_is_left_uninitialised():
    model = encoder(class_token=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    model.reset_parameters(torch.Generator().manual_seed(0))
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    fresh = encoder(class_token=True)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters()))

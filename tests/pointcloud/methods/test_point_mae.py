"""Point-MAE: the loss is Chamfer on the hidden patches alone, nothing hidden reaches the encoder, and it learns and repeats."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from suite3d.masking import hidden_count
from suite3d.pointcloud.data.objects.views import ObjectViewConfig
from suite3d.pointcloud.methods.point_mae import PointMAE, PointMAEConfig
from tests.core.methods.joint import trained
from tests.pointcloud.objects.clouds import batch, encoder


def method(**config):
    torch.manual_seed(0)
    sizes = {"depth": 1, "heads": 2, "drop_path": 0.0}
    return PointMAE(encoder(), PointMAEConfig(**(sizes | config)))


def chamfer(a, b):
    gaps = np.square(a[:, None] - b[None]).sum(axis=2)
    return gaps.min(axis=1).mean() + gaps.min(axis=0).mean()


@pytest.mark.parametrize("mask", ["random", "nearest", "block"])
def test_loss_is_its_definition(mask):
    model, data = method(mask=mask).eval(), batch(4)
    output = model(data)
    patches = model.encoder.group(data.views[0])
    hidden = model.draw_mask(patches, data.seeds)
    assert hidden.sum(dim=1).tolist() == [hidden_count(8, 0.6)] * 4
    total = []
    with torch.no_grad():
        for cloud in range(4):  # one object at a time, by hand
            seen, gone = (~hidden[cloud]).nonzero()[:, 0], hidden[cloud].nonzero()[:, 0]
            tokens = model.encoder.encoder(patches.points[cloud, seen])
            codes = model.encoder.pos_embed(patches.centers[cloud, seen])
            x = tokens[None]
            for block in model.encoder.blocks.blocks:
                x = block(x + codes[None])
            x = torch.cat([model.encoder.norm(x), model.mask_token.expand(1, len(gone), -1)], dim=1)
            codes = model.decoder_pos_embed(patches.centers[cloud, torch.cat([seen, gone])])
            for block in model.decoder.blocks:
                x = block(x + codes[None])
            predicted = model.head(model.norm(x))[0, len(seen) :].view(len(gone), 10, 3).double().numpy()
            target = patches.points[cloud, gone].double().numpy()
            total += [chamfer(one, other) for one, other in zip(predicted, target)]
    assert output.loss.item() == pytest.approx(np.mean(total), abs=1e-5)
    assert output.metrics["hidden_patches"] == hidden_count(8, 0.6)


def test_the_decoder_knows_hidden_patches_by_their_centres_only():
    model, data = method().eval(), batch(3)
    patches = model.encoder.group(data.views[0])
    mask = model.draw_mask(patches, data.seeds)
    visible, hidden = mask.logical_not().nonzero()[:, 1].view(3, -1), mask.nonzero()[:, 1].view(3, -1)
    before = model.decode(model.encoder.encode(patches, visible)[1], patches.centers, visible, hidden)
    patches.points[mask] = 7.0
    again = model.decode(model.encoder.encode(patches, visible)[1], patches.centers, visible, hidden)
    assert torch.equal(before, again)
    patches.centers[mask] += 1.0
    assert not torch.allclose(before, model.decode(model.encoder.encode(patches, visible)[1], patches.centers, visible, hidden))


def test_learns_and_repeats_and_reaches_the_encoder():
    data = batch(6)
    first = trained(method(), data, steps=60, lr=3e-3)
    assert first[-1] < 0.6 * first[0]
    assert first[:5] == trained(method(), data, steps=5, lr=3e-3), "the same seed, the same losses"
    model = method()
    model(data).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert sum(p.grad.abs().sum() > 0 for p in model.encoder.parameters()) > 0.9 * len(list(model.encoder.parameters()))


def test_masks_are_the_samples_own():
    model, data = method(), batch(4)
    patches = model.encoder.group(data.views[0])
    first = model.draw_mask(patches, [1, 2, 3, 4])
    assert torch.equal(first, model.draw_mask(patches, [1, 2, 3, 4]))
    assert torch.equal(first[0], model.draw_mask(patches, [1, 9, 8, 7])[0]) and not torch.equal(first, model.draw_mask(patches, [5, 6, 7, 8]))


def test_picture_and_features():
    output = method()(batch(4))
    picture = output.visuals()["reconstruction"]
    assert picture.dtype == np.uint8 and picture.shape[1] % 4 == 0
    pink = (np.abs(picture.astype(int) - (255, 92, 158)).sum(axis=2) < 60).reshape(picture.shape[0], 4, -1).any(axis=2).sum(axis=0)
    assert pink[2] > 5 and pink[0] == 0, "predictions in their own colour in the third column"
    assert output.features.shape == (4 * 3, 16) and not output.features.requires_grad


def test_bad_input():
    for bad in ({"mask_ratio": 0.0}, {"mask_ratio": 1.0}, {"block_size": 0.0}, {"depth": 0}):
        with pytest.raises(ValueError):
            PointMAEConfig(**bad)
    with pytest.raises(ValueError, match="two patches"):
        method()(batch(2, [ObjectViewConfig(points=12)]))

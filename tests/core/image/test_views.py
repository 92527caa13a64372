"""Views of pictures: what is drawn is what is shown, and it is a function of the seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from suite3d.image.appearance import AppearanceConfig
from suite3d.image.data.batch import ImageBatch, relative_box
from suite3d.image.data.fractals import FractalConfig, Fractals
from suite3d.image.data.sets import ImageSet
from suite3d.image.data.source import ImageSource, ViewGroup
from suite3d.image.views import ViewConfig

PLAIN = ViewConfig(size=8, crop="random_resized", area=(0.2, 0.8))


class Gradient(ImageSet):
    """Pictures of different sizes whose red is the row and whose green is the column."""

    def __len__(self) -> int:
        return 3

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> np.ndarray:
        height, width = 20 + 4 * index, 30
        return np.stack(np.broadcast_arrays(np.arange(height)[:, None], np.arange(width)[None], np.zeros((1, 1))), axis=2).astype(np.uint8)


def batch_of(images: ImageSet, groups: list[ViewGroup], seeds: tuple[int, ...] = (1, 2, 3)) -> ImageBatch:
    source = ImageSource(images, groups)
    return source.collate([source.get(index, np.random.default_rng(seed)) for index, seed in enumerate(seeds)], list(seeds))


def test_the_crop_shows_the_pixels_of_its_box() -> None:
    batch = batch_of(Gradient(), [ViewGroup(view=replace(PLAIN, flip=0.5)), ViewGroup(view=PLAIN)])
    for view, draw in enumerate(batch.views):
        crops = batch.crops(view)
        middle = draw.boxes[:, :2] + draw.boxes[:, 2:] / 2 - 0.5
        torch.testing.assert_close(crops[:, :2].mean(dim=(2, 3)), middle.float(), atol=0.3, rtol=0)
        rising = (crops[:, 1, :, -1] - crops[:, 1, :, 0]).mean(dim=1) > 0
        assert torch.equal(rising, ~draw.flips), "mirrored where it says so"


def test_views_are_a_function_of_the_seed_and_differ_from_one_another() -> None:
    groups = [ViewGroup(count=2, view=replace(PLAIN, jitter=1.0), appearance=AppearanceConfig(blur=0.5))]
    first, again, other = (batch_of(Gradient(), groups, seeds) for seeds in ((1, 2, 3), (1, 2, 3), (4, 5, 6)))
    assert torch.equal(first.pixels(1), again.pixels(1)) and not torch.equal(first.views[0].boxes, other.views[0].boxes)
    assert not torch.equal(first.views[0].boxes, first.views[1].boxes)


def test_nested_views_lie_inside_their_parent() -> None:
    groups = [ViewGroup(view=replace(PLAIN, area=(0.5, 1.0))), ViewGroup(count=2, view=replace(PLAIN, area=(0.3, 0.6)), inside=0)]
    batch = batch_of(Gradient(), groups)
    for child in (1, 2):
        box = relative_box(batch, child, 0)
        assert (box[:, :2] >= 0).all() and (box[:, :2] + box[:, 2:] <= 1 + 1e-6).all()
        area = box[:, 2] * box[:, 3]
        assert ((area > 0.2) & (area < 0.7)).all()


def test_a_relative_box_follows_the_mirror_of_the_other_view() -> None:
    batch = batch_of(Gradient(), [ViewGroup(view=replace(PLAIN, flip=1.0)), ViewGroup(view=PLAIN, inside=0)])
    mirrored = relative_box(batch, 1, 0)
    batch.views[0].flips[:] = False
    straight = relative_box(batch, 1, 0)
    torch.testing.assert_close(mirrored[:, 1], 1 - straight[:, 1] - straight[:, 3])
    torch.testing.assert_close(relative_box(batch, 0, 0), torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(3, 4))


def test_pairs_are_two_pictures() -> None:
    images = Fractals(FractalConfig(classes=3, train=1, size=32, points=2000))
    batch = batch_of(images, [ViewGroup(view=PLAIN), ViewGroup(view=PLAIN, picture=1)])
    assert len(batch.pictures) == 2 and not torch.equal(batch.pictures[0], batch.pictures[1])
    with pytest.raises(ValueError, match="different pictures"):
        relative_box(batch, 0, 1)
    with pytest.raises(ValueError, match="knows of no such pairs"):
        ImageSource(Gradient(), [ViewGroup(view=PLAIN, picture=1)])


def test_views_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="not an earlier view"):
        ImageSource(Gradient(), [ViewGroup(view=PLAIN, inside=0)])
    with pytest.raises(ValueError, match="same mean and std"):
        ImageSource(Gradient(), [ViewGroup(view=PLAIN), ViewGroup(view=replace(PLAIN, mean=(0.0, 0.0, 0.0)))])
    with pytest.raises(ValueError, match="at least one picture"):
        ImageSource(Gradient(), [])

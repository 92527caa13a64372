"""Pictures out of a set, with the views a method asks for drawn as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from suite3d.image.appearance import AppearanceConfig
from suite3d.image.data.batch import ImageBatch, ViewDraw, stack_pictures
from suite3d.image.data.sets import ImageSet
from suite3d.image.style import draw_style
from suite3d.image.views import LUMA, ViewConfig, draw_box, draw_color
from suite3d.source import BadSample

Box = tuple[int, int, int, int]


@dataclass(kw_only=True)
class ViewGroup:
    """Views that are drawn alike.

    Attributes:
        count: how many.
        view: crops and colours.
        appearance: blur and solarisation.
        picture: 0 = the picture, 1 = the other picture of a pair.
        inside: number of an earlier view of this picture whose crop bounds these (CropMAE); -1 = the whole picture.
    """

    count: int = 1
    view: ViewConfig = field(default_factory=ViewConfig)
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    picture: int = 0
    inside: int = -1


@dataclass(kw_only=True)
class ImageSample:
    """One sample; see :class:`suite3d.image.data.batch.ImageBatch`. Of each view: box, flip and colour map."""

    pictures: list[NDArray[np.uint8]]
    boxes: list[Box]
    flips: list[bool]
    colors: list[NDArray[np.float32]]
    label: int
    name: str


class ImageSource:
    """Views of pictures. A :class:`suite3d.source.Source`.

    Args:
        images: the pictures.
        groups: the views, in order.
        indices: pictures to use; None = all.

    Raises:
        ValueError: no picture or view; views that normalise differently; a view inside one that does not come before it or shows another
            picture; pairs of a set that has none.
    """

    def __init__(self, images: ImageSet, groups: Sequence[ViewGroup], *, indices: Sequence[int] | None = None) -> None:
        self.images = images
        self.indices = list(range(len(images))) if indices is None else [int(index) for index in indices]
        self.groups = [group for group in groups for _ in range(group.count)]  # one entry a view
        if not self.indices or not self.groups:
            raise ValueError(f"expected at least one picture and one view, got {len(self.indices)} and {len(self.groups)}")
        if len({(group.view.mean, group.view.std) for group in self.groups}) > 1:
            raise ValueError("all views of a sample must be normalised by the same mean and std")
        for place, group in enumerate(self.groups):
            if group.inside >= place or group.inside >= 0 and self.groups[group.inside].picture != group.picture:
                raise ValueError(f"view {place} lies inside view {group.inside}, which is not an earlier view of the same picture")
        self.pairs = any(group.picture == 1 for group in self.groups)
        if self.pairs and images.pairs(self.indices[0], np.random.default_rng(0)) is None:
            raise ValueError(f"this method compares two pictures of a scene, and {type(images).__name__} knows of no such pairs")

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.images.name(self.indices[index])

    def get(self, index: int, rng: np.random.Generator) -> ImageSample:
        """Read picture ``index`` and draw its views. Raises :class:`suite3d.source.BadSample`."""
        row = self.indices[index]
        pictures = [self.images.read(row)]
        if self.pairs:
            other = self.images.pairs(row, rng)
            if other is None:
                raise BadSample(self.name(index), "has no second picture of the same scene")
            pictures.append(other)
        boxes: list[Box] = []
        for group in self.groups:
            top, left, height, width = (0, 0, *pictures[group.picture].shape[:2]) if group.inside < 0 else boxes[group.inside]
            box = draw_box(group.view, height, width, rng)
            boxes.append((top + box[0], left + box[1], box[2], box[3]))
        label = self.images.label(row)
        return ImageSample(
            pictures=pictures,
            boxes=boxes,
            flips=[bool(rng.random() < group.view.flip) for group in self.groups],
            colors=[draw_color(group.view, self._gray(pictures[group.picture], group.view), rng) for group in self.groups],
            label=-1 if label is None else label,
            name=self.name(index),
        )

    @staticmethod
    def _gray(picture: NDArray[np.uint8], view: ViewConfig) -> float:
        """Mean grey of a picture, from a few pixels; only contrast needs it."""
        step = max(1, min(picture.shape[:2]) // 32)
        return 0.5 if view.jitter <= 0 else float(picture[::step, ::step].reshape(-1, 3).mean(axis=0) @ LUMA / 255)

    def collate(self, samples: list[ImageSample], seeds: list[int]) -> ImageBatch:
        pictures = [[torch.from_numpy(np.ascontiguousarray(sample.pictures[part])) for sample in samples] for part in range(1 + self.pairs)]
        views = []
        for place, group in enumerate(self.groups):
            plain = group.view.jitter <= 0 and group.view.gray <= 0
            views.append(
                ViewDraw(
                    picture=group.picture,
                    boxes=torch.tensor([sample.boxes[place] for sample in samples]),
                    sizes=torch.tensor([sample.pictures[group.picture].shape[:2] for sample in samples]),
                    flips=torch.tensor([sample.flips[place] for sample in samples]),
                    colors=None if plain else torch.from_numpy(np.stack([sample.colors[place] for sample in samples])),
                    size=group.view.size,
                    appearance=group.appearance,
                    style=draw_style(group.view.style, seeds, place),
                )
            )
        return ImageBatch(
            pictures=[stack_pictures(part) for part in pictures],
            views=views,
            labels=torch.tensor([sample.label for sample in samples]),
            names=[sample.name for sample in samples],
            seeds=list(seeds),
            mean=self.groups[0].view.mean,
            std=self.groups[0].view.std,
        )

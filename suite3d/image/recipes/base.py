"""What every image pretraining recipe configures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from suite3d.config import ConfigError
from suite3d.engine.budget import set_budget
from suite3d.engine.task import RunConfig, Task, TrainConfig
from suite3d.image.appearance import AppearanceConfig
from suite3d.image.data.source import ImageSource, ViewGroup
from suite3d.image.recipes.data import ImageDataConfig, build_images, describe_images
from suite3d.image.recipes.encoder import ImageEncoderConfig, ImageViTConfig
from suite3d.image.recipes.probe import ImageProbeConfig, build_probe
from suite3d.image.views import ViewConfig
from suite3d.nn.vit import VisionTransformer


def resized_crop() -> ViewConfig:
    """MAE's view: a crop of a fifth to all of the picture, any place, mirrored half of the time."""
    return ViewConfig(crop="random_resized", area=(0.2, 1.0), flip=0.5)


def contrast_view() -> ViewConfig:
    """SimCLR's view: a crop of 8 % to all of the picture, mirrored, recoloured, sometimes grey."""
    return ViewConfig(crop="random_resized", area=(0.08, 1.0), flip=0.5, jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, gray=0.2)


@dataclass(kw_only=True)
class ImagePretrainRecipe(ABC):
    """Image pretraining; subclasses add ``encoder``, ``method`` and, where one view is not enough, :meth:`views`.

    Attributes:
        data: the pictures.
        augment: crops and colours; its ``size`` is the side of the encoder's input.
        train: the loop.
        base_lr: learning rate for a batch of 256 pictures; 0 = ``train.optim.lr`` as it is.
        probe: the online probe; it reads labels where the data have them and never trains the encoder.
        run: the run directory.
    """

    data: ImageDataConfig = field(default_factory=ImageDataConfig)
    augment: ViewConfig = field(default_factory=resized_crop)
    train: TrainConfig = field(default_factory=TrainConfig)
    base_lr: float = 1.5e-4
    probe: ImageProbeConfig = field(default_factory=ImageProbeConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @abstractmethod
    def build_encoder(self) -> nn.Module:
        """A fresh encoder for the recipe's pictures."""

    @abstractmethod
    def build_method(self, encoder: nn.Module) -> nn.Module:
        """The method around a fresh encoder."""

    def views(self) -> list[ViewGroup]:
        """The views of every sample."""
        return [ViewGroup(view=self.augment)]

    def task(self) -> Task:
        """Model and data, ready for the loop. Raises ConfigError when the data or the sizes do not fit."""
        images = build_images(self.data)
        try:
            source = ImageSource(images, self.views())
            method = self.build_method(self.build_encoder())
        except ValueError as error:
            raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error
        probe = build_probe(self.probe, self.data, self.augment) if self.train.probe_every > 0 else None
        budget = set_budget(self.train, base_lr=self.base_lr, repeats=1, samples=len(source), kind="pictures")
        provenance: dict[str, Any] = {
            "stage": "pretrain",
            "modality": "image",
            "recipe": type(self).__name__.removesuffix("Recipe"),
            "data": describe_images(self.data),
            "pictures": len(source),
            "labels": "none",
            "probe labels": "none" if probe is None else f"{probe.description}; the probe never trains the encoder",
            "samples_seen": budget.samples_seen,
            "effective_epochs": round(budget.effective_epochs, 2),
            "lr_abs": budget.lr_abs,
        }
        encoder = method.encoder
        assert isinstance(encoder, nn.Module)
        return Task(model=method, train=source, provenance=provenance, encoder_config=encoder.describe(), probe=probe)  # type: ignore[operator]


@dataclass(kw_only=True)
class ImageViTRecipe(ImagePretrainRecipe):
    """Methods that need tokens.

    Attributes:
        encoder: the vision transformer that survives.
    """

    encoder: ImageViTConfig = field(default_factory=ImageViTConfig)

    def build_encoder(self) -> VisionTransformer:
        return self.encoder.build(self.augment.size)


@dataclass(kw_only=True)
class ImageViewsRecipe(ImagePretrainRecipe):
    """Methods that compare views of a picture, around any encoder.

    Attributes:
        encoder: the part that survives.
        first, second: blur and solarisation of the two views.
    """

    augment: ViewConfig = field(default_factory=contrast_view)
    encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    first: AppearanceConfig = field(default_factory=lambda: AppearanceConfig(blur=0.5))
    second: AppearanceConfig = field(default_factory=lambda: AppearanceConfig(blur=0.5))

    def build_encoder(self) -> nn.Module:
        return self.encoder.build(self.augment.size)

    def views(self) -> list[ViewGroup]:
        return [ViewGroup(view=self.augment, appearance=appearance) for appearance in (self.first, self.second)]

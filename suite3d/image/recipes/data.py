"""Which pictures a recipe reads: one folder is enough, and none means procedural fractals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from suite3d.config import ConfigError
from suite3d.image.data.fractals import FractalConfig, Fractals
from suite3d.image.data.sets import Digits, ImageFolder, ImageSet
from suite3d.source import find_split


@dataclass(kw_only=True)
class ImageDataConfig:
    """Pictures.

    Attributes:
        root: folder of the pictures (class folders, a bare folder, tar shards); empty = the procedural fractals.
        kind: ``auto`` (a folder where ``root`` is given, else fractals), ``folder``, ``fractals``, or ``digits`` (scikit-learn's).
        split, val_split: sub-folders of the root; empty = ``train`` and ``val`` (or ``test``) where it has them.
        fractals: the procedural pictures.
    """

    root: Path = Path("")
    kind: Literal["auto", "folder", "fractals", "digits"] = "auto"
    split: str = ""
    val_split: str = ""
    fractals: FractalConfig = field(default_factory=FractalConfig)


def build_images(config: ImageDataConfig, *, validation: bool = False, classes: Sequence[str] = ()) -> ImageSet:
    """The training or validation pictures.

    Args:
        config: which.
        validation: those to score on.
        classes: names of the training classes, which validation folders follow; empty = list the training folder for them.

    Raises:
        ConfigError: nothing there, or a library that is not installed.
    """
    part: Literal["train", "val"] = "val" if validation else "train"
    kind = _kind(config)
    try:
        if kind == "fractals":
            return Fractals(config.fractals, part)
        if kind == "digits":
            return Digits(part)
        if config.root == Path(""):
            raise ConfigError("data.kind=folder needs data.root=FOLDER")
        split = (config.val_split if validation else config.split) or find_split(config.root, part) or ""
        return ImageFolder(config.root, split, classes=(classes or build_images(config).classes) if validation else ())
    except (ValueError, OSError, ImportError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error


def has_validation(config: ImageDataConfig) -> bool:
    """Whether the data have validation pictures of their own."""
    return _kind(config) != "folder" or bool(config.val_split or find_split(config.root, "val"))


def describe_images(config: ImageDataConfig) -> str:
    """Where the pictures come from, for provenance; procedural data are called synthetic."""
    kind = _kind(config)
    if kind == "fractals":
        return f"fractals (synthetic, seed {config.fractals.seed})"
    return "scikit-learn digits" if kind == "digits" else str(config.root)


def _kind(config: ImageDataConfig) -> str:
    if config.kind != "auto":
        return config.kind
    return "fractals" if config.root == Path("") else "folder"

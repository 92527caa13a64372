"""Which objects a recipe reads: one folder is enough, and none means procedural shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from suite3d.config import ConfigError
from suite3d.pointcloud.data.objects.sets import ObjectFolder, ObjectSet, has_split
from suite3d.pointcloud.data.objects.synthetic import ShapeConfig, Shapes


@dataclass(kw_only=True)
class ObjectDataConfig:
    """Object clouds.

    Attributes:
        root: folder of the objects (class folders, or none); empty = the procedural shapes.
        up: axis of the files that points up; ModelNet40 and ShapeNet have y.
        mesh_points: points drawn of a mesh.
        memory_mb: objects kept in memory as they were read, megabytes in each loader worker; 0 reads every object every time.
        shapes: the procedural shapes.
    """

    root: Path = Path("")
    up: Literal["x", "y", "z"] = "z"
    mesh_points: int = 4096
    memory_mb: int = 256
    shapes: ShapeConfig = field(default_factory=ShapeConfig)


def build_objects(config: ObjectDataConfig, *, validation: bool = False, classes: Sequence[str] = (), channels: Sequence[str] = ()) -> ObjectSet:
    """The training or validation objects.

    Args:
        config: which.
        validation: those to score on.
        classes: names of the training classes, which validation folders follow; empty = list the training folder for them.
        channels: columns beside xyz that the encoder reads.

    Raises:
        ConfigError: nothing there.
    """
    part: Literal["train", "val"] = "val" if validation else "train"
    try:
        if config.root == Path(""):
            return Shapes(config.shapes, part)
        names = tuple(classes) or (build_objects(config, channels=channels).classes if validation else ())
        return ObjectFolder(config.root, part, classes=names, channels=channels, up=config.up, mesh_points=config.mesh_points)
    except ValueError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error


def has_validation(config: ObjectDataConfig) -> bool:
    """Whether the data have validation objects of their own."""
    return config.root == Path("") or has_split(config.root)


def describe_objects(config: ObjectDataConfig) -> str:
    """Where the objects come from, for provenance; procedural data are called synthetic."""
    return f"procedural shapes (synthetic, seed {config.shapes.seed})" if config.root == Path("") else str(config.root)

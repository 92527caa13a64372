"""Small synthetic frames with every optional field filled."""

from __future__ import annotations

import numpy as np

from suite3d.pointcloud.data.dataset import FrameDataset
from suite3d.pointcloud.data.frame import Frame
from suite3d.source import BadSample


def make_scene(seed: int, *, points: int = 400, boxes: int = 5, velocity: bool = True) -> Frame:
    """A frame with scattered points, points well inside and outside of disjoint boxes, and every optional field filled."""
    rng = np.random.default_rng(seed)
    centers = np.stack([np.arange(boxes) * 8.0 - 12, rng.uniform(-10, 10, boxes), rng.uniform(-1, 1, boxes)], axis=1)
    sizes = rng.uniform([3, 1.4, 1.2], [5, 2, 2], (boxes, 3))
    yaw = rng.uniform(-np.pi, np.pi, boxes)
    inside = []
    for center, size, angle in zip(centers, sizes, yaw):
        local = rng.uniform(-0.45, 0.45, (30, 3)) * size
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        inside.append(local @ turn.T + center)
    ground = np.concatenate([rng.uniform(-25, 25, (points, 2)), rng.normal(-4, 0.02, (points, 1))], axis=1)
    xyz = np.concatenate([*inside, ground]).astype(np.float32)
    normals = rng.normal(size=(len(xyz), 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    ring = rng.integers(0, 16, (len(xyz), 1))
    pose = np.eye(4)
    pose[:3, 3] = rng.normal(size=3) * 10
    pose[:2, :2] = [[0.6, -0.8], [0.8, 0.6]]
    rows = np.concatenate([centers, sizes, yaw[:, None], rng.normal(size=(boxes, 2))], axis=1).astype(np.float32)
    return Frame(
        name=f"drive/{seed}",
        sequence="drive",
        xyz=xyz,
        feats=np.concatenate([rng.random((len(xyz), 1)), normals, ring], axis=1).astype(np.float32),
        channels=("intensity", "nx", "ny", "nz", "ring"),
        pose=pose,
        boxes=rows if velocity else rows[:, :7],
        classes=[("car", "van")[k % 2] for k in range(boxes)],
        track_ids=np.arange(boxes, dtype=np.int64),
        point_labels=rng.integers(0, 5, len(xyz)),
        instances=rng.integers(0, 5, len(xyz)),
        flow=rng.normal(size=(len(xyz), 3)).astype(np.float32),
    )


class Scenes(FrameDataset):
    """In-memory data set: sequence k has ``lengths[k]`` frames; frames in ``broken`` are bad samples."""

    channels = ("intensity", "nx", "ny", "nz", "ring")
    class_names = ("car", "van")

    def __init__(self, lengths: list[int], *, broken: tuple[int, ...] = (), unlabelled: tuple[int, ...] = ()) -> None:
        self.provides = frozenset({"boxes", "poses", "sequences"})
        self.places = [(f"drive{k}", n) for k, length in enumerate(lengths) for n in range(length)]
        self.broken, self.unlabelled = broken, unlabelled

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        return f"{self.places[index][0]}/{self.places[index][1]}"

    def sequence(self, index: int) -> str:
        return self.places[index][0]

    def labelled(self, index: int) -> bool:
        return index not in self.unlabelled

    def frame(self, index: int) -> Frame:
        if index in self.broken:
            raise BadSample(self.name(index), "broken on purpose")
        frame = make_scene(index)
        frame.name, frame.sequence = self.name(index), self.sequence(index)
        if index in self.unlabelled:
            frame.boxes, frame.classes, frame.track_ids = None, [], None
        return frame

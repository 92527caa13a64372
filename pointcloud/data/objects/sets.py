"""Sets of object clouds: what each offers, and folders of files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from suite3d.engine.order import stream_seed
from suite3d.image.decode import natural_key
from suite3d.pointcloud.data.dataset import FrameDataset
from suite3d.pointcloud.data.files import load_points
from suite3d.pointcloud.data.frame import Frame
from suite3d.pointcloud.data.objects.mesh import read_obj, read_off, sample_surface
from suite3d.source import SPLIT_NAMES, BadSample, find_split

SUFFIXES = (".npy", ".npz", ".ply", ".pcd", ".off", ".obj", ".txt", ".xyz", ".pts")
NORMALS = ("nx", "ny", "nz")
Up = Literal["x", "y", "z"]
_UPRIGHT = {"x": (1, 2, 0), "y": (2, 0, 1), "z": (0, 1, 2)}  # cyclic, so no mirror image


class ObjectSet(FrameDataset):
    """Clouds of single objects, one a frame, z up. Units are whatever the files have: views normalise them.

    Attributes:
        classes: class names; () without labels.
    """

    provides: frozenset[str] = frozenset()
    class_names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def label(self, index: int) -> int | None:
        """Class of object ``index``, or None. Reads no file."""
        return None

    def sequence(self, index: int) -> str:
        return self.name(index)


class ObjectFolder(ObjectSet):
    """Every object file under a folder, in natural order; the first folders below the root are the classes, where there are two and no file
    lies outside of them.

    Files: ``.npy`` and ``.npz`` arrays, ``.ply`` and ``.pcd`` points, ``.txt`` / ``.xyz`` / ``.pts`` tables of numbers (ModelNet40's resampled
    files among them), ``.off`` and ``.obj`` meshes, of which ``mesh_points`` are drawn evenly over the surface, the same ones every time.
    Tables have the columns x y z, or x y z nx ny nz.

    Splits, the first that is there: folders ``train`` and ``test`` (or ``val``) at the root; lists ``*train.txt`` and ``*test.txt`` at the
    root with a name of a file a line (ModelNet40 resampled; of several the longest); folders ``train`` and ``test`` in every class folder
    (ModelNet as published). Without any all files are for training.

    Args:
        root: the folder.
        part: which split.
        classes: class names in the order of their numbers, where they must agree with another split; () = those found, sorted.
        channels: what an object carries beside xyz: () or the normals.
        up: axis of the files that points up; objects are turned (not mirrored) so that it is z.
        mesh_points: points of a mesh.

    Raises:
        ValueError: no such folder, nothing in it, a class folder that is not among ``classes``, or unknown channels.
    """

    def __init__(
        self,
        root: Path,
        part: Literal["train", "val"] = "train",
        *,
        classes: Sequence[str] = (),
        channels: Sequence[str] = (),
        up: Up = "z",
        mesh_points: int = 4096,
    ) -> None:
        if tuple(channels) not in ((), NORMALS):
            raise ValueError(f"channels of object files: expected none or {list(NORMALS)}, got {list(channels)}")
        if not root.is_dir():
            raise ValueError(f"{root} is not a folder")
        self.channels, self.up, self.mesh_points = tuple(channels), up, mesh_points
        folder = find_split(root, part)
        self.root = root / folder if folder else root
        self.files = _part(self.root, part, divided=folder is not None)
        if not self.files:
            raise ValueError(f"{self.root} holds no object of the split '{part}' ({', '.join(SUFFIXES)})")
        self.classes = tuple(classes) or _class_folders(self.root, self.files)
        self._labels = [self._class_of(path) for path in self.files]

    def _class_of(self, path: Path) -> int | None:
        if not self.classes:
            return None
        name = path.relative_to(self.root).parts[0]
        if name not in self.classes:
            raise ValueError(f"{path} is in the class folder '{name}', the classes are {list(self.classes)[:8]}")
        return self.classes.index(name)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index].relative_to(self.root).as_posix()

    def label(self, index: int) -> int | None:
        return self._labels[index]

    def frame(self, index: int) -> Frame:
        path, name = self.files[index], self.name(index)
        xyz, normals = read_object(path, mesh_points=self.mesh_points, seed=stream_seed("mesh", name))
        if self.channels and normals is None:
            raise BadSample(path, "carries no normals: set encoder.channels=[]")
        feats = normals if self.channels and normals is not None else np.zeros((len(xyz), 0), dtype=np.float32)
        turn = list(_UPRIGHT[self.up])
        return Frame(
            name=name,
            sequence=name,
            xyz=np.ascontiguousarray(xyz[:, turn]),
            feats=np.ascontiguousarray(feats[:, turn]) if self.channels else feats,
            channels=self.channels,
        )


def has_split(root: Path) -> bool:
    """Whether a folder of objects has a part of its own to score on."""
    if find_split(root, "val"):
        return True
    return bool(_part(root, "val", divided=False))


def read_object(path: Path, *, mesh_points: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Points ``(N, 3)`` of a file, and their unit normals where it has them. Raises BadSample."""
    suffix = path.suffix.lower()
    if suffix in (".off", ".obj"):
        try:
            return sample_surface((read_off if suffix == ".off" else read_obj)(path), mesh_points, np.random.default_rng(seed))
        except ValueError as error:
            raise BadSample(path, str(error)) from error
    if suffix in (".ply", ".pcd", ".npz"):
        points = load_points(path)
        held = set(NORMALS) <= set(points.channels)
        return points.xyz, points.feats[:, [points.channels.index(name) for name in NORMALS]] if held else None
    try:
        table = np.load(path, allow_pickle=False) if suffix == ".npy" else _read_table(path)
    except (OSError, ValueError, EOFError) as error:
        raise BadSample(path, f"unreadable: {error}") from error
    return _columns(path, table)


def _read_table(path: Path) -> NDArray[np.float64]:
    lines = path.read_text(encoding="ascii", errors="replace").replace(",", " ").splitlines()
    rows = [line.split() for line in lines if line.strip()]
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"rows of {min(map(len, rows))} to {max(map(len, rows))} columns: expected x y z [nx ny nz]")
    return np.array(rows, dtype=np.float64)


def _columns(path: Path, table: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    if table.ndim != 2 or table.dtype.kind not in "fiu" or table.shape[1] not in (3, 6) or not len(table):
        raise BadSample(path, f"expected rows of x y z or x y z nx ny nz, got {table.dtype} {table.shape}")
    if not np.isfinite(table).all():
        raise BadSample(path, f"{int((~np.isfinite(table).all(axis=1)).sum())} of {len(table)} rows hold NaN or Inf")
    rows = table.astype(np.float32)
    if rows.shape[1] == 3:
        return rows, None
    length = np.linalg.norm(rows[:, 3:], axis=1)
    if abs(float(np.median(length)) - 1) > 0.05:
        raise BadSample(path, f"columns 4 to 6 are no unit normals (median length {float(np.median(length)):.3g}): keep x y z only")
    return rows[:, :3], rows[:, 3:] / np.maximum(length, 1e-6)[:, None]


def _part(root: Path, part: Literal["train", "val"], *, divided: bool) -> list[Path]:
    """The files of a split. ``divided``: the root is already that of the split."""
    found = [path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")]
    if any(path.parent != root for path in found):  # beside class folders stand lists and notes
        lists = [path for path in root.glob("*.txt") if path.stem.lower().split("_")[-1] in SPLIT_NAMES["train"] + SPLIT_NAMES["val"]]
        found = [path for path in found if path.parent != root]
    else:
        lists = []
    files = sorted(found, key=natural_key)
    if divided:
        return files
    lists.sort(key=lambda path: path.stat().st_size)  # ModelNet40's folder also holds ModelNet10's lists
    named = {path.stem.lower().split("_")[-1]: path for path in lists}
    if any(name in named for name in SPLIT_NAMES["train"]):
        chosen = next((named[name] for name in SPLIT_NAMES[part] if name in named), None)
        return [] if chosen is None else _listed(root, files, chosen)
    inner = {path.relative_to(root).parts[1].lower() for path in files if len(path.relative_to(root).parts) == 3}
    if files and inner & set(SPLIT_NAMES["train"]) and all(len(path.relative_to(root).parts) == 3 for path in files):
        folder = next((name for name in SPLIT_NAMES[part] if name in inner), None)
        return [path for path in files if path.parent.name.lower() == folder]
    return files if part == "train" else []


def _listed(root: Path, files: Sequence[Path], chosen: Path) -> list[Path]:
    """The files whose name, with or without folder and suffix, is a line of the list. Raises ValueError for a name that is no file."""
    wanted = dict.fromkeys(line.strip() for line in chosen.read_text(encoding="utf-8").splitlines() if line.strip())
    kept, seen = [], set()
    for path in files:
        relative = path.relative_to(root)
        match = {relative.as_posix(), relative.with_suffix("").as_posix(), path.name, path.stem} & wanted.keys()
        if match:
            kept.append(path)
            seen |= match
    missing = [name for name in wanted if name not in seen]
    if missing:
        raise ValueError(f"{chosen} names {len(missing)} objects that are not there, e.g. {missing[:3]}")
    return kept


def _class_folders(root: Path, files: Sequence[Path]) -> tuple[str, ...]:
    places = [path.relative_to(root).parts for path in files]
    if any(len(parts) < 2 for parts in places):
        return ()
    names = tuple(sorted({parts[0] for parts in places}))
    return names if len(names) > 1 else ()

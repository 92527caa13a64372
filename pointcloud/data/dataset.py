"""What every scan data set offers: frames by index, names and sequences without reading a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from suite3d.pointcloud.data.frame import Frame

PROVIDES = frozenset({"boxes", "poses", "sequences", "point_labels", "flow"})


class FrameDataset(ABC):
    """Indexable scans with whatever is known about them. Picklable; opens files only inside :meth:`frame`.

    Attributes:
        provides: which of :data:`PROVIDES` its frames carry (some frames may still lack boxes: see :meth:`labelled`).
        channels: feature columns of every frame.
        class_names: names that occur in ``Frame.classes``, in the order of the data set's own class list; () without boxes.
    """

    provides: frozenset[str]
    channels: tuple[str, ...]
    class_names: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int:
        """Number of frames."""

    @abstractmethod
    def frame(self, index: int) -> Frame:
        """Frame ``index`` as recorded, no augmentation. Raises :class:`suite3d.source.BadSample`."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Name of frame ``index``, unique in the data set. Reads no file."""

    @abstractmethod
    def sequence(self, index: int) -> str:
        """Name of the drive frame ``index`` belongs to; its own name where there are no drives. Reads no file."""

    def labelled(self, index: int) -> bool:
        """Whether frame ``index`` has boxes (possibly none in view). Reads no file."""
        return "boxes" in self.provides

    def by_sequence(self, indices: Sequence[int] | None = None) -> dict[str, list[int]]:
        """Frame indices of each sequence in recording order, sequences in order of first appearance."""
        groups: dict[str, list[int]] = {}
        for index in range(len(self)) if indices is None else indices:
            groups.setdefault(self.sequence(index), []).append(index)
        return groups


class ConcatDataset(FrameDataset):
    """Several data sets one after the other.

    Names and sequences get the part's tag in front (``kitti/000123``). Channels are those all parts share; the others are left out.
    ``provides`` is what all parts provide, except that boxes of one part are enough (the other frames are not ``labelled``).

    Args:
        parts: the data sets.
        tags: one name a part; default "0", "1", ...
    """

    def __init__(self, parts: Sequence[FrameDataset], *, tags: Sequence[str] | None = None) -> None:
        if not parts:
            raise ValueError("ConcatDataset expected at least one data set, got none")
        self.parts = list(parts)
        self.tags = [str(place) for place in range(len(parts))] if tags is None else list(tags)
        if len(self.tags) != len(self.parts) or len(set(self.tags)) != len(self.tags):
            raise ValueError(f"expected {len(self.parts)} different tags, got {self.tags}")
        self.starts = [0]
        for part in self.parts:
            self.starts.append(self.starts[-1] + len(part))
        shared = frozenset.intersection(*(part.provides for part in self.parts))
        self.provides = shared | ({"boxes"} if any("boxes" in part.provides for part in self.parts) else set())
        self.channels = tuple(name for name in self.parts[0].channels if all(name in part.channels for part in self.parts))
        self.class_names = tuple(dict.fromkeys(name for part in self.parts for name in part.class_names))

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        place = next(place for place, end in enumerate(self.starts[1:]) if index < end)
        return place, index - self.starts[place]

    def __len__(self) -> int:
        return self.starts[-1]

    def frame(self, index: int) -> Frame:
        place, inner = self._locate(index)
        frame = self.parts[place].frame(inner)
        columns = [frame.channels.index(name) for name in self.channels]
        feats = frame.feats if frame.channels == self.channels else frame.feats[:, columns]
        return replace(frame, name=self.name(index), sequence=self.sequence(index), feats=feats, channels=self.channels)

    def name(self, index: int) -> str:
        place, inner = self._locate(index)
        return f"{self.tags[place]}/{self.parts[place].name(inner)}"

    def sequence(self, index: int) -> str:
        place, inner = self._locate(index)
        return f"{self.tags[place]}/{self.parts[place].sequence(inner)}"

    def labelled(self, index: int) -> bool:
        place, inner = self._locate(index)
        return self.parts[place].labelled(inner)

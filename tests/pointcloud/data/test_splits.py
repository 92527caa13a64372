from __future__ import annotations

import pytest

from suite3d.pointcloud.data.splits import label_subset, names_hash, parse_fraction
from tests.pointcloud.data.scenes import Scenes


def test_fractions_are_nested_and_by_whole_sequences() -> None:
    data = Scenes([3] * 40)
    for draw in range(3):
        parts = [label_subset(data, fraction, draw=draw) for fraction in (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)]
        assert [len(part.sequences) for part in parts] == [1, 2, 4, 8, 20, 40]
        for small, large in zip(parts, parts[1:]):
            assert set(small.indices) < set(large.indices) and large.sequences[: len(small.sequences)] == small.sequences
        for part in parts:
            assert len(part) == 3 * len(part.sequences) and {data.sequence(k) for k in part.indices} == set(part.sequences)
            assert part.hash == names_hash([data.name(k) for k in part.indices])
    assert parts[-1].indices == tuple(range(120))


def test_choice_is_pinned() -> None:
    """These hashes may never change: published runs state them."""
    data = Scenes([2] * 20)
    assert label_subset(data, "10%").sequences == PINNED["sequences"]
    assert label_subset(data, "10%").hash == PINNED["10%"]
    assert label_subset(data, "10%", draw=1).hash == PINNED["10% draw 1"]
    assert label_subset(data, "50%").hash == PINNED["50%"]
    assert label_subset(data, "10%", salt="other").hash != PINNED["10%"]


def test_choice_depends_on_names_only() -> None:
    data = Scenes([2] * 20)
    order = list(reversed(range(40)))
    assert label_subset(data, 0.3, indices=order).indices == label_subset(data, 0.3).indices
    half = label_subset(data, 0.5, indices=range(20))
    assert max(half.indices) < 20 and half.total_sequences == 10


def test_unlabelled_frames_do_not_count() -> None:
    data = Scenes([2, 2, 2], unlabelled=(0, 1, 2))
    part = label_subset(data, 1.0)
    assert part.indices == (3, 4, 5) and part.total_sequences == 2
    with pytest.raises(ValueError, match="no frame"):
        label_subset(Scenes([2], unlabelled=(0, 1)), 0.5)


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), (" 100 % ", 1.0), ("0.2", 0.2), ("1", 1.0), ("0.5%", 0.005)])
def test_parse_fraction(text: str, value: float) -> None:
    assert parse_fraction(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "five", "0", "0%", "-5%", "101%", "1.5", "nan"])
def test_bad_fractions(text: str) -> None:
    with pytest.raises(ValueError, match="fraction"):
        parse_fraction(text)


PINNED = {"sequences": ("drive18", "drive7"), "10%": "9f5e558fd8686d9c", "10% draw 1": "78000f57c470872e", "50%": "58b0b2cea277bf96"}

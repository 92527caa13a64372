"""Where the recorded results of the official evaluators lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("SUITE3D_DATA", Path(__file__).parents[3] / "shared" / "data"))


def fixture_folder(name: str) -> Path:
    folder = SHARED / "eval" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: set SUITE3D_DATA to the folder with the evaluation fixtures")
    return folder


@pytest.fixture(scope="session")
def kitti_folder() -> Path:
    return fixture_folder("kitti_pointrcnn")


@pytest.fixture(scope="session")
def nuscenes_folder() -> Path:
    return fixture_folder("nuscenes_scene-0916")

"""Real samples: ../shared/data or $SUITE3D_DATA."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("SUITE3D_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))


@pytest.fixture
def shared_data() -> Path:
    if not ROOT.is_dir():
        pytest.skip(f"no sample data in {ROOT}; set SUITE3D_DATA")
    return ROOT

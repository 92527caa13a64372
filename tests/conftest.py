"""What every test runs under."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is written to, or read from, the caches of the person who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUITE3D_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield

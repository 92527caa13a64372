"""Every sample once: what is said on the way."""

from __future__ import annotations

import pytest

from suite3d.engine import once
from tests.engine.toy import ToySource


def test_long_readings_say_how_far_they_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(once, "NEWS_EVERY", 0.0)
    parts = list(once.each_once(ToySource(10), range(10), batch_size=4))
    assert [part.rows for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["4/10", "8/10"]
    assert all("samples/s" in line and line.endswith("left") for line in lines)


def test_short_readings_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(list(once.each_once(ToySource(3), range(3), batch_size=2))) == 2
    assert capsys.readouterr().out == ""

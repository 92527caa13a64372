"""The forecast draws the right conclusion from a rate, and measures what the loader gives."""

from __future__ import annotations

import time

import pytest

from suite3d.cli import main
from suite3d.config import ConfigError
from suite3d.image.views import ViewConfig
from suite3d.video.data import forecast as module
from suite3d.video.data.forecast import ForecastConfig, bench_data, forecast, loader_rate
from suite3d.video.data.lists import read_list
from suite3d.video.data.source import ClipSource
from tests.video.data import clips


def source(folder, **options) -> ClipSource:
    return ClipSource(read_list(folder).items, frames=4, stride=2, augment=ViewConfig(size=32), **options)


@pytest.mark.parametrize(("model_rate", "repeat", "busy"), [(0, 1, None), (90, 1, 100), (350, 4, 100), (1000, 8, 80)])
def test_repeats_cover_the_gap(tmp_path, monkeypatch, model_rate, repeat, busy):
    clips.write(tmp_path / "v.mp4", 80, gop=250)
    monkeypatch.setattr(module, "loader_rate", lambda *_, **__: (100.0, 0))
    monkeypatch.setattr(module, "decode_cost", lambda *_, **__: 0.01)
    found = forecast(source(tmp_path), ForecastConfig(workers=1, model_rate=model_rate))
    assert found.recommended_repeat == repeat and found.per_core == pytest.approx(100)
    text = " ".join(found.advice)
    assert "transcode" in text  # one key frame in 80
    if busy is not None:
        assert f"{busy} %" in text


def test_rate_is_that_of_a_slow_source(tmp_path, monkeypatch):
    """With 20 ms a clip in one process there can be 50 clips a second at most; unreadable clips do not count."""
    clips.write(tmp_path / "v.mp4", 12)
    (tmp_path / "broken.mp4").write_bytes(b"x")
    slow = source(tmp_path)
    get = slow.get
    monkeypatch.setattr(slow, "get", lambda index, rng: (time.sleep(0.02), get(index, rng))[1])
    rate, skipped = loader_rate(slow, workers=0, batch=2, seconds=0.6, seed=0)
    assert 5 < rate < 26 and skipped > 0  # half of the clips are broken


def test_command(tmp_path, capsys):
    clips.write(tmp_path / "v.mp4", 40)
    assert main(["bench", "data", str(tmp_path), "workers=1", "seconds=0.3", "frames=4", "batch=2", "model_rate=1000000"]) == 0
    said = capsys.readouterr().out
    assert "clips/s" in said and "choose repeat=8" in said
    (tmp_path / "v.mp4").write_bytes(b"x")
    with pytest.raises(ConfigError, match="nothing to train on"):
        bench_data(tmp_path, ["workers=1", "seconds=0.3"])
    with pytest.raises(ConfigError):
        bench_data(tmp_path, ["frames=0"])

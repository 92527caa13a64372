"""Batch style standardisation: amplitudes as defined, phases kept, drawn from the seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from suite3d.image.data.batch import ImageBatch
from suite3d.image.data.fractals import FractalConfig, Fractals
from suite3d.image.data.source import ImageSource, ViewGroup
from suite3d.image.recipes.probe import plain_view
from suite3d.image.style import StyleConfig, StyleDraw, draw_style, low_frequencies, standardise_style
from suite3d.image.views import ViewConfig

STYLED = ViewConfig(size=16, crop="center", style=StyleConfig(probability=1.0, share=(0.1, 0.6)))


def noise(batch: int = 4, height: int = 12, width: int = 10) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(3)) * 255


def batch_of(view: ViewConfig, seeds: tuple[int, ...]) -> ImageBatch:
    source = ImageSource(Fractals(FractalConfig(classes=3, train=2, size=24, points=3000)), [ViewGroup(count=2, view=view)])
    return source.collate([source.get(index, np.random.default_rng(0)) for index in range(len(seeds))], list(seeds))


@pytest.mark.parametrize("towards", ["picture", "mean"])
@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("size", [(12, 10), (11, 9), (8, 8)])
def test_amplitude_is_as_defined_and_the_phase_stays(towards: str, strength: float, size: tuple[int, int]) -> None:
    """Against the full complex spectrum, frequency by frequency."""
    x = noise(4, *size)
    share = 0.25
    out = standardise_style(x, StyleDraw(towards=towards, reference=2, share=share, strength=strength))  # type: ignore[arg-type]
    before, after = (torch.fft.fft2(y.double()) for y in (x, out))
    amplitude = before.abs()
    wanted = amplitude.mean(dim=0) if towards == "mean" else amplitude[2]
    changed = 0
    for row in range(size[0]):
        for column in range(size[1]):
            cycles = [min(row, size[0] - row), min(column, size[1] - column)]
            low = cycles[0] <= int(0.5 * size[0] / 2) and cycles[1] <= int(0.5 * size[1] / 2)
            lam = strength * low
            changed += low
            torch.testing.assert_close(
                after[..., row, column].abs(), (1 - lam) * amplitude[..., row, column] + lam * wanted[..., row, column], rtol=1e-3, atol=1e-2
            )
    assert 0 < changed < size[0] * size[1]
    turned = torch.polar(torch.ones_like(amplitude), after.angle() - before.angle())
    assert (turned - 1).abs().max() < 1e-3


def test_the_mean_goes_along_and_the_whole_spectrum_can_be_taken() -> None:
    x = noise()
    first = standardise_style(x, StyleDraw(towards="picture", reference=1, share=0.0, strength=1.0))
    torch.testing.assert_close(first.mean(dim=(2, 3)), x[1].mean(dim=(1, 2)).expand(4, 3))
    assert int(low_frequencies(12, 10, 0.0).sum()) == 1 and low_frequencies(12, 10, 1.0).all() and low_frequencies(11, 9, 1.0).all()
    whole = standardise_style(x, StyleDraw(towards="picture", reference=1, share=1.0, strength=1.0))
    amplitude = torch.fft.rfft2(whole).abs()
    torch.testing.assert_close(amplitude, torch.fft.rfft2(x[1]).abs().expand_as(amplitude), rtol=1e-3, atol=0.05)
    torch.testing.assert_close(whole[1], x[1], rtol=1e-4, atol=1e-2)


def test_a_batch_of_one_stays_as_it_is() -> None:
    one = noise(1)
    for towards in ("picture", "mean"):
        draw = StyleDraw(towards=towards, reference=0, share=0.5, strength=1.0)  # type: ignore[arg-type]
        assert torch.equal(standardise_style(one, draw), one)
    with pytest.raises(ValueError, match="row 4"):
        standardise_style(noise(), StyleDraw(towards="picture", reference=4, share=0.5, strength=1.0))


def test_draws_follow_the_seeds_of_the_batch() -> None:
    config = StyleConfig(probability=0.5, share=(0.1, 0.9), strength=(0.2, 1.0))
    draws = [draw_style(config, [seed, seed + 1, seed + 2], 0) for seed in range(400)]
    assert draws == [draw_style(config, [seed, seed + 1, seed + 2], 0) for seed in range(400)]
    on = [draw for draw in draws if draw is not None]
    assert 150 < len(on) < 250 and {draw.reference for draw in on} == {0, 1, 2}
    assert all(0.1 <= draw.share <= 0.9 and 0.2 <= draw.strength <= 1 for draw in on)
    assert draw_style(config, [1, 2], 0) != draw_style(replace(config, probability=1.0), [1, 2], 1)
    assert draw_style(StyleConfig(), [1, 2], 0) is None


def test_views_carry_their_style_and_show_it() -> None:
    batch = batch_of(STYLED, (5, 6, 7, 8))
    styles = [view.style for view in batch.views]
    assert styles[0] is not None and styles[1] is not None and styles[0] != styles[1]
    assert [view.style for view in batch_of(STYLED, (5, 6, 7, 8)).views] == styles
    mean, std = (torch.tensor(value)[:, None, None] for value in (batch.mean, batch.std))
    expected = (standardise_style(batch.crops(0), styles[0]).clamp(0, 255) / 255 - mean) / std
    torch.testing.assert_close(batch.pixels(0), expected, rtol=1e-4, atol=1e-4)
    plain = batch_of(replace(STYLED, style=StyleConfig()), (5, 6, 7, 8))
    assert plain.views[0].style is None and not torch.allclose(plain.pixels(0), batch.pixels(0), atol=1e-2)
    assert plain_view(STYLED).view.style.probability == 0, "an evaluation shows pictures as they are"
    assert batch.to("cpu").views[0].style == styles[0]


def test_wrong_settings_are_refused() -> None:
    for wrong in ({"probability": 1.5}, {"share": (0.5, 0.2)}, {"strength": (0.0, 2.0)}):
        with pytest.raises(ValueError, match="expected"):
            StyleConfig(**wrong)  # type: ignore[arg-type]
    from suite3d.video.data.lists import VideoItem
    from suite3d.video.data.source import ClipSource

    item = VideoItem.__new__(VideoItem)
    with pytest.raises(ValueError, match="of pictures, not of clips"):
        ClipSource([item], frames=2, stride=1, augment=STYLED)

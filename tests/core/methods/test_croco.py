"""CroCo: the loss is the definition's with its block order, the two views have colours of their own, only the first is masked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from suite3d.image.recipes.cross_view import CroCoRecipe, recoloured_pair_view
from suite3d.methods.croco import CroCo, CroCoConfig
from suite3d.nn.decoder import CrossSelfDecoder, SelfCrossDecoder
from tests.core.methods.cross_views import shaken, slow_loss, table
from tests.core.methods.joint import batch, gradient_norm, trained, vit

VIEWS = CroCoRecipe(augment=replace(recoloured_pair_view(), size=16)).views()


def method(ratio=0.85, **changes):
    decoder = SelfCrossDecoder(16, 16, 1, 2, 48, table(16), generator=torch.Generator().manual_seed(1))
    return CroCo(vit(**({"class_token": False} | changes)), decoder, CroCoConfig(mask_ratio=ratio))


@pytest.mark.parametrize("class_token", [False, True])
def test_loss_is_its_definition(class_token):
    model, data = shaken(method(class_token=class_token)), batch(3, VIEWS)
    output = model(data)
    assert output.loss.item() == pytest.approx(slow_loss(model, data, masked=0, reference=1, ratio=0.85, croco=True), abs=1e-5)
    assert output.features.shape[1] == 16 and "reference" in output.visuals()


def test_views_are_recoloured_independently():
    data = batch(8, VIEWS)
    first, second = data.views
    assert (first.picture, second.picture) == (0, 1) and not first.flips.any() and not second.flips.any()
    assert ((first.colors - second.colors).abs().amax((1, 2)) > 1e-3).all()


def test_learns_and_repeats():
    data = batch(4, VIEWS)
    model = method()
    assert gradient_norm(model, data) > 0
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing, missing
    losses = trained(method(), data, steps=25)
    assert losses[-1] < 0.8 * losses[0]
    assert losses == trained(method(), data, steps=25), "the same seed, the same losses"


@pytest.mark.parametrize("cls", [SelfCrossDecoder, CrossSelfDecoder])
def test_nothing_of_the_decoder_stays_uninitialised(cls):
    with torch.device("meta"):
        decoder = cls(16, 16, 2, 2, 48, table(16))
    decoder.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*decoder.parameters(), *decoder.buffers()]:
            tensor.fill_(float("nan"))
    decoder.reset_parameters(torch.Generator().manual_seed(3))
    assert all(tensor.isfinite().all() for tensor in [*decoder.parameters(), *decoder.buffers()])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="mask ratio"):
        CroCoConfig(mask_ratio=0.0)
    with pytest.raises(ValueError, match="48 values of a patch"):
        CroCo(vit(), SelfCrossDecoder(16, 16, 1, 2, 3, table(16)))

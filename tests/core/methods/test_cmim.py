"""cMIM: the loss is the paper's with torch's own distributions; the code's variance has a floor; the decoder can be asked for embeddings."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from suite3d.image.data.source import ViewGroup
from suite3d.image.views import ViewConfig
from suite3d.masking import generators_of
from suite3d.methods.cmim import CMIM, CMIMConfig, log_normal
from tests.core.methods.joint import batch, gradient_norm, resnet, trained, vit

ENCODERS = {"vit": vit, "resnet": resnet}
PLAIN = [ViewGroup(view=ViewConfig(size=16, crop="center"))]


def method(kind="vit", **config):
    torch.manual_seed(0)
    small = {"latent": 6, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "decoder_patch": 4}
    return CMIM(ENCODERS[kind](), 16, CMIMConfig(**(small | config)))


def test_loss_is_its_definition():
    model, data = method(temperature=0.5), batch(5, PLAIN)
    with torch.no_grad():
        model.log_scale.fill_(-0.3)
    pixels = data.pixels()
    mean, raw = model.posterior(model.encoder.encode(pixels)[0][:, 0]).double().chunk(2, dim=1)
    q = Normal(mean, (-6 + torch.log1p((raw + 6).exp())).mul(0.5).exp())
    noise = torch.stack([torch.randn(6, generator=generator) for generator in generators_of(data.view_seeds(), "code")])
    z = q.mean + q.stddev * noise
    patches = model.decoder(z.float()).double()  # [B, 16, 48]
    pictures = torch.zeros_like(pixels, dtype=torch.float64)
    for n in range(16):
        row, column = n // 4 * 4, n % 4 * 4
        pictures[:, :, row : row + 4, column : column + 4] = patches[:, n].view(-1, 3, 4, 4)
    total = 0.0
    for i in range(5):
        log_p = Normal(pictures[i], math.exp(-0.3)).log_prob(pixels[i]).sum().item()
        log_q, log_prior = q.log_prob(z)[i].sum().item(), Normal(0.0, 1.0).log_prob(z[i]).sum().item()
        cosines = [torch.cosine_similarity(z[i], z[j], dim=0).item() for j in range(5)]
        others = sum(math.exp(cosines[j] / 0.5) for j in range(5) if j != i) / 4
        contrast = math.log(math.exp(1 / 0.5) / (math.exp(1 / 0.5) + others))
        total -= (log_p + contrast + (log_q + log_prior) / 2) / 5
    output = model(data)
    assert output.loss.item() == pytest.approx(total, rel=1e-5)
    error = (pictures - pixels).square().mean().item()
    assert output.metrics["reconstruction_error"].item() == pytest.approx(error, rel=1e-5)
    assert output.features.shape == (5, 16) and not output.features.requires_grad
    assert output.visuals()["reconstruction"].ndim == 3


def test_log_density_of_a_sample():
    x, mean, log_variance = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = Normal(mean, (log_variance / 2).exp()).log_prob(x).sum(dim=1)
    torch.testing.assert_close(log_normal(x, mean, log_variance), expected)


def test_variance_has_a_floor():
    model = method(floor=-3.0)
    with torch.no_grad():
        model.posterior.bias[6:] = torch.tensor([-1000.0, -50.0, 0.0, 0.0, 5.0, 5.0])
        model.posterior.weight.zero_()
    _, log_variance = model.code(torch.zeros(1, 16))
    torch.testing.assert_close(log_variance[0], torch.tensor([-3.0, -3.0, 0.0486, 0.0486, 5.0003, 5.0003]), atol=1e-4, rtol=0)


def test_informative_embeddings_come_from_the_mean_code():
    model, data = method(), batch(4, PLAIN)
    pixels = data.pixels()
    embedded = model.informative(pixels)
    assert embedded.shape == (4, 16)
    mean, _ = model.code(model.encoder.encode(pixels)[0][:, 0])
    pooled = model.decoder.head(embedded)  # the head is linear: of the mean hidden state it gives the mean patch
    torch.testing.assert_close(pooled, model.decoder(mean).mean(dim=1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ENCODERS)
def test_learns_and_repeats(kind):
    data = batch(6, PLAIN)
    assert gradient_norm(method(kind), data) > 0
    losses = trained(method(kind), data)
    assert losses[-1] < 0.9 * losses[0]
    assert trained(method(kind), data, steps=4) == losses[:4]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least two samples"):
        method()(batch(1, PLAIN))
    with pytest.raises(ValueError, match="temperature"):
        CMIMConfig(temperature=0.0)
    with pytest.raises(ValueError, match="positive sizes"):
        CMIMConfig(latent=0)
    with pytest.raises(ValueError):
        method(decoder_patch=5)

"""Under bfloat16 autocast the losses stay in float32 and close to what they are without, and every trained part gets a finite gradient."""

from __future__ import annotations

import pytest
import torch

from suite3d.video.methods.cvrl import CVRL, CVRLConfig
from suite3d.video.methods.rspnet import RSPNet, RSPNetConfig
from suite3d.video.methods.salt import SALT
from tests.video.methods import test_sigma, test_vjepa
from tests.video.methods.clips import batch, encoder
from tests.video.methods.pairs import TinyEncoder, pair_batch
from tests.video.methods.test_salt import predictor

METHODS = {
    "sigma": lambda: test_sigma.method("image"),
    "vjepa": test_vjepa.method,
    "salt": lambda: SALT(test_vjepa.student(), predictor(48), encoder()),
    "cvrl": lambda: CVRL(TinyEncoder(), CVRLConfig(hidden=16, dim=8)),
    "rspnet": lambda: RSPNet(TinyEncoder(), RSPNetConfig(dim=8, queue=12)),
}


@pytest.mark.parametrize("name", METHODS)
def test_bf16(name):
    torch.manual_seed(0)
    method = METHODS[name]()
    clips = pair_batch(4) if name in ("cvrl", "rspnet") else batch(3)
    plain = method(clips).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = method(clips)
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss, plain, rtol=0.05, atol=0.02)
    output.loss.backward()
    for parameter in method.parameters():
        assert not parameter.requires_grad or parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_encoder_and_state_survive_a_round_trip(name):
    torch.manual_seed(0)
    first, second = METHODS[name](), METHODS[name]()
    clips = pair_batch(4) if name in ("cvrl", "rspnet") else batch(3)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(clips).loss, second(clips).loss)
    assert sum(p.numel() for p in first.encoder.parameters()) > 0

"""V-JEPA 2: the loss is the definition's without a token cut off, the padding is never seen, the teacher is the moving average."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from suite3d.masking import padded_indices, two_block_masks
from suite3d.nn.predictor import LatentPredictor
from suite3d.nn.vit import VisionTransformer, ViTConfig
from suite3d.video.methods.latent import BlockContexts, BlockMaskConfig
from suite3d.video.methods.vjepa import VJEPA, VJEPAConfig
from tests.core.nn import test_predictor as slow
from tests.core.nn.naive_vit import block, double, embed, layer_norm, linear
from tests.video.methods.clips import batch

GRID = (4, 6, 6)


def student(**changes):
    return VisionTransformer(ViTConfig(**{"dim": 24, "depth": 2, "heads": 2, "positions": "rope", "qkv_bias": "full"} | SIZE | changes))


SIZE = {"clip": (8, 48, 48), "patch": (2, 8, 8)}


def method(**config):
    torch.manual_seed(0)
    encoder = student()
    return slow.shaken(VJEPA(encoder, LatentPredictor(24, 24, GRID, dim=24, depth=2, heads=2), VJEPAConfig(**config)))


def slow_encode(state, clip, places):
    """Tokens of ``places`` of one clip, encoded with nothing else in the sequence."""
    x = embed(clip[None], state)[:, places]
    for i in range(2):
        x = block(x, state, f"blocks.{i}", 2, turn=slow.slow_turn(places, 2))
    return layer_norm(x, state, "norm")[0]


def slow_loss(model, pixels, masks):
    """One clip after the other, context and hidden tokens as lists of whatever length they have."""
    state = double(model.state_dict())
    part = lambda name: {key.removeprefix(name + "."): value for key, value in state.items() if key.startswith(name + ".")}  # noqa: E731
    everything = list(range(math.prod(GRID)))
    kinds = []
    for kind, hidden in enumerate(masks):
        errors = []
        for clip, mask in zip(pixels.double(), hidden):
            target = slow_encode(part("encoder"), clip, everything)
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            places = (~mask).nonzero()[:, 0].tolist()
            context = slow_encode(part("student"), clip, places)
            context = linear(context, part("predictor"), "embed")
            rest = [n for n in everything if n not in places]
            x = torch.cat([context, part("predictor")["mask_tokens"][kind].expand(len(rest), -1)])[None]
            for i in range(2):
                x = block(x, part("predictor"), f"blocks.{i}", 2, turn=slow.slow_turn([*places, *rest], 2))
            predicted = linear(layer_norm(x, part("predictor"), "norm"), part("predictor"), "proj")[0, len(places) :]
            errors += [(p - target[n]).abs().mean() for p, n in zip(predicted, rest)]
        kinds.append(torch.stack(errors).mean())
    return torch.stack(kinds).mean()


def test_loss_is_its_definition_and_no_token_is_cut_off(monkeypatch):
    monkeypatch.setattr(slow, "GRID", GRID)
    model, clips = method(), batch(3)
    masks = model.contexts.masks(clips.view_seeds())
    counts = (~masks).sum(2)
    assert len(set(counts[0].tolist())) > 1, "the test needs contexts of different length"
    output = model(clips)
    assert output.loss.item() == pytest.approx(slow_loss(model, clips.pixels(), masks).item(), abs=1e-5)


def test_every_time_slot_keeps_all_its_tokens():
    """The released code's prefix cut would empty the last slots of long contexts; here each slot has as many tokens as the first."""
    contexts = BlockContexts((8, 14, 14), BlockMaskConfig())
    masks = contexts.masks(list(range(40)))
    for hidden, context in zip(masks, contexts.draw(list(range(40)), torch.device("cpu"))):
        assert torch.equal(context.hidden, hidden)
        for b in range(40):
            slots = torch.bincount(context.index[b][context.valid[b]] // 196, minlength=8)
            assert (slots == slots[0]).all() and slots[0] > 0
            assert sorted(context.index[b][context.valid[b]].tolist()) == (~hidden[b]).nonzero()[:, 0].tolist()
        shortest = int((~hidden).sum(1).min())
        cut = torch.bincount(context.index[:, :shortest].flatten() // 196, minlength=8)
        assert cut[-1] < cut[0], "cutting to the shortest does lose late tokens"


def test_a_padded_clip_has_the_features_it_has_alone():
    torch.manual_seed(1)
    encoder = student()
    pixels = torch.randn(3, 3, 8, 48, 48)
    visible = torch.rand(3, 144) < torch.tensor([0.2, 0.4, 0.7])[:, None]
    index, valid = padded_indices(visible, 144)
    together = encoder(pixels, index, valid)
    for b in range(3):
        own = visible[b].nonzero()[:, 0][None]
        alone = encoder(pixels[b : b + 1], own)
        torch.testing.assert_close(together[b, : own.shape[1]], alone[0], atol=1e-5, rtol=1e-5)
    moved = index.clone()
    moved[~valid] = 143  # whatever stands in for the padding
    torch.testing.assert_close(encoder(pixels, moved, valid)[valid], together[valid], atol=1e-6, rtol=1e-6)
    without = encoder(pixels, index)
    assert (without[valid] - together[valid]).abs().max() > 1e-3, "unmasked padding would have been seen"


def test_contexts_are_functions_of_the_seed_and_rarely_drawn_again():
    contexts = BlockContexts(GRID, BlockMaskConfig())
    all_masks = contexts.masks(list(range(300)))
    assert torch.equal(all_masks[:, 7:9], contexts.masks([7, 8]))
    plain = contexts._draw(list(range(300)), "mask")
    same = (all_masks == plain).all(dim=2).all(dim=0)
    assert 0.93 < same.float().mean() < 1, "about one in fifty is drawn again"
    tight = BlockContexts(GRID, BlockMaskConfig(fitting=0.3))
    assert all(a < b for a, b in zip(tight.lengths, contexts.lengths))
    assert all(int((~m).sum(1).max()) <= n for m, n in zip(tight.masks(list(range(100))), tight.lengths))
    assert two_block_masks(GRID, []).shape == (2, 0, 144)


def test_teacher_is_the_moving_average_and_never_trained():
    model, clips = method(momentum=(0.9, 1.0)), batch()
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    before = copy.deepcopy(model.encoder)
    model(clips).loss.backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, missing
    model.after_step(4, 9)  # half way: momentum 0.95
    for name, parameter in model.encoder.named_parameters():
        expected = 0.95 * dict(before.named_parameters())[name] + 0.05 * dict(model.student.named_parameters())[name]
        torch.testing.assert_close(parameter, expected.detach(), atol=1e-6, rtol=1e-5)
    model.after_step(8, 9)
    assert not model.train().encoder.training and model.student.training


def test_targets_do_not_follow_the_student():
    model, clips = method(), batch()
    pixels = clips.pixels()
    target = model.targets(pixels)
    assert not target.requires_grad
    torch.testing.assert_close(target.mean(-1), torch.zeros(2, 144), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.std(-1, unbiased=False), torch.ones(2, 144), atol=1e-2, rtol=0)
    with torch.no_grad():
        model.student.norm.weight.mul_(0)
    assert torch.equal(model.targets(pixels), target)


def test_core_compiles_once_for_all_masks():
    model, graphs = method(), []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model.predict, backend=backend, fullgraph=True)
    for seed in range(3):
        pixels, contexts = model.prepare(batch(seed=seed))
        target = model.targets(pixels)
        torch.testing.assert_close(compiled(pixels, contexts, target)[0], model.predict(pixels, contexts, target)[0])
    assert len(graphs) == 1


def test_loss_falls_on_one_batch_and_features_are_offered():
    model, clips = method(momentum=(0.99, 0.99)), batch(4)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for step in range(25):
        output = model(clips)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step(step, 25)
        losses.append(output.loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert output.features.shape[1] == 24 and not output.features.requires_grad and len(output.features) <= 2048
    assert output.visuals()["context"].dtype.name == "uint8"


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="grid"):
        VJEPA(student(), LatentPredictor(24, 24, (2, 6, 6), dim=24, depth=1, heads=2))
    with pytest.raises(ValueError, match="channels of the encoder"):
        VJEPA(student(), LatentPredictor(24, 12, GRID, dim=24, depth=1, heads=2))
    with pytest.raises(ValueError, match="mask token"):
        VJEPA(student(), LatentPredictor(24, 24, GRID, dim=24, depth=1, heads=2, masks=1))
    with pytest.raises(ValueError, match="momentum"):
        VJEPAConfig(momentum=(1.0, 0.9))

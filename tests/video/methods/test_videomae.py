"""VideoMAE and V2: the loss is the definition's, the names are the published ones, nothing hidden is touched."""

from __future__ import annotations

import copy

import pytest
import torch

from suite3d.losses.masked_pixels import normalised_patches, token_mse
from suite3d.masking import ColourNoiseConfig, decoded_cells, generators_of, tube_mask
from suite3d.nn.decoder import SelfDecoder
from suite3d.nn.patch_embed import patchify
from suite3d.nn.positions import Positions
from suite3d.nn.vit import VisionTransformer, ViTConfig
from suite3d.video.methods.videomae import VideoMAE, VideoMAEConfig
from suite3d.video.methods.videomae_v2 import VideoMAEV2, VideoMAEV2Config
from tests.video.methods import definition
from tests.video.methods.clips import batch, cross_decoder, decoder, encoder


def shaken(method):
    """Random biases and norms as well, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return method


def v1(ratio=0.75, **config):
    torch.manual_seed(0)
    backbone = encoder()
    return shaken(VideoMAE(backbone, decoder(backbone), VideoMAEConfig(mask_ratio=ratio, **config)))


def v2(ratio=0.75):
    torch.manual_seed(0)
    backbone = encoder()
    return shaken(VideoMAEV2(backbone, decoder(backbone), VideoMAEV2Config(mask_ratio=ratio)))


def clip_of(clips):
    """(B, 3, T, H, W) in [0, 1]."""
    return clips.frames.permute(0, 4, 1, 2, 3).double() / 255


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.9])
def test_videomae_loss_is_its_definition(ratio):
    method, clips = v1(ratio), batch()
    mask = tube_mask(method.encoder.grid, ratio, generators_of(clips.view_seeds(), "mask"))
    state = {name: value.double() for name, value in method.state_dict().items()}
    expected = definition.loss(state, clip_of(clips), mask, patch=(2, 8, 8), heads=4, dec_heads=2)
    assert method(clips).loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert 0.5 < expected.item() < 5


@pytest.mark.parametrize("ratio", [0.5, 0.9])
def test_videomae_v2_loss_is_its_definition(ratio):
    method, clips = v2(ratio), batch(3, seed=4)
    grid = method.encoder.grid
    mask = tube_mask(grid, ratio, generators_of(clips.view_seeds(), "mask"))
    dropped = decoded_cells(grid, generators_of(clips.view_seeds(), "decode"))
    state = {name: value.double() for name, value in method.state_dict().items()}
    expected = definition.loss(state, clip_of(clips), mask, patch=(2, 8, 8), heads=4, dec_heads=2, dropped=dropped)
    assert method(clips).loss.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("make", [v1, v2])
def test_gradients_are_the_definitions(make):
    method, clips = make(), batch()
    mask = tube_mask(method.encoder.grid, 0.75, generators_of(clips.view_seeds(), "mask"))
    dropped = decoded_cells(method.encoder.grid, generators_of(clips.view_seeds(), "decode")) if make is v2 else None
    state = {name: value.double().requires_grad_() for name, value in method.state_dict().items()}
    definition.loss(state, clip_of(clips), mask, patch=(2, 8, 8), heads=4, dec_heads=2, dropped=dropped).backward()
    method(clips).loss.backward()
    for name, parameter in method.named_parameters():
        published = name.removeprefix("decoder.") if name in ("decoder.mask_token", "decoder.encoder_to_decoder.weight") else name
        torch.testing.assert_close(parameter.grad.double(), state[published].grad, atol=2e-6, rtol=2e-4, msg=name)


def vit_b(kind):
    with torch.device("meta"):
        backbone = VisionTransformer(ViTConfig())
        return kind(backbone, SelfDecoder(768, 384, 4, 6, 1536, Positions("sincos_flat", backbone.grid, 384)))


@pytest.mark.parametrize("kind", [VideoMAE, VideoMAEV2])
def test_vit_b_has_the_218_published_tensors(kind):
    shapes = {name: tuple(value.shape) for name, value in vit_b(kind).state_dict().items()}
    expected = {"encoder.patch_embed.proj.weight": (768, 3, 2, 16, 16), "encoder.patch_embed.proj.bias": (768,)}
    expected |= {"encoder_to_decoder.weight": (384, 768), "mask_token": (1, 1, 384)}
    expected |= {"decoder.head.weight": (1536, 384), "decoder.head.bias": (1536,)}
    for part, dim, depth in (("encoder", 768, 12), ("decoder", 384, 4)):
        expected |= {f"{part}.norm.weight": (dim,), f"{part}.norm.bias": (dim,)}
        for i in range(depth):
            tensors = {f"{norm}.{kind}": (dim,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
            tensors |= {"attn.q_bias": (dim,), "attn.v_bias": (dim,), "attn.qkv.weight": (3 * dim, dim)}
            tensors |= {"attn.proj.weight": (dim, dim), "attn.proj.bias": (dim,)}
            tensors |= {"mlp.fc1.weight": (4 * dim, dim), "mlp.fc1.bias": (4 * dim,), "mlp.fc2.weight": (dim, 4 * dim), "mlp.fc2.bias": (dim,)}
            expected |= {f"{part}.blocks.{i}.{name}": shape for name, shape in tensors.items()}
    assert len(expected) == 218
    assert shapes == expected


def test_weights_come_back_through_the_published_names():
    first, second = v1(), v1()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(0)
    assert second.load_state_dict(first.state_dict()).missing_keys == []
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    assert torch.equal(copy.deepcopy(first)(batch()).loss, second(batch()).loss)
    state = first.state_dict()
    state.pop("mask_token")
    with pytest.raises(RuntimeError, match="mask_token"):
        second.load_state_dict(state)


@pytest.mark.parametrize("make", [v1, v2])
def test_hidden_pixels_reach_the_prediction_only_through_the_target(make):
    """Change every hidden pixel: the predictions stay the same to the bit."""
    method, clips = make(), batch()
    pixels, chosen = method.prepare(clips)
    altered = pixels.clone()
    grid, patch = method.encoder.grid, method.encoder.patch
    hidden = torch.ones(len(pixels), grid[0] * grid[1] * grid[2], dtype=torch.bool).scatter_(1, chosen.visible, False)
    inside = hidden.view(-1, 1, *grid)
    for axis, step in zip((2, 3, 4), patch):
        inside = inside.repeat_interleave(step, axis)
    altered[inside.expand_as(altered)] = torch.nan
    eps = method.target_eps(clips)
    _, tokens, predicted = method.reconstruct(pixels, chosen, eps)
    _, other_tokens, other = method.reconstruct(altered, chosen, eps)
    assert torch.equal(tokens, other_tokens) and torch.equal(predicted, other)


def test_v2_decodes_half_and_counts_what_was_not_seen():
    method, clips = v2(), batch(6)
    _, chosen = method.prepare(clips)
    tokens = 4 * 6 * 6
    assert chosen.decoded.shape == (6, tokens // 2) and chosen.visible.shape == (6, 9 * 4)
    for visible, decoded, weight in zip(chosen.visible.tolist(), chosen.decoded.tolist(), chosen.weight.tolist()):
        assert [bool(w) for w in weight] == [token not in visible for token in decoded]
        assert sum(weight) < len(weight), "with a quarter visible some decoded tokens were seen"
    backbone = encoder(clip=(8, 40, 40))
    with pytest.raises(ValueError, match="even number"):
        VideoMAEV2(backbone, decoder(backbone))


def test_repeats_get_masks_of_their_own():
    method, clips = v1(), batch(2, repeats=3)
    pixels, chosen = method.prepare(clips)
    assert pixels.shape == (6, 3, 8, 48, 48)
    assert torch.equal(pixels[0], pixels[2]), "the same crop here, since the boxes are the same"
    assert len({tuple(row) for row in chosen.visible.tolist()}) == 6


def test_a_cross_decoder_may_score_part_of_the_hidden_tokens():
    torch.manual_seed(0)
    backbone = encoder()
    whole = VideoMAE(backbone, cross_decoder(backbone), VideoMAEConfig(mask_ratio=0.75))
    part = VideoMAE(backbone, whole.decoder, VideoMAEConfig(mask_ratio=0.75, decode_ratio=0.5))
    clips = batch()
    pixels, chosen = part.prepare(clips)
    _, everything = whole.prepare(clips)
    assert chosen.decoded.shape[1] == everything.decoded.shape[1] // 2
    assert torch.equal(chosen.visible, everything.visible)
    _, _, few = part.reconstruct(pixels, chosen, part.target_eps(clips))
    _, _, many = whole.reconstruct(pixels, everything, whole.target_eps(clips))
    for row in range(2):
        where = [everything.decoded[row].tolist().index(token) for token in chosen.decoded[row].tolist()]
        torch.testing.assert_close(few[row], many[row][where])


@pytest.mark.parametrize("make", [v1, v2])
def test_core_compiles_in_one_graph_and_once_for_all_masks(make):
    method = make()
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(method.reconstruct, backend=backend, fullgraph=True)
    for seed in range(4):
        clips = batch(seed=seed)
        pixels, chosen = method.prepare(clips)
        eps = method.target_eps(clips)
        torch.testing.assert_close(compiled(pixels, chosen, eps)[0], method.reconstruct(pixels, chosen, eps)[0])
    assert len(graphs) == 1


def test_bf16_is_close_and_the_loss_stays_float32():
    method, clips = v1(), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = method(clips)
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(method(clips).loss.item(), rel=0.02)


def test_pictures_show_the_clip_the_mask_and_the_prediction():
    method, clips = v2(), batch()
    pictures = method(clips).visuals()
    strip, moving = pictures["reconstruction"], pictures["reconstruction_moving"]
    assert strip.ndim == 3 and moving.ndim == 4 and len(moving) == 8
    height, width = 96, 96
    first = moving[:, 13 : 13 + height, :width]
    assert (first[:, ::2, ::2] == clips.frames[0].numpy()).all(), "the original is shown as it is"
    masked = moving[:, 13 : 13 + height, width + 2 : 2 * width + 2]
    same = (masked == first).all(-1).reshape(8, 6, 16, 6, 16).all((2, 4))
    assert same.sum() == 8 * 9, "a quarter of the places is visible in every frame"


def test_target_layout_and_normalisation():
    generator = torch.Generator().manual_seed(1)
    clip = torch.rand(2, 3, 4, 16, 16, generator=generator, dtype=torch.float64)
    patches = patchify(clip, (2, 8, 8))
    ours = normalised_patches(patches, channels=3)
    torch.testing.assert_close(ours, definition.targets(clip, (2, 8, 8)).float(), atol=1e-5, rtol=1e-5)
    scaled = patches.view(2, -1, 3, 128) / torch.tensor([0.2, 0.3, 0.4]).double()[:, None] - 1.5
    eps = 1e-6 / torch.tensor([0.2, 0.3, 0.4]).double()
    torch.testing.assert_close(normalised_patches(scaled.flatten(2), channels=3, eps=eps), ours, atol=1e-4, rtol=1e-4)
    flat = normalised_patches(torch.full((1, 1, 12), 0.25), channels=3)
    assert (flat == 0).all(), "a patch of one colour has nothing to predict"


def test_token_mse_against_loops():
    generator = torch.Generator().manual_seed(2)
    p, t = torch.rand(2, 3, 4, generator=generator), torch.rand(2, 3, 4, generator=generator)
    weight = torch.tensor([[1, 0, 1], [0, 0, 1]], dtype=torch.bool)
    rows = [[sum((a - b) ** 2 for a, b in zip(x, y)) / 4 for x, y in zip(u, v)] for u, v in zip(p.tolist(), t.tolist())]
    assert token_mse(p, t).item() == pytest.approx(sum(map(sum, rows)) / 6, rel=1e-5)
    assert token_mse(p, t, weight=weight).item() == pytest.approx((rows[0][0] + rows[0][2] + rows[1][2]) / 3, rel=1e-5)
    with pytest.raises(ValueError, match="one shape"):
        token_mse(p, t[:1])


def test_wrong_parts_are_refused():
    backbone = encoder()
    with pytest.raises(ValueError, match="384 values of a patch"):
        VideoMAE(backbone, decoder(encoder(patch=(2, 16, 16))))
    with pytest.raises(ValueError, match="decode_ratio"):
        VideoMAEConfig(decode_ratio=0)
    with pytest.raises(ValueError, match="mask ratio"):
        VideoMAEV2Config(mask_ratio=1.0)


def test_colour_noise_hides_tubes_that_clump_or_spread():
    backbone = encoder(clip=(8, 128, 128), dim=16, depth=1, heads=2)  # 16 x 16 places
    seeds, neighbours = list(range(8)), {}
    for kind in ("tube", "red", "green", "blue"):
        colour = {} if kind == "tube" else {"mask": "colour_noise", "noise": ColourNoiseConfig(colour=kind, slices=16)}
        method = VideoMAE(backbone, decoder(backbone), VideoMAEConfig(mask_ratio=0.75, **colour))
        mask = method.mask(seeds, torch.device("cpu")).view(8, 4, 16, 16)
        assert (mask == mask[:, :1]).all() and (mask[:, 0].flatten(1).sum(1) == 192).all(), "the same 192 places at all times"
        assert torch.equal(mask.flatten(1), method.mask(seeds, torch.device("cpu")))
        neighbours[kind] = (mask[:, 0, :, 1:] == mask[:, 0, :, :-1]).float().mean().item()
        chosen = method.select(seeds, torch.device("cpu"))
        assert chosen.visible.shape == (8, 4 * 64) and chosen.decoded.shape == (8, 4 * 192)
        assert not any("noise" in name for name in method.state_dict())
    assert neighbours["red"] > neighbours["green"] > neighbours["tube"] > neighbours["blue"]
    with pytest.raises(ValueError, match="slice"):
        ColourNoiseConfig(slices=0)


def test_colour_noise_learns():
    backbone = encoder()
    method = VideoMAE(backbone, decoder(backbone), VideoMAEConfig(mask_ratio=0.75, mask="colour_noise", noise=ColourNoiseConfig(slices=16)))
    output = method(batch(2))
    output.loss.backward()
    assert torch.isfinite(output.loss) and backbone.blocks[0].attn.qkv.weight.grad.abs().sum() > 0

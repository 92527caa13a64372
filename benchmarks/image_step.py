"""Our training step of MAE against a plain one of the published design, interleaved in one process.

    python benchmarks/image_step.py [--size S] [--side 128] [--batch 8] [--rounds 15] [--device cpu] [--bf16] [--compile]

A step is masks, forward, loss, backward and AdamW on pixels that are already on the device. ``plain`` is benchmarks/plain_mae.py: all patches
embedded, shuffled and gathered, softmax attention, the decoder over every place and the class token, whole-picture targets, unfused AdamW,
eager. Both sides have the same encoder (with a class token) and decoder sizes (MAE's 512 x 8 unless said otherwise). Steps of both sides take
turns, so that other load on the machine meets both; figures are medians, ratios medians over rounds. On a CPU that others use too, the
processor time is the fairer clock. ``mae_cross`` decodes the hidden tokens by cross-attention alone (CrossMAE): another method.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from interleaved import Step, measure, report
from plain_mae import PlainMAE

from suite3d.losses.masked_pixels import jointly_normalised_patches
from suite3d.masking import hidden_indices, visible_indices
from suite3d.methods.mae import MAE
from suite3d.methods.masked_pixels import Selection, patch_values
from suite3d.nn.decoder import CrossDecoder, SelfDecoder
from suite3d.nn.positions import Positions
from suite3d.nn.vit import VisionTransformer
from suite3d.nn.vit_sizes import vit_config

PAIRS = (("plain mae", "mae"), ("plain mae", "mae_cross"))


def our_step(name: str, arguments: argparse.Namespace, pixels: torch.Tensor) -> Step:
    """One optimiser step of our method."""
    side = arguments.side
    encoder = VisionTransformer(vit_config(arguments.size, clip=(1, side, side), positions="sincos_2d", qkv_bias="full", class_token=True))
    dim, depth, heads = arguments.decoder
    kind = CrossDecoder if name == "mae_cross" else SelfDecoder
    decoder = kind(encoder.embed_dim, dim, depth, heads, patch_values(encoder), Positions("sincos_2d", encoder.grid, dim))
    method = MAE(encoder, decoder).to(pixels.device)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-4, fused=True)
    predict = torch.compile(method.predict) if arguments.compile else method.predict
    clips = pixels[:, :, None]

    def step(number: int) -> None:
        mask = method.mask([number * len(pixels) + i for i in range(len(pixels))], pixels.device)
        hidden = int(mask[0].sum())
        chosen = Selection(visible=visible_indices(mask, mask.shape[1] - hidden), decoded=hidden_indices(mask, hidden))
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=arguments.bf16):
            loss = predict(clips, chosen, jointly_normalised_patches)[0]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def plain_step(arguments: argparse.Namespace, pixels: torch.Tensor) -> Step:
    """One optimiser step of the plain implementation."""
    config = vit_config(arguments.size, clip=(1, arguments.side, arguments.side))
    sizes = (config.dim, config.depth, config.heads)
    model = PlainMAE(sizes, tuple(arguments.decoder), patch=config.patch[1], side=config.grid[1]).to(pixels.device)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4, foreach=False, fused=False)

    def step(_number: int) -> None:
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=arguments.bf16):
            loss = model(pixels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="S")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--decoder", type=int, nargs=3, default=[512, 8, 16], metavar=("DIM", "DEPTH", "HEADS"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "image_step.json")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    pixels = torch.randn(arguments.batch, 3, arguments.side, arguments.side, device=device)
    steps = {"plain mae": plain_step(arguments, pixels)} | {name: our_step(name, arguments, pixels) for name in ("mae", "mae_cross")}
    times = measure(steps, rounds=arguments.rounds, device=device)
    report({"size": arguments.size, "side": arguments.side, "decoder": arguments.decoder}, times, PAIRS, arguments)


if __name__ == "__main__":
    main()

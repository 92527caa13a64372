"""Our training step of VideoMAE and VideoMAE V2 against a plain one of the published design, interleaved in one process.

    python benchmarks/video_step.py [--size S] [--clip 16 128 128] [--batch 4] [--rounds 15] [--device cpu] [--bf16] [--compile]

A step is masks, forward, loss, backward and AdamW on pixels that are already on the device. ``plain`` is benchmarks/plain_videomae.py:
all tokens embedded, boolean indexing, softmax attention, whole-clip targets, unfused AdamW, eager. Rows say what is compared: the same
algorithm on both sides (what the implementation gives), and V2's dual masking against the first publication (what the issue asks for). Steps
of both sides take turns, so that other load on the machine meets both; figures are medians, ratios medians over rounds. On a CPU that others use
too, the processor time is the fairer clock. ``videomae_cross`` decodes half of the hidden tokens by cross-attention (CrossMAE): another method.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from interleaved import Step, measure, report
from plain_videomae import PlainVideoMAE, cell_masks, tube_masks

from suite3d.nn.decoder import CrossDecoder, SelfDecoder
from suite3d.nn.positions import Positions
from suite3d.nn.vit import VisionTransformer
from suite3d.nn.vit_sizes import decoder_size, vit_config
from suite3d.video.methods.videomae import TARGET_EPS, VideoMAE, VideoMAEConfig
from suite3d.video.methods.videomae_v2 import VideoMAEV2

PAIRS = (
    ("plain videomae", "videomae"),
    ("plain videomae_v2", "videomae_v2"),
    ("plain videomae", "videomae_v2"),
    ("plain videomae", "videomae_cross"),
)
STD = (0.229, 0.224, 0.225)


def our_step(name: str, arguments: argparse.Namespace, pixels: torch.Tensor) -> Step:
    """One optimiser step of our method."""
    encoder = VisionTransformer(vit_config(arguments.size, clip=tuple(arguments.clip)))
    size = decoder_size(arguments.size, version=2)
    outputs = 3 * encoder.patch[0] * encoder.patch[1] * encoder.patch[2]
    kind = CrossDecoder if name == "videomae_cross" else SelfDecoder
    decoder = kind(encoder.embed_dim, size.dim, size.depth, size.heads, outputs, Positions("sincos_flat", encoder.grid, size.dim))
    if name == "videomae_v2":
        method: VideoMAE = VideoMAEV2(encoder, decoder)
    else:
        method = VideoMAE(encoder, decoder, VideoMAEConfig(decode_ratio=0.5 if name == "videomae_cross" else 1.0))
    method = method.to(pixels.device)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-4, fused=True)
    core = torch.compile(method.reconstruct) if arguments.compile else method.reconstruct
    eps = TARGET_EPS / torch.tensor(STD, device=pixels.device)

    def step(number: int) -> None:
        chosen = method.select([number * len(pixels) + i for i in range(len(pixels))], pixels.device)
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=arguments.bf16):
            loss = core(pixels, chosen, eps)[0]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def plain_step(dual: bool, arguments: argparse.Namespace, pixels: torch.Tensor) -> Step:
    """One optimiser step of the plain implementation."""
    config, size = vit_config(arguments.size, clip=tuple(arguments.clip)), decoder_size(arguments.size, version=2)
    tokens = config.grid[0] * config.grid[1] * config.grid[2]
    model = PlainVideoMAE((config.dim, config.depth, config.heads), (size.dim, size.depth, size.heads), config.patch, tokens).to(pixels.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=False, fused=False)
    rng = np.random.default_rng(0)

    def step(_number: int) -> None:
        mask = tube_masks(len(pixels), config.grid, 0.9, rng).to(pixels.device)
        dropped = cell_masks(len(pixels), config.grid, rng).to(pixels.device) if dual else None
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=arguments.bf16):
            loss = model(pixels, mask, dropped)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="S")
    parser.add_argument("--clip", type=int, nargs=3, default=[16, 128, 128])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "video_step.json")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    pixels = torch.randn(arguments.batch, 3, *arguments.clip, device=device)
    steps = {"plain videomae": plain_step(False, arguments, pixels), "plain videomae_v2": plain_step(True, arguments, pixels)}
    steps |= {name: our_step(name, arguments, pixels) for name in ("videomae", "videomae_v2", "videomae_cross")}
    times = measure(steps, rounds=arguments.rounds, device=device)
    report({"size": arguments.size, "clip": arguments.clip}, times, PAIRS, arguments)


if __name__ == "__main__":
    main()

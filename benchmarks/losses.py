"""Time and memory of the losses of the core at one large batch: forward and backward, on one process.

    python benchmarks/losses.py [--batch 4096] [--dim 128] [--repeats 5] [--device cpu] [--json FILE]

Prints the median seconds of a forward and a backward pass and the memory they add at their peak, as multiples of one similarity matrix
(batch x batch float32) too. Features are random; a queue holds 65,536 rows, a prototype layer 3,000, as in MoCo and SwAV. On a GPU the
peak is torch's; on Linux the process's high-water mark, reset before each loss; elsewhere it is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from machine import describe  # noqa: E402

from suite3d.losses.alignment_uniformity import uniformity_loss  # noqa: E402
from suite3d.losses.attraction_repulsion import attraction_repulsion  # noqa: E402
from suite3d.losses.barlow_twins import barlow_twins  # noqa: E402
from suite3d.losses.decoupled import decoupled_contrast  # noqa: E402
from suite3d.losses.hard_negatives import hard_negative_contrast  # noqa: E402
from suite3d.losses.info_nce import info_nce  # noqa: E402
from suite3d.losses.koleo import koleo  # noqa: E402
from suite3d.losses.mixed_negatives import mixed_info_nce, mixed_negatives  # noqa: E402
from suite3d.losses.multi_view import mv_dhel, mv_info_nce  # noqa: E402
from suite3d.losses.nt_xent import nt_xent  # noqa: E402
from suite3d.losses.queue_info_nce import queue_info_nce  # noqa: E402
from suite3d.losses.sigreg import sigreg  # noqa: E402
from suite3d.losses.supervised_contrast import supervised_contrast  # noqa: E402
from suite3d.losses.swav import swav  # noqa: E402
from suite3d.losses.vicreg import vicreg  # noqa: E402

Loss = Callable[[Tensor, Tensor], Tensor]


def losses(batch: int, dim: int, device: torch.device) -> dict[str, Loss]:
    generator = torch.Generator().manual_seed(0)
    queue = torch.randn(65536, dim, generator=generator).to(device)
    prototypes = F.normalize(torch.randn(3000, dim, generator=generator), dim=1).to(device)
    labels = (torch.arange(batch) // 4).to(device)

    def mochi(a: Tensor, b: Tensor) -> Tensor:
        made = mixed_negatives(a, queue, hardest=1024, pairs=1024, with_query=128, generator=generator)
        return mixed_info_nce(a, b, queue, made, temperature=0.2)

    def clusters(a: Tensor, b: Tensor) -> Tensor:
        return swav(torch.stack((F.normalize(a, dim=1) @ prototypes.T, F.normalize(b, dim=1) @ prototypes.T)))

    table: dict[str, Loss] = {
        "InfoNCE": lambda a, b: info_nce(a, b, temperature=0.2),
        "InfoNCE symmetric": lambda a, b: info_nce(a, b, temperature=0.2, symmetric=True),
        "NT-Xent": lambda a, b: nt_xent(a, b, temperature=0.2),
        "InfoNCE, queue": lambda a, b: queue_info_nce(a, b, queue, temperature=0.2),
        "DCL": lambda a, b: decoupled_contrast(a, b, temperature=0.2),
        "hard negatives": lambda a, b: hard_negative_contrast(a, b, temperature=0.2),
        "MV-InfoNCE, 2 views": lambda a, b: mv_info_nce(torch.stack((a, b)), temperature=0.2),
        "MV-DHEL, 2 views": lambda a, b: mv_dhel(torch.stack((a, b)), temperature=0.2),
        "CACR": lambda a, b: attraction_repulsion(a, b[:, None]),
        "supervised": lambda a, b: supervised_contrast(a, labels, temperature=0.2),
        "SwAV": clusters,
        "Barlow Twins": barlow_twins,
        "VICReg": lambda a, b: vicreg(a, b).loss,
        "SIGReg": lambda a, b: sigreg(a, generator=generator),
        "KoLeo": lambda a, b: koleo(a),
        "uniformity": lambda a, b: uniformity_loss(a),
    }
    if batch <= 256:  # its own negatives for each query: batch x 1152 x dim
        table["MoCHi"] = mochi
    return table


def peak(device: torch.device) -> Callable[[], float | None]:
    """Start measuring; the function returned gives the megabytes added at the peak since."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        return lambda: (torch.cuda.max_memory_allocated(device) - before) / 1e6
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return lambda: None
    reset.write_text("5")
    start = _kilobytes("VmRSS")
    return lambda: (_kilobytes("VmHWM") - start) / 1e3


def _kilobytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def measure(loss: Loss, a: Tensor, b: Tensor, repeats: int) -> tuple[float, float | None]:
    seconds, used = [], peak(a.device)
    for _ in range(repeats + 1):
        a.grad = b.grad = None
        start = time.perf_counter()
        value = loss(a, b)
        value.backward()
        value.item()
        seconds.append(time.perf_counter() - start)
        del value
    return statistics.median(seconds[1:]), used()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 4096), ("dim", 128), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    a, b = (torch.randn(options.batch, options.dim, generator=torch.Generator().manual_seed(seed)).to(device).requires_grad_() for seed in (1, 2))
    matrix = options.batch**2 * 4 / 1e6
    result = {**describe(), "batch": options.batch, "dim": options.dim, "losses": {}}
    print(f"{options.batch} x {options.dim}, {result['machine']}; one similarity matrix is {matrix:.0f} MB")
    for name, loss in losses(options.batch, options.dim, device).items():
        seconds, megabytes = measure(loss, a, b, options.repeats)
        result["losses"][name] = {"seconds": round(seconds, 4), "megabytes": None if megabytes is None else round(megabytes, 1)}
        memory = "" if megabytes is None else f"{megabytes:9.0f} MB {megabytes / matrix:7.1f} matrices"
        print(f"{name:22s} {seconds:8.3f} s {memory}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""``suite3d doctor``: what is installed, what is compiled, and whether it computes the right thing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys

import torch

OPTIONAL = ("av", "torchcodec", "triton", "spconv", "open3d", "laspy", "nibabel", "tensorboard", "matplotlib")
REQUIRED = ("suite3d", "torch", "numpy", "einops", "numba", "omegaconf", "safetensors", "rich")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing" if package in REQUIRED else "not installed"


def video_reader() -> str:
    """The first video reader that is installed."""
    return next((name for name in ("decord", "av", "torchcodec") if importlib.util.find_spec(name)), "none: pip install decord (or av)")


def doctor() -> int:
    """Print the report; returns 1 if an op disagrees with its reference."""
    from suite3d.ops import library
    from suite3d.ops.selftest import self_test

    print(f"python {sys.version.split()[0]} on {platform.platform()}")
    print("  ".join(f"{name} {_version(name)}" for name in REQUIRED))
    print("optional: " + "  ".join(f"{name} {_version(name)}" for name in OPTIONAL))
    print(f"video reader: {video_reader()}")
    print(f"cpu: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    gpu = torch.cuda.is_available()
    print(f"gpu: {torch.cuda.get_device_name(0) if gpu else 'none seen by torch'}")
    for kind in ("cpu", "cuda"):
        reason = library.load_errors().get(kind, "")
        print(f"compiled ops, {kind}: {'yes' if library.compiled(kind) else 'no'}{f' ({reason})' if reason else ''}")
    wrong = 0
    for device in ["cpu"] + (["cuda"] if gpu else []):
        for check in self_test(device):
            wrong += not check.ok
            mark = "ok   " if check.ok else "WRONG"
            print(f"  {mark} {device} {check.name:<24} {check.milliseconds:7.2f} ms  largest difference {check.error:.1e}  {check.problem}")
    print("all ops agree with their references" if not wrong else f"{wrong} ops disagree: please report the lines above")
    return int(wrong > 0)

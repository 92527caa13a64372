"""OpenPCDet checkpoints, out and in.

    {'epoch', 'it', 'model_state', 'optimizer_state', 'version'}

``model_state`` names: ``global_step`` (one counter), ``backbone_3d.*`` or ``vfe.*`` (our encoder), ``backbone_2d.*`` (neck),
``dense_head.*`` (head). A SECOND file has 163 of them; OpenPCDet reports 73 loaded when a whole 3D backbone came in: 72 and the counter.

Files written here carry a sixth entry, ``suite3d``, with the layout of the sparse weights and the names of the stem's inputs.
OpenPCDet ignores it; reading the file back needs no guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from suite3d.engine.files import write_atomically
from suite3d.interop.load import read_torch
from suite3d.pointcloud.interop.layouts import Layout, check_layout, to_layout

VERSION = "pcdet+0.6.0"
PARTS = (("encoder.vfe.", "vfe."), ("encoder.", "backbone_3d."), ("neck.", "backbone_2d."), ("head.", "dense_head."))
ENCODER_MODULES = ("vfe", "conv_input", "conv1", "conv2", "conv3", "conv4", "conv_out")


@dataclass(frozen=True, kw_only=True)
class OpenPCDetFile:
    """What a checkpoint holds.

    Attributes:
        state: ``model_state`` without the counter, under OpenPCDet's names, in the file's layout.
        step: the counter, or None.
        layout: the recorded layout, or None for files from elsewhere.
        input_columns: the recorded names of the stem's inputs, or None.
    """

    state: dict[str, Tensor]
    step: int | None
    layout: Layout | None
    input_columns: tuple[str, ...] | None


def to_openpcdet(state: Mapping[str, Tensor], *, layout: Layout, step: int = 0) -> dict[str, Tensor]:
    """State dict of a detector (``encoder. neck. head.``) or of a lone encoder -> ``model_state``, counter first.

    Raises:
        ValueError: an unknown layout, or a part that OpenPCDet does not have (SST, a pretraining head).
    """
    check_layout(layout)
    lone = not any(key.startswith(("encoder.", "neck.", "head.")) for key in state)
    out = {"global_step": torch.tensor([step], dtype=torch.int64)}
    for key, tensor in state.items():
        full = f"encoder.{key}" if lone else key
        theirs = next((theirs + full.removeprefix(ours) for ours, theirs in PARTS if full.startswith(ours)), None)
        if theirs is None or (full.startswith("encoder.") and full.split(".")[1] not in ENCODER_MODULES):
            raise ValueError(
                f"OpenPCDet has no place for '{key}': it knows the voxel backbones, pillars, their neck and heads, not SST or pretraining heads"
            )
        tensor = tensor.detach().cpu()
        out[theirs] = to_layout(tensor, layout) if tensor.ndim == 5 else tensor.clone()
    return out


def from_openpcdet_key(key: str) -> str:
    """``backbone_3d.conv1...`` -> ``encoder.conv1...``; keys of no known part stay as they are."""
    return next((ours + key.removeprefix(theirs) for ours, theirs in PARTS if key.startswith(theirs)), key)


def save_openpcdet(
    path: Path, state: Mapping[str, Tensor], *, layout: Layout, input_columns: tuple[str, ...] | None = None, epoch: int = 0, step: int = 0
) -> int:
    """Write a checkpoint that OpenPCDet's ``--pretrained_model`` takes; returns the number of tensors in it.

    Args:
        state: see :func:`to_openpcdet`.
        layout: ``spconv1`` for OpenPCDet on spconv 1.x, ``spconv2`` for spconv 2.2 and later.
        input_columns: names of the stem's inputs (``encoder.input_columns``), recorded for the way back.

    Raises:
        ValueError: see :func:`to_openpcdet`.
        OSError: the disk is full or the folder not writable; an earlier file stays as it was.
    """
    model_state = to_openpcdet(state, layout=layout, step=step)
    content = {
        "epoch": epoch,
        "it": step,
        "model_state": model_state,
        "optimizer_state": None,
        "version": VERSION,
        "suite3d": {"layout": layout, "input_columns": None if input_columns is None else list(input_columns)},
    }
    write_atomically(Path(path), lambda temporary: torch.save(content, temporary))
    return len(model_state)


def read_openpcdet(path: Path | str) -> OpenPCDetFile:
    """Content of a checkpoint; nothing in it is executed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, holding code, or without ``model_state``.
    """
    content: Any = read_torch(path)
    if not isinstance(content, dict) or not isinstance(content.get("model_state"), dict):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: expected an OpenPCDet checkpoint with 'model_state', got {found}")
    state = {str(key): value.detach() for key, value in content["model_state"].items() if isinstance(value, Tensor)}
    counter = state.pop("global_step", None)
    record = content.get("suite3d") or {}
    layout, columns = record.get("layout"), record.get("input_columns")
    if layout is not None:
        check_layout(layout)
    return OpenPCDetFile(
        state=state,
        step=None if counter is None else int(counter.reshape(-1)[0]),
        layout=layout,
        input_columns=None if columns is None else tuple(columns),
    )

"""Weights of the Point-MAE family into our point-patch transformer, and out of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from suite3d.config import ConfigError
from suite3d.engine.files import write_atomically
from suite3d.interop.load import LoadReport, load_weights, read_checkpoint
from suite3d.interop.options import chosen_layout
from suite3d.interop.save import read_metadata
from suite3d.pointcloud.encoders.point_patch import PointPatchTransformer

PREFIX = "MAE_encoder."
_DECODER = ("mask_token", "MAE_decoder.", "decoder_pos_embed.", "increase_dim.", "cls_head_finetune.")


def load_point_mae(encoder: PointPatchTransformer, path: Path, *, minimum: float = 0.9) -> LoadReport:
    """Copy the encoder out of a Point-MAE file (pretraining or fine-tuning), of a run of this project, or of a file with the same names.

    Layout: ``{"base_model": ...}``, keys ``MAE_encoder.{encoder,pos_embed,blocks.blocks.N,norm}``, without the prefix after fine-tuning;
    decoder and head are left out. PCP-MAE and Point-CMAE keep these names; Point-BERT's tokenizer has other sizes and is refused.

    Raises:
        FileNotFoundError: no such file.
        suite3d.interop.load.LoadRefused: less than ``minimum`` of the parameters fit.
        ValueError: not a checkpoint.
    """
    file = path / "encoder.safetensors" if path.is_dir() else path

    def rename(key: str) -> str | None:
        return None if key.startswith(_DECODER) else key.removeprefix(PREFIX)

    return load_weights(encoder, read_checkpoint(file), minimum=minimum, rename=rename, source=str(file))


def export_objects(run: Path, out: Path, options: Sequence[str] = ()) -> str:
    """Write the encoder of an object run as a Point-MAE checkpoint and say in one line what it holds.

    ``{"base_model": {"MAE_encoder....": tensor}}``, as the published pretraining files and their fine-tuning code have it.

    Args:
        options: ``layout=point_mae``, the only one.

    Raises:
        ConfigError: no such run, another encoder, points with channels beside xyz (which Point-MAE does not read), or an unknown option.
    """
    chosen_layout(options, ("point_mae",), "point_mae")
    file = run / "encoder.safetensors"
    if not file.is_file():
        raise ConfigError(f"{run} is not a run with a saved encoder: {file} does not exist")
    description = read_metadata(file).get("description", {})
    if description.get("class") != PointPatchTransformer.__name__:
        raise ConfigError(f"{file}: expected a PointPatchTransformer, got {description.get('class')}")
    if description["config"]["channels"]:
        raise ConfigError(f"{file} reads {description['config']['channels']} beside xyz, Point-MAE xyz only: train with encoder.channels=[]")
    state = {PREFIX + name: tensor for name, tensor in read_checkpoint(file).items()}
    write_atomically(out, lambda temporary: torch.save({"base_model": state}, temporary))
    sizes = description["config"]
    return f"{out}: Point-MAE checkpoint, {len(state)} tensors, trans_dim {sizes['dim']}, depth {sizes['depth']}, group_size {sizes['group_size']}"

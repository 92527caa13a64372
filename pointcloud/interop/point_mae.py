"""Weights of the Point-MAE family into our point-patch transformer."""

from __future__ import annotations

from pathlib import Path

from suite3d.interop.load import LoadReport, load_weights, read_checkpoint
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

"""A vision transformer file of any of the known projects, read once and brought to one form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from suite3d.interop.load import WRAPPERS, read_checkpoint, read_header, read_torch
from suite3d.interop.save import read_metadata
from suite3d.interop.vit.names import detect, strip_prefixes, to_neutral
from suite3d.interop.vit.tables import EPS, ORIGINS, Source, heads_of
from suite3d.nn.patch_embed import as_size
from suite3d.nn.positions import Grid, PositionKind, sincos

RECORD = "suite3d"
"""Entry of exported files (safetensors header or torch dictionary) with what the layout itself does not say."""

_PARTS = ("target_encoder", "teacher", "module", *WRAPPERS)
StoredKind = Literal["stored"] | PositionKind


@dataclass(kw_only=True)
class StoredViT:
    """Weights under neutral names (:mod:`suite3d.interop.vit.names`) and what is known of them.

    Attributes:
        state: the tensors; a position table is ``encoder.pos_embed.table (N, dim)``, its class entry added to ``encoder.cls_token``.
        source: project whose names the file uses.
        positions: kind of positions the weights were trained with; ``stored`` where the file holds a table of unknown kind.
        grid: tokens along (t, h, w) they were trained on.
        heads: attention heads, None if neither the file nor the table says.
        eps: of the LayerNorms.
        record: what the file says about itself.
        path: the file.
    """

    state: dict[str, Tensor]
    source: Source
    positions: StoredKind
    grid: Grid
    heads: int | None
    eps: float
    path: Path
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def patch(self) -> tuple[int, int, int]:
        """Frames, height and width of a patch."""
        return _patch_of(self.state)

    @property
    def dim(self) -> int:
        """Channels."""
        return self.state["encoder.patch_embed.proj.weight"].shape[0]

    @property
    def rope(self) -> bool:
        """Whether queries and keys are rotated."""
        return self.positions in ("rope", "rope_tiled")


def read_vit(path: Path | str, *, clip: tuple[int, int, int] | None = None) -> StoredViT:
    """Read a checkpoint, a transformers folder or a run directory.

    Args:
        path: the file or folder.
        clip: frames, height, width the weights were trained on, for files that do not say and whose published size (16 x 224 x 224; 518 for
            DINOv2) is not theirs.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unreadable, of no known project, or a position table whose grid cannot be told.
    """
    file = _file_of(Path(path))
    tensors, record = _tensors(file)
    state = strip_prefixes(tensors)
    source: Source = "suite3d" if record.get("layout") == "suite3d" else detect(state)
    state = to_neutral(state, source)
    if "encoder.patch_embed.proj.weight" not in state:
        raise ValueError(f"{file}: no patch embedding among its {len(state)} tensors, so it is no vision transformer that could be loaded")
    config = record.get("config", {})
    if source == "suite3d" and not config:
        raise ValueError(f"{file}: weights of ours without their sizes and positions: name the run directory, or put its encoder.safetensors beside")
    known = as_size(config["clip"], "clip") if "clip" in config else None
    grid, kind = _positions(state, source, clip=clip or known, kind=config.get("positions"), file=file)
    position_grid = config.get("position_grid")
    rope = kind in ("rope", "rope_tiled")
    dim = state["encoder.patch_embed.proj.weight"].shape[0]
    heads = config.get("heads") or heads_of(dim, rope=rope) or record.get("transformers", {}).get("num_attention_heads")
    return StoredViT(
        state=state,
        source=source,
        positions=kind,
        grid=as_size(position_grid) if position_grid is not None else grid,
        heads=heads,
        eps=config.get("eps", EPS),
        record=record,
        path=file,
    )


def _file_of(path: Path) -> Path:
    """The file with the weights of a folder; a file as it is."""
    if not path.is_dir():
        return path
    names = ("encoder.safetensors", "model.safetensors", "pytorch_model.bin")
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{path}: expected one of {', '.join(names)} in this folder")
    return found


def _tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Flat tensors, and what the file says about itself: ``config`` (ViTConfig fields), ``layout``, ``licence``."""
    if file.suffix == ".safetensors":
        tensors = read_checkpoint(file)
        header = read_header(file)
        record = json.loads(header[RECORD]) if RECORD in header else {}
        ours = read_metadata(file)
        if ours:
            record = {"layout": "suite3d", **ours.get("description", {})}
        return tensors, record | _folder_config(file)
    content = read_torch(file)
    record = content.get(RECORD, {}) if isinstance(content, dict) else {}
    if isinstance(content, dict) and {"step", "model"} <= content.keys():  # a run's checkpoint; the encoder beside it tells its sizes
        beside = file.parent.parent / "encoder.safetensors"
        record = {"layout": "suite3d", **(read_metadata(beside).get("description", {}) if beside.is_file() else {})}
        average = content.get("average")
        content = average if isinstance(average, dict) else content["model"]
    while isinstance(content, dict) and not any(isinstance(value, Tensor) for value in content.values()):
        inner = next((content[name] for name in _PARTS if isinstance(content.get(name), dict)), None)
        if inner is None:
            break
        content = inner
    tensors = {str(key): value.detach() for key, value in content.items() if isinstance(value, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise ValueError(f"{file}: no tensors found under any of {list(_PARTS)}")
    return tensors, dict(record) | _folder_config(file)


def _folder_config(file: Path) -> dict[str, Any]:
    """transformers' ``config.json`` beside the weights."""
    beside = file.parent / "config.json"
    if file.name not in ("model.safetensors", "pytorch_model.bin") or not beside.is_file():
        return {}
    return {"transformers": json.loads(beside.read_text())}


def _patch_of(state: Mapping[str, Tensor]) -> tuple[int, int, int]:
    shape = state["encoder.patch_embed.proj.weight"].shape
    return (1, shape[2], shape[3]) if len(shape) == 4 else (shape[2], shape[3], shape[4])


def _positions(
    state: dict[str, Tensor], source: Source, *, clip: tuple[int, int, int] | None, kind: PositionKind | None, file: Path
) -> tuple[Grid, StoredKind]:
    """Grid and kind of the positions; a stored table becomes ``encoder.pos_embed.table (N, dim)`` in ``state``."""
    patch = _patch_of(state)
    size = clip or ORIGINS[source].clip
    if patch[0] == 1 and clip is None:
        size = (1, size[1], size[2])
    grid = (size[0] // patch[0], size[1] // patch[1], size[2] // patch[2])
    if "encoder.pos_embed_spatial" in state:
        return _separable(state), kind or "stored"
    table = state.pop("encoder.pos_embed", state.get("encoder.pos_embed.table"))
    if table is None:
        if kind is None and patch[0] == 1:
            raise ValueError(f"{file}: an image transformer without a position table is none of the known ones")
        full = "encoder.blocks.0.attn.k_bias" in state
        return grid, kind or ("rope_tiled" if full else "sincos_flat")
    table = table.flatten(0, -2)  # (N or 1 + N, dim)
    if clip is None:
        grid = _guess_grid(len(table), patch, file, class_token="encoder.cls_token" in state)
    if len(table) == math.prod(grid) + 1 and "encoder.cls_token" in state:
        state["encoder.cls_token"] = state["encoder.cls_token"] + table[:1]
        table = table[1:]
    if len(table) != math.prod(grid):
        raise ValueError(f"{file}: a position table of {len(table)} entries does not fit a clip of {size} with patches of {patch}: say the clip")
    state["encoder.pos_embed.table"] = table
    if kind is None and source == "vjepa" and torch.allclose(table.float(), sincos(grid, table.shape[1]), atol=1e-4):
        kind = "sincos"
    return grid, kind or "stored"


def _separable(state: dict[str, Tensor]) -> Grid:
    """MAE-ST: one table in space, one in time, their sum at every token."""
    space, time = state.pop("encoder.pos_embed_spatial")[0], state.pop("encoder.pos_embed_temporal")[0]
    side = math.isqrt(len(space))
    if side * side != len(space):
        raise ValueError(f"MAE-ST's position table expected a square of entries, got {len(space)}")
    if "encoder.pos_embed_class" in state:
        state["encoder.cls_token"] = state["encoder.cls_token"] + state.pop("encoder.pos_embed_class")
    state["encoder.pos_embed.table"] = (time[:, None] + space[None]).flatten(0, 1)  # (T * S, dim)
    return len(time), side, side


def _guess_grid(entries: int, patch: tuple[int, int, int], file: Path, *, class_token: bool) -> Grid:
    """Square images; square clips of 16 frames."""
    frames = 1 if patch[0] == 1 else 16 // patch[0]
    for extra in (1, 0) if class_token else (0,):
        side = math.isqrt((entries - extra) // frames)
        if frames * side * side + extra == entries:
            return frames, side, side
    raise ValueError(f"{file}: {entries} position entries are no square of patches over {frames} slots: say clip=(frames, height, width)")

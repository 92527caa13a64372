"""Weights into a LiDAR encoder or detector, from any file that can hold them.

Ours (``encoder.safetensors``, a run's ``step_N.pt``) and OpenPCDet's ``.pth`` files go through one path: bring the names and the layout
of the sparse weights to ours, match the stem's inputs by name, load with a report, refuse below a share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from suite3d.interop.load import LoadRefused, LoadReport, MatchColumns, load_weights, read_checkpoint, read_torch
from suite3d.interop.save import read_metadata
from suite3d.pointcloud.encoders.base import LidarEncoder
from suite3d.pointcloud.interop.layouts import Layout, check_layout, decide_layout, from_layout
from suite3d.pointcloud.interop.openpcdet import from_openpcdet_key, read_openpcdet

PARTS = ("encoder.", "neck.", "head.")


@dataclass(frozen=True, kw_only=True)
class _Stored:
    state: dict[str, Tensor]  # keys as in a detector: encoder. neck. head.
    columns: tuple[str, ...] | None
    layout: Layout | None
    note: str


def load_lidar_weights(
    module: nn.Module,
    path: Path | str,
    *,
    minimum: float = 0.9,
    layout: Layout | None = None,
    channels: Sequence[str] | None = None,
    echo: Callable[[str], None] | None = print,
) -> LoadReport:
    """Load a file into an encoder, or into a module that has one as ``.encoder`` (detector, pretraining method).

    Args:
        module: changed in place, only if everything is in order.
        path: ``.safetensors`` of :func:`suite3d.interop.save.save_encoder`, a run's checkpoint, or an OpenPCDet ``.pth``.
        minimum: smallest accepted share of ``module``'s parameters.
        layout: layout of the sparse weights, for files that do not record it and whose shapes leave it open.
        channels: the point channels after xyz that the file's network reads, for files that do not record them
            (OpenPCDet on KITTI: intensity; nuScenes: intensity, time; Waymo: intensity, elongation).
        echo: where the report goes; None keeps it quiet.

    Raises:
        LoadRefused: the file is of another encoder class or width, or its stem reads inputs nobody has named.
        ValueError: an unreadable file, or a layout that is undecidable or contradicts the file.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    encoder = module if isinstance(module, LidarEncoder) else getattr(module, "encoder", None)
    if not isinstance(encoder, LidarEncoder):
        raise ValueError(f"load_lidar_weights expected a LiDAR encoder or a module with one as .encoder, got {type(module).__name__}")
    prefix = "" if module is encoder else "encoder."
    stored = _read(path)
    state = {key if prefix else key.removeprefix("encoder."): tensor for key, tensor in stored.state.items() if prefix or key.startswith("encoder.")}
    unused = {} if prefix else {key: tensor for key, tensor in stored.state.items() if not key.startswith("encoder.")}
    stem = prefix + encoder.stem
    wanted = module.state_dict()
    state = _to_our_layout(state, wanted, stem=stem, given=layout, recorded=stored.layout, path=path)
    columns = _columns(stored, channels, encoder, state.get(stem), path)
    return load_weights(
        module,
        state | unused,
        minimum=minimum,
        allow_reshape=None if columns is None else {stem: MatchColumns(source=columns, target=encoder.input_columns)},
        source=f"{path}{stored.note}",
        echo=echo,
    )


def _read(path: Path) -> _Stored:
    if path.suffix == ".safetensors":
        metadata = read_metadata(path)
        description = metadata.get("description", {})
        columns = description.get("input_columns")
        note = f" ({description['class']})" if "class" in description else ""
        return _Stored(
            state=_with_parts({from_openpcdet_key(key): tensor for key, tensor in read_checkpoint(path).items()}),
            columns=None if columns is None else tuple(columns),
            layout="spconv2" if metadata else None,
            note=note,
        )
    content = read_torch(path)
    if isinstance(content, dict) and "model_state" in content:
        file = read_openpcdet(path)
        state = {from_openpcdet_key(key): tensor for key, tensor in file.state.items()}
        return _Stored(
            state=_with_parts(state), columns=file.input_columns, layout=file.layout, note="" if file.step is None else f" (global_step {file.step})"
        )
    ours = isinstance(content, dict) and isinstance(content.get("model"), dict) and "step" in content
    state = {from_openpcdet_key(key): tensor for key, tensor in read_checkpoint(path).items()}
    return _Stored(state=_with_parts(state), columns=None, layout="spconv2" if ours else None, note="")


def _with_parts(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A lone encoder's tensors under ``encoder.``; anything that has parts already as it is."""
    return state if any(key.startswith(PARTS) for key in state) else {f"encoder.{key}": tensor for key, tensor in state.items()}


def _to_our_layout(
    state: dict[str, Tensor], wanted: dict[str, Tensor], *, stem: str, given: Layout | None, recorded: Layout | None, path: Path
) -> dict[str, Tensor]:
    if given is not None:
        check_layout(given)
        if recorded is not None and given != recorded:
            raise ValueError(f"{path} says its sparse weights are in layout {recorded}, but layout={given} was asked for")
    layout = given or recorded or decide_layout(state, wanted, stem=stem)
    sparse = {key for key, tensor in wanted.items() if tensor.ndim == 5}
    return {key: from_layout(tensor, layout) if key in sparse and tensor.ndim == 5 else tensor for key, tensor in state.items()}


def _columns(stored: _Stored, channels: Sequence[str] | None, encoder: LidarEncoder, stem: Tensor | None, path: Path) -> tuple[str, ...] | None:
    """Names of the file's stem inputs; None where the file has no stem or where they are taken to be the model's."""
    if stem is None:
        return None
    columns = stored.columns
    if columns is None and channels is not None:
        derived = encoder.input_columns[3 + len(encoder.channels) :]
        columns = ("x", "y", "z", *channels, *derived)
    if columns is None and stem.shape[-1] != len(encoder.input_columns):
        raise LoadRefused(
            f"{path}: its stem reads {stem.shape[-1]} inputs and the model's {len(encoder.input_columns)} ({' '.join(encoder.input_columns)}). "
            "Name the file's point channels after xyz with channels=, so that the shared ones can be matched"
        )
    if columns is not None and len(columns) != stem.shape[-1]:
        raise LoadRefused(f"{path}: its stem reads {stem.shape[-1]} inputs, but the names given are {' '.join(columns)}")
    return columns

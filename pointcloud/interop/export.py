"""``suite3d export RUN OUT.pth``: a run's weights as an OpenPCDet checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from torch import Tensor

from suite3d.config import ConfigError
from suite3d.engine.checkpoint import checkpoints
from suite3d.interop.load import read_checkpoint, read_torch
from suite3d.interop.options import chosen_layout
from suite3d.interop.save import read_metadata
from suite3d.pointcloud.interop.layouts import LAYOUTS, Layout
from suite3d.pointcloud.interop.openpcdet import save_openpcdet


def export_run(run: Path, out: Path, options: Sequence[str] = ()) -> str:
    """Write ``out`` and say in one line what it holds.

    A fine-tuned run gives the whole detector (its averaged weights, where a run keeps an average), a pretrained one its encoder.

    Args:
        options: ``layout=spconv2`` (default, spconv 2.2 and later), ``layout=spconv2.1`` or ``layout=spconv1``.

    Raises:
        ConfigError: no such run, an unknown option, or an encoder OpenPCDet does not have.
    """
    layout = cast(Layout, chosen_layout(options, LAYOUTS, "spconv2"))
    file = run / "encoder.safetensors"
    if not file.is_file():
        raise ConfigError(f"{run} is not a run with a saved encoder: {file} does not exist")
    metadata = read_metadata(file)
    columns = metadata.get("description", {}).get("input_columns")
    step = int(metadata.get("step", 0))
    detector = _detector_state(run, step)
    state = read_checkpoint(file) if detector is None else detector
    try:
        count = save_openpcdet(out, state, layout=layout, input_columns=None if columns is None else tuple(columns), step=step)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    what = "encoder" if detector is None else "detector"
    return f"{out}: OpenPCDet checkpoint of the {what} after {step} steps, {count} tensors ({count - 1} and global_step), sparse weights for {layout}"


def _detector_state(run: Path, step: int) -> dict[str, Tensor] | None:
    """The detector's tensors if the run is of one. Raises ConfigError where its checkpoint of that step is gone."""
    found = dict(checkpoints(run / "checkpoints"))
    if not found:
        return None
    content = read_torch(found.get(step, found[max(found)]))
    model = content["average"] if content.get("average") is not None else content["model"]
    if not any(key.startswith("neck.") for key in model):
        return None
    if step not in found:
        raise ConfigError(
            f"{run}: encoder.safetensors is of step {step}, but the checkpoints are of steps {sorted(found)}; resume the run to bring them together"
        )
    parts = ("encoder.", "neck.", "head.")
    return {key: tensor for key, tensor in model.items() if key.startswith(parts)}

"""Load weights from a file and say exactly what came in.

The field's signature bug is a checkpoint of which a tenth, or a single counter, matched, followed by a month of "fine-tuning" from
scratch. So a load here has a report, the report has the share of the parameters that came in, and below a share the load is refused
and the module stays as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

WRAPPERS = ("model_state", "state_dict", "model_state_dict", "model", "network_weights", "base_model")


class LoadRefused(ValueError):
    """Too little of the file fits the module, or what fits is broken. The module is untouched."""


@dataclass(frozen=True, kw_only=True)
class MatchColumns:
    """Fit a weight whose last axis runs over named input columns to a model with other columns.

    Columns that both have are copied by name, wherever they stand; columns that only the model has become zero, so the
    model computes at first what the file's model computed; columns that only the file has are dropped.

    Attributes:
        source: column names of the weight in the file.
        target: column names of the model.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]

    def __call__(self, stored: Tensor, wanted: Tensor) -> Tensor:
        """Weight of the file -> weight of ``wanted``'s shape. Raises ValueError where the names do not describe the two tensors."""
        if stored.shape[-1] != len(self.source) or stored.shape[:-1] != wanted.shape[:-1] or wanted.shape[-1] != len(self.target):
            raise ValueError(
                f"cannot fit {tuple(stored.shape)} to {tuple(wanted.shape)} by the columns {list(self.source)} -> {list(self.target)}: "
                "the last axes must have that many entries and the others must agree"
            )
        fitted = torch.zeros(wanted.shape, dtype=stored.dtype)
        for column, name in enumerate(self.target):
            if name in self.source:
                fitted[..., column] = stored[..., self.source.index(name)]
        return fitted

    @property
    def share(self) -> float:
        """Part of the model's weight that the file provides."""
        return sum(name in self.source for name in self.target) / len(self.target)

    def __str__(self) -> str:
        parts = {
            "by name": [name for name in self.target if name in self.source],
            "zero": [name for name in self.target if name not in self.source],
            "dropped": [name for name in self.source if name not in self.target],
        }
        return "; ".join(f"{label}: {' '.join(names)}" for label, names in parts.items() if names)


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What came in.

    Attributes:
        source: where the weights are from, for the reader.
        matched: keys copied as they are.
        reshaped: keys copied by a declared operation, with a description of it.
        mismatched: keys in both whose shapes differ (not copied), with the two shapes.
        missing: keys of the module that the file lacks.
        unexpected: keys of the file that the module lacks.
        loaded_parameters, total_parameters: learned numbers (not buffers) that came in, and that the module has.
    """

    source: str
    matched: tuple[str, ...]
    reshaped: Mapping[str, str]
    mismatched: Mapping[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    loaded_parameters: int
    total_parameters: int

    @property
    def share(self) -> float:
        """Loaded share of the module's parameters, in [0, 1]."""
        return self.loaded_parameters / max(self.total_parameters, 1)

    def as_dict(self) -> dict[str, Any]:
        """The report as json."""
        return {**asdict(self), "share": self.share}

    def __str__(self) -> str:
        total = len(self.matched) + len(self.reshaped) + len(self.mismatched) + len(self.missing)
        lines = [
            f"weights from {self.source}: {len(self.matched) + len(self.reshaped)} of {total} tensors, "
            f"{100 * self.share:.1f} % of {self.total_parameters:,} parameters"
        ]
        lines.append(f"  matched    {len(self.matched)}")
        lines.append(f"  reshaped   {len(self.reshaped)}{_listing([f'{key} ({what})' for key, what in self.reshaped.items()])}")
        if self.mismatched:
            lines.append(f"  wrong shape {len(self.mismatched)}{_listing([f'{key} {what}' for key, what in self.mismatched.items()])}")
        lines.append(f"  missing    {len(self.missing)}{_listing(self.missing)}")
        lines.append(f"  unexpected {len(self.unexpected)}{_listing(self.unexpected)}")
        return "\n".join(lines)


def _listing(names: tuple[str, ...] | list[str], limit: int = 4) -> str:
    if not names:
        return ""
    more = f", +{len(names) - limit} more" if len(names) > limit else ""
    return f": {', '.join(names[:limit])}{more}"


def load_weights(
    module: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    minimum: float = 0.9,
    rename: Callable[[str], str | None] | None = None,
    allow_reshape: Mapping[str, MatchColumns] | None = None,
    source: str = "a state dict",
    echo: Callable[[str], None] | None = print,
) -> LoadReport:
    """Copy into ``module`` every tensor whose (renamed) key and shape fit; print and return what happened.

    Args:
        module: changed in place, only after every check has passed.
        state_dict: flat names -> tensors.
        minimum: smallest accepted share of the module's parameters, in (0, 1].
        rename: key of the file -> key of the module; None leaves a tensor out (it counts as unexpected).
        allow_reshape: module key -> how to fit the file's weight, applied whenever the column names differ, even if
            the shapes happen to agree.
        source: name of the file, for the report.
        echo: where the report goes; None keeps it quiet.

    Raises:
        LoadRefused: less than ``minimum`` of the parameters fit, or a tensor that would come in holds NaN or Inf.
        ValueError: two keys renamed to the same one, ``minimum`` out of range, or an impossible reshape.
    """
    if not 0 < minimum <= 1:
        raise ValueError(f"minimum expected a share in (0, 1], got {minimum}")
    wanted = module.state_dict()
    learned = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    given, unexpected = _renamed(state_dict, rename, wanted)
    accepted: dict[str, Tensor] = {}
    reshaped, mismatched, loaded = {}, {}, 0.0
    for key, stored in given.items():
        target, columns, share = wanted[key], (allow_reshape or {}).get(key), 1.0
        if columns is not None and columns.source != columns.target:
            before = tuple(stored.shape)
            stored, share = columns(stored, target), columns.share
            reshaped[key] = f"{before} -> {tuple(target.shape)}; {columns}"
        elif stored.shape != target.shape:
            mismatched[key] = f"{tuple(stored.shape)} in the file, {tuple(target.shape)} in the model"
            continue
        accepted[key] = stored
        loaded += share * target.numel() if key in learned else 0
    report = LoadReport(
        source=source,
        matched=tuple(key for key in wanted if key in accepted and key not in reshaped),
        reshaped=reshaped,
        mismatched=mismatched,
        missing=tuple(key for key in wanted if key not in given),
        unexpected=tuple(unexpected),
        loaded_parameters=round(loaded),
        total_parameters=sum(wanted[key].numel() for key in learned),
    )
    _refuse(report, accepted, minimum)
    _copy(accepted, wanted)
    if echo is not None:
        echo(str(report))
    return report


@torch.no_grad()
def _copy(accepted: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for key, stored in accepted.items():
        wanted[key].copy_(stored)


def _renamed(
    state_dict: Mapping[str, Tensor], rename: Callable[[str], str | None] | None, wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of the file under the module's keys, and the file's keys that have no place."""
    given: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    unexpected = []
    for key, tensor in state_dict.items():
        target = key if rename is None else rename(key)
        if target is None or target not in wanted:
            unexpected.append(key)
        elif target in given:
            raise ValueError(f"rename maps both '{origin[target]}' and '{key}' to '{target}': every key of the module takes one tensor")
        else:
            given[target], origin[target] = tensor, key
    return given, unexpected


def _refuse(report: LoadReport, accepted: Mapping[str, Tensor], minimum: float) -> None:
    broken = [key for key, tensor in accepted.items() if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())]
    if broken:
        raise LoadRefused(f"refused: {len(broken)} tensors of {report.source} hold NaN or Inf{_listing(broken)}")
    if report.share < minimum:
        raise LoadRefused(
            f"refused: {100 * report.share:.1f} % of the parameters fit, at least {100 * minimum:g} % are needed. "
            f"Is this file from another encoder class, width or layout?\n{report}"
        )


def read_checkpoint(path: Path | str) -> dict[str, Tensor]:
    """Flat ``name -> CPU tensor`` of a checkpoint. Nothing in the file is executed.

    ``.safetensors`` files are read as they are; anything else as a torch file with ``weights_only=True``. Wrappers
    (``model_state``, ``state_dict``, ``model``, ...) and a ``module.`` prefix on every key are taken off.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not readable as either, code inside, or no tensors.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such checkpoint")
        try:
            return load_file(path, device="cpu")
        except SafetensorError as error:
            raise ValueError(f"{path}: expected a safetensors file, got something else or a truncated one ({error})") from error
    content = read_torch(path)
    while isinstance(content, dict) and not any(isinstance(value, Tensor) for value in content.values()):
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected named tensors, got a {type(content).__name__}")
    tensors = {str(key): value.detach() for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path}: no tensors found; top-level keys are {sorted(map(str, content))[:8]}, known wrappers are {list(WRAPPERS)}")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def read_torch(path: Path | str) -> Any:
    """Content of a torch file, tensors on the CPU, with ``weights_only=True``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, not a torch file, or one that would have to run code to load.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        reason = " ".join(str(error).split())[:240]
        raise ValueError(
            f"{path}: not a plain torch checkpoint; it is damaged or holds objects that only code can rebuild, which is never run ({reason})"
        ) from error
    except (RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f"{path}: expected a torch checkpoint, got a damaged or different file ({' '.join(str(error).split())[:240]})") from error


def read_header(path: Path | str) -> dict[str, str]:
    """The text entries in a safetensors header, empty for other files."""
    path = Path(path)
    if path.suffix != ".safetensors":
        return {}
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt", device="cpu") as handle:
            return dict(handle.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a safetensors file, got something else or a truncated one ({error})") from error

"""Memory layouts of sparse convolution weights in files, and how to tell them apart.

    spconv 1.x    RSCK  (kz, ky, kx, in, out)
    spconv 2.1    RSKC  (kz, ky, kx, out, in)
    spconv >= 2.2 KRSC  (out, kz, ky, kx, in)     what suite3d uses

With as many input as output channels RSKC and RSCK have the same shape, and a wrong guess is a network that runs and is useless. So a file
as a whole is looked at: a layout must fit every weight, and where more than one does, it has to be named by the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from einops import rearrange
from torch import Tensor

Layout = Literal["spconv1", "spconv2.1", "spconv2"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

_AXES: dict[Layout, str] = {"spconv1": "z y x i o", "spconv2.1": "z y x o i", "spconv2": "o z y x i"}


class UndecidedLayout(ValueError):
    """The weights fit no layout, or more than one."""


def check_layout(layout: str) -> None:
    """Raises ValueError for a name that is not a layout."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout expected one of {list(LAYOUTS)}, got '{layout}'")


def to_layout(weight: Tensor, layout: Layout) -> Tensor:
    """``(out, kz, ky, kx, in)`` -> a contiguous weight in ``layout``."""
    check_layout(layout)
    return rearrange(weight, f"o z y x i -> {_AXES[layout]}").contiguous()


def from_layout(weight: Tensor, layout: Layout) -> Tensor:
    """A weight in ``layout`` -> ``(out, kz, ky, kx, in)``, contiguous."""
    check_layout(layout)
    return rearrange(weight, f"{_AXES[layout]} -> o z y x i").contiguous()


def _fits(stored: tuple[int, ...], wanted: tuple[int, ...], layout: Layout, *, any_input: bool) -> bool:
    out, *kernel, cin = wanted
    sizes: dict[str, int | None] = {"o": out, "z": kernel[0], "y": kernel[1], "x": kernel[2], "i": None if any_input else cin}
    return all(sizes[axis] in (None, size) for axis, size in zip(_AXES[layout].split(), stored, strict=True))


def decide_layout(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, stem: str | None = None) -> Layout:
    """The one layout in which the file's weights have the model's shapes.

    Args:
        stored: tensors of the file under the model's keys.
        wanted: the model's state dict, weights as ``(out, kz, ky, kx, in)``.
        stem: key whose number of input channels may differ.

    Returns:
        The layout; ``spconv2`` where the two have no sparse weight of matching shape in common (nothing to decide; the load will
        report the shapes).

    Raises:
        UndecidedLayout: several layouts fit every weight, or none fits all of those that fit at all.
    """
    candidates = set(LAYOUTS)
    votes = 0
    for key, weight in wanted.items():
        if weight.ndim != 5 or key not in stored or stored[key].ndim != 5:
            continue
        shapes = tuple(stored[key].shape), tuple(weight.shape)
        fitting = {layout for layout in LAYOUTS if _fits(*shapes, layout, any_input=key == stem)}
        if fitting:
            votes += 1
            candidates &= fitting
    if votes == 0:
        return "spconv2"
    if len(candidates) == 1:
        return candidates.pop()
    if not candidates:
        raise UndecidedLayout("the sparse weights of this file contradict each other: no one layout gives all of them the model's shapes")
    raise UndecidedLayout(
        f"the shapes of the {votes} sparse weights fit {sorted(candidates)} alike, and a guess could be silently wrong: "
        "say with layout= which spconv wrote the file"
    )

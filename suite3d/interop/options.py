"""The words after ``suite3d export RUN OUT``."""

from __future__ import annotations

from collections.abc import Sequence

from suite3d.config import ConfigError


def chosen_layout(options: Sequence[str], layouts: Sequence[str], default: str) -> str:
    """The layout that ``layout=NAME`` asks for, else ``default``. Raises ConfigError for another key or an unknown layout."""
    layout = default
    for option in options:
        key, _, value = option.partition("=")
        if key != "layout":
            raise ConfigError(f"export: unknown key '{key}'. Did you mean 'layout'?")
        if value not in layouts:
            raise ConfigError(f"export: layout expected one of {', '.join(layouts)}, got '{value}'")
        layout = value
    return layout

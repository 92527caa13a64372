"""Dataclass defaults + yaml + ``key=value``, merged on one strict path.

An unknown key, a wrong type or a missing file is a :class:`ConfigError` of one line that names the key and the nearest
valid one; the command line turns it into exit code 2 before anything is loaded.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

T = TypeVar("T")


class ConfigError(ValueError):
    """Something in the configuration is wrong; the message is one line for a person."""


def _known_keys(node: Any, prefix: str = "") -> list[str]:
    keys = []
    for key, value in node.items_ex(resolve=False) if isinstance(node, DictConfig) else ():
        name = prefix + str(key)
        keys.append(name)
        keys.extend(_known_keys(value, f"{name}."))
    return keys


def _flat_keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [prefix[:-1]]
    return [key for name, value in node.items() for key in _flat_keys(value, f"{prefix}{name}.")]


def _refuse_unknown(known: list[str], given: Any, origin: str) -> None:
    plain = OmegaConf.to_container(given) if isinstance(given, DictConfig) else given
    if not isinstance(plain, dict):
        raise ConfigError(f"{origin}: expected keys and values, got {type(plain).__name__}")
    for key in _flat_keys(plain):
        if key in known:
            continue
        parent_is_value = any(key.startswith(f"{name}.") and not any(k.startswith(f"{name}.") for k in known) for name in known)
        if parent_is_value:
            continue
        last = key.rsplit(".", 1)[-1]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.6) or [name for name in known if name.rsplit(".", 1)[-1] == last]
        near = near or difflib.get_close_matches(last, [name.rsplit(".", 1)[-1] for name in known], n=1)
        hint = f" Did you mean '{near[0]}'?" if near else f" Valid keys start with: {', '.join(sorted({k.split('.')[0] for k in known}))}."
        raise ConfigError(f"{origin}: unknown key '{key}'.{hint}")


def load_config(schema: type[T], *, files: Sequence[Path] = (), overrides: Sequence[str] = ()) -> T:
    """Typed configuration object.

    Args:
        schema: a dataclass; its defaults are the base.
        files: yaml files, later ones win.
        overrides: ``key=value`` strings from the command line, winning over files.

    Raises:
        ConfigError: unknown key, wrong type, missing file, bad yaml, or a value still missing.
    """
    base = OmegaConf.structured(schema)
    known = _known_keys(base)
    layers = []
    for file in files:
        if not file.is_file():
            raise ConfigError(f"config file {file} does not exist")
        try:
            layers.append((str(file), OmegaConf.load(file)))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{file}: not readable as yaml: {' '.join(str(error).split())}") from error
    for text in overrides:
        if "=" not in text or text.startswith("="):
            raise ConfigError(f"command line: expected key=value, got '{text}'")
        try:
            layers.append((f"command line: {text}", OmegaConf.from_dotlist([text])))
        except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"command line: {text}: {' '.join(str(error).split())}") from error
    merged = base
    for origin, layer in layers:
        _refuse_unknown(known, layer, origin)
        try:
            merged = OmegaConf.merge(merged, layer)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{origin}: {_one_line(error)}") from error
    missing = sorted(OmegaConf.missing_keys(merged))
    if missing:
        raise ConfigError(f"missing value for '{missing[0]}': give it as {missing[0]}=VALUE")
    try:
        return cast(T, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error)) from error
    except ValueError as error:
        raise ConfigError(f"invalid configuration: {error}") from error


def stored_parts(file: Path, parts: Sequence[str]) -> list[str]:
    """Overrides that repeat parts of a stored ``config.yaml``, such as ``data={root: clips}``; none for parts or files that are not there."""
    if not file.is_file():
        return []
    known = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    return [f"{part}={_inline(known[part])}" for part in parts if part in known]


def _inline(node: Any) -> str:
    """As yaml in one line; a single word ends with a document mark, which is left out."""
    return yaml.safe_dump(node, default_flow_style=True, width=10**9).removesuffix("...\n").strip()


def _one_line(error: OmegaConfBaseException) -> str:
    text = str(error).strip().splitlines()[0]
    key = getattr(error, "full_key", None)
    return f"key '{key}': {text}" if key and str(key) not in text else text


def to_yaml(config: Any) -> str:
    """The resolved configuration as yaml, in the order of the dataclass."""
    return yaml.safe_dump(_plain(OmegaConf.to_container(OmegaConf.structured(config))), sort_keys=False, width=150)


def _plain(node: Any) -> Any:
    """Containers of numbers and text only, so that the file needs no Python to be read."""
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_plain(value) for value in node]
    return str(node) if isinstance(node, Path) else node


__all__ = ["MISSING", "ConfigError", "load_config", "to_yaml"]

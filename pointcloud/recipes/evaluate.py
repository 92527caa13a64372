"""``suite3d evaluate RUN``: score a fine-tuned run again, on its own or other data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from suite3d.config import ConfigError
from suite3d.engine.checkpoint import load_checkpoint
from suite3d.engine.distributed import pick_device
from suite3d.engine.files import write_json
from suite3d.pointcloud.recipes.finetune import FinetuneRecipe
from suite3d.recipes import RECIPES, find_recipe, resolve


def evaluate_run(run: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Result of the run's last weights under its configuration with ``overrides`` on top; also in ``evaluation.json``.

    Raises:
        ConfigError: not a finished fine-tuning run, or wrong overrides.
    """
    stored = run / "config.yaml"
    if not stored.is_file():
        raise ConfigError(f"{run} is not a run directory: {stored} does not exist")
    config = resolve(find_recipe(_recipe_of(stored), "finetune"), [f"config={stored}", *overrides])
    assert isinstance(config, FinetuneRecipe)
    device = pick_device(config.train.device)
    state = load_checkpoint(run / "checkpoints", device=device)
    if state is None:
        raise ConfigError(f"{run} holds no checkpoint yet")
    config.init = ""
    task = config.task()
    assert task.evaluate is not None
    model = task.model.to(device)
    model.load_state_dict(state["average"] if state.get("average") is not None else state["model"])
    result = task.evaluate(model, device, run)
    write_json(run / "evaluation.json", result)
    return result


def _recipe_of(stored: Path) -> str:
    """Name of the detection recipe a configuration belongs to, by its head."""
    detector = (yaml.safe_load(stored.read_text(encoding="utf-8")) or {}).get("detector", {}).get("head", {})
    if not detector:
        names = [recipe.name for recipe in RECIPES if recipe.stage == "finetune"]
        raise ConfigError(f"{stored.parent} is not a fine-tuning run; only those of {', '.join(names)} can be evaluated")
    return "second" if "anchors" in detector else "centerpoint"

"""``suite3d evaluate RUN``: score a fine-tuned video run again, with other views or on other videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suite3d.config import ConfigError
from suite3d.engine.checkpoint import load_checkpoint
from suite3d.engine.distributed import pick_device
from suite3d.engine.files import write_json
from suite3d.recipes import recipe_of, resolve


def evaluate_run(run: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Result of the run's last weights under its configuration with ``overrides`` on top; also in ``evaluation.json``.

    Raises:
        ConfigError: not a fine-tuning run, no checkpoint, other classes than it was trained on, or wrong overrides.
    """
    recipe = recipe_of(run)
    if recipe is None or recipe.stage != "finetune":
        raise ConfigError(f"{run} is not a fine-tuning run: for frozen features use `suite3d evaluate {run} knn,linear`")
    config = resolve(recipe, [f"config={run / 'config.yaml'}", *overrides])
    device = pick_device(config.train.device)
    state = load_checkpoint(run / "checkpoints", device=device)
    if state is None:
        raise ConfigError(f"{run} holds no checkpoint yet")
    config.init, config.like = "", str(run)
    task = config.task()
    assert task.evaluate is not None
    model = task.model.to(device)
    try:
        model.load_state_dict(state["average"] if state.get("average") is not None else state["model"])
    except RuntimeError as error:
        raise ConfigError(f"{run}: the weights do not fit this configuration: {' '.join(str(error).split())[:300]}") from error
    result = task.evaluate(model, device, run)
    write_json(run / "evaluation.json", result)
    return result

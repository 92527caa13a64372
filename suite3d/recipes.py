"""The one table from recipe names to the code behind them, and the path from a command line to a finished run."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite3d.config import ConfigError, load_config
from suite3d.image.recipes.table import ROWS as IMAGE_ROWS

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One line of ``suite3d list``.

    Attributes:
        name: what the command line calls it; ``configs/<name>.yaml`` holds what differs from the dataclass defaults.
        stage: ``pretrain`` or ``finetune``.
        modality: what it reads.
        family: masked modelling, contrastive, detection, ...
        paper: source of the algorithm.
        target: ``module:Dataclass``; the dataclass is the schema and its ``task()`` builds model and data.
        needs: what the data must carry beyond the scans themselves.
        checked: what the implementation was held against.
    """

    name: str
    stage: str
    modality: str
    family: str
    paper: str
    target: str
    needs: str = "scans only"
    checked: str = "algorithm"


_PRETRAIN = "suite3d.pointcloud.recipes.pretrain"
_JOINT = "suite3d.pointcloud.recipes.joint"
_OBJECTS = "suite3d.pointcloud.recipes.objects.pretrain"
_FINETUNE = "suite3d.pointcloud.recipes.finetune"
_VIDEO = "suite3d.video.recipes.pretrain"
_LATENT = "suite3d.video.recipes.latent"
_CONTRASTIVE = "suite3d.video.recipes.contrastive"

RECIPES = (
    Recipe(
        name="mv_jar", stage="pretrain", modality="LiDAR", family="masked modelling", paper="MV-JAR, CVPR 2023", target=f"{_PRETRAIN}:MVJARRecipe"
    ),
    Recipe(
        name="voxel_mae",
        stage="pretrain",
        modality="LiDAR",
        family="masked modelling",
        paper="Voxel-MAE, WACVW 2023",
        target=f"{_PRETRAIN}:VoxelMAERecipe",
    ),
    Recipe(
        name="occupancy_mae",
        stage="pretrain",
        modality="LiDAR",
        family="masked modelling",
        paper="Occupancy-MAE, TIV 2023",
        target=f"{_PRETRAIN}:OccupancyMAERecipe",
    ),
    Recipe(
        name="bev_contrast",
        stage="pretrain",
        modality="LiDAR",
        family="contrastive",
        paper="BEVContrast, 3DV 2024",
        target=f"{_PRETRAIN}:BEVContrastRecipe",
        needs="sequences with poses",
    ),
    Recipe(name="prc", stage="pretrain", modality="LiDAR", family="contrastive", paper="CALICO stage 1, ICLR 2024", target=f"{_PRETRAIN}:PRCRecipe"),
    Recipe(
        name="lidar_lejepa",
        stage="pretrain",
        modality="LiDAR",
        family="latent prediction",
        paper="LeJEPA, 2025 (lifted to LiDAR)",
        target=f"{_JOINT}:LidarLeJEPARecipe",
        checked="loss equal to the definition",
    ),
    Recipe(
        name="lidar_swav",
        stage="pretrain",
        modality="LiDAR",
        family="clustering",
        paper="SwAV, NeurIPS 2020 (lifted to LiDAR)",
        target=f"{_JOINT}:LidarSwAVRecipe",
        checked="loss equal to the definition",
    ),
    Recipe(
        name="lidar_mv_dhel",
        stage="pretrain",
        modality="LiDAR",
        family="contrastive",
        paper="MV-DHEL, 2025 (lifted to camera and LiDAR)",
        target=f"{_JOINT}:LidarMVDHELRecipe",
        needs="sequences with poses and camera pictures",
        checked="loss equal to the definition",
    ),
    Recipe(
        name="object_dino",
        stage="pretrain",
        modality="object clouds",
        family="self-distillation",
        paper="DINO, ICCV 2021 (lifted to object clouds)",
        target=f"{_OBJECTS}:ObjectDINORecipe",
        needs="objects only",
        checked="loss equal to the definition",
    ),
    Recipe(
        name="point_mae",
        stage="pretrain",
        modality="object clouds",
        family="masked modelling",
        paper="Point-MAE, ECCV 2022",
        target=f"{_OBJECTS}:PointMAERecipe",
        needs="objects only",
        checked="loss and names equal to the definition",
    ),
    Recipe(
        name="videomae",
        stage="pretrain",
        modality="video",
        family="masked modelling",
        paper="VideoMAE, NeurIPS 2022",
        target=f"{_VIDEO}:VideoMAERecipe",
        needs="videos only",
        checked="loss and names equal to the definition",
    ),
    Recipe(
        name="videomae_v2",
        stage="pretrain",
        modality="video",
        family="masked modelling",
        paper="VideoMAE V2, CVPR 2023",
        target=f"{_VIDEO}:VideoMAEV2Recipe",
        needs="videos only",
        checked="loss and names equal to the definition",
    ),
    Recipe(
        name="sigma",
        stage="pretrain",
        modality="video",
        family="masked modelling",
        paper="SIGMA, ECCV 2024",
        target=f"{_LATENT}:SIGMARecipe",
        needs="videos only",
        checked="loss equal to the definition",
    ),
    Recipe(
        name="vjepa",
        stage="pretrain",
        modality="video",
        family="latent prediction",
        paper="V-JEPA 2, 2025",
        target=f"{_LATENT}:VJEPARecipe",
        needs="videos only",
        checked="loss equal to the definition",
    ),
    Recipe(
        name="salt",
        stage="pretrain",
        modality="video",
        family="latent prediction",
        paper="SALT, 2025",
        target=f"{_LATENT}:SALTRecipe",
        needs="videos, and a finished videomae run",
        checked="loss equal to the definition",
    ),
    Recipe(
        name="cvrl",
        stage="pretrain",
        modality="video",
        family="contrastive",
        paper="CVRL, CVPR 2021",
        target=f"{_CONTRASTIVE}:CVRLRecipe",
        needs="videos only",
        checked="loss equal to the definition",
    ),
    Recipe(
        name="rspnet",
        stage="pretrain",
        modality="video",
        family="contrastive",
        paper="RSPNet, AAAI 2021",
        target=f"{_CONTRASTIVE}:RSPNetRecipe",
        needs="videos only",
        checked="loss equal to the definition",
    ),
    Recipe(
        name="video_lejepa",
        stage="pretrain",
        modality="video",
        family="latent prediction",
        paper="LeJEPA, 2025 (lifted to video)",
        target="suite3d.video.recipes.lejepa:VideoLeJEPARecipe",
        needs="videos only",
        checked="loss equal to the definition",
    ),
    Recipe(
        name="video_classify",
        stage="finetune",
        modality="video",
        family="classification",
        paper="VideoMAE (fine-tuning), NeurIPS 2022",
        target="suite3d.video.recipes.finetune:VideoClassifyRecipe",
        needs="labels",
        checked="algorithm; augmentation equal to Pillow's",
    ),
    Recipe(
        name="video_actions",
        stage="finetune",
        modality="video",
        family="action detection",
        paper="VideoMAE / SlowFast on AVA, CVPR 2018",
        target="suite3d.video.recipes.actions:VideoActionsRecipe",
        needs="persons with actions (AVA csv)",
        checked="algorithm; frame mAP equal to a slow version",
    ),
    Recipe(
        name="second",
        stage="finetune",
        modality="LiDAR",
        family="detection",
        paper="SECOND, Sensors 2018",
        target=f"{_FINETUNE}:SECONDRecipe",
        needs="boxes",
        checked="algorithm; evaluator equal to the official one",
    ),
    Recipe(
        name="centerpoint",
        stage="finetune",
        modality="LiDAR",
        family="detection",
        paper="CenterPoint (voxel), CVPR 2021",
        target=f"{_FINETUNE}:CenterPointRecipe",
        needs="boxes",
        checked="algorithm; evaluator equal to the official one",
    ),
    Recipe(
        name="centerpoint_pillar",
        stage="finetune",
        modality="LiDAR",
        family="detection",
        paper="CenterPoint (pillar), CVPR 2021",
        target=f"{_FINETUNE}:CenterPointRecipe",
        needs="boxes",
        checked="algorithm; evaluator equal to the official one",
    ),
    *(
        Recipe(
            name=name,
            stage="pretrain",
            modality="image",
            family=family,
            paper=paper,
            target=f"suite3d.image.recipes.{target}",
            needs=needs,
            checked=checked,
        )
        for name, family, paper, target, needs, checked in IMAGE_ROWS
    ),
)


def find_recipe(name: str, stage: str | None = None) -> Recipe:
    """Recipe by name, or ``FILE.py:Dataclass`` for one that is not in the table. Raises ConfigError naming the nearest one."""
    if ".py:" in name:
        return _own_recipe(name, stage or "pretrain")
    names = [recipe.name for recipe in RECIPES if stage is None or recipe.stage == stage]
    if name not in names:
        other = next((recipe for recipe in RECIPES if recipe.name == name), None)
        if other is not None:
            raise ConfigError(f"'{name}' is a {other.stage} recipe: use `suite3d {other.stage} {name}`")
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(names)}."
        raise ConfigError(f"unknown {stage or ''} recipe '{name}'. {hint}")
    return next(recipe for recipe in RECIPES if recipe.name == name)


def _own_recipe(name: str, stage: str) -> Recipe:
    """A recipe dataclass in a user's file; a yaml beside the file, of its name, holds what differs from the dataclass defaults."""
    file, _, schema = name.partition(".py:")
    path = Path(f"{file}.py").resolve()
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; expected FILE.py:Dataclass or a name of `suite3d list`")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # so that its classes can be pickled for loader workers
    spec.loader.exec_module(module)
    if not hasattr(module, schema):
        raise ConfigError(f"{path} has no '{schema}'; it has {[word for word in vars(module) if word.endswith('Recipe')]}")
    return Recipe(name=path.stem, stage=stage, modality="own", family="own", paper=str(path), target=f"{path.stem}:{schema}")


def modality_of(run: Path) -> str | None:
    """What the encoder of a run reads, as the run says; None for a file or another folder."""
    recipe = recipe_of(run)
    if recipe is not None:
        return recipe.modality
    stored = run / "provenance.json"
    said: str | None = json.loads(stored.read_text(encoding="utf-8")).get("modality") if stored.is_file() else None
    return said


def recipe_of(run: Path) -> Recipe | None:
    """The recipe that a run directory says it was made with; None where it does not say (a file, another folder)."""
    stored = run / "provenance.json"
    if not stored.is_file():
        return None
    said = json.loads(stored.read_text(encoding="utf-8")).get("recipe")
    return next((recipe for recipe in RECIPES if recipe.target.endswith(f":{said}Recipe")), None)


def resolve(recipe: Recipe, arguments: Sequence[str]) -> Any:
    """The recipe's configuration object from its yaml, ``config=FILE`` arguments in order, and ``key=value`` arguments."""
    module, name = recipe.target.split(":")
    schema = getattr(importlib.import_module(module), name)
    own = (Path(recipe.paper).parent if recipe.modality == "own" else CONFIGS) / f"{recipe.name}.yaml"
    files = [own] if own.exists() else []
    files += [_config_file(text.removeprefix("config=")) for text in arguments if text.startswith("config=")]
    config = load_config(schema, files=files, overrides=[text for text in arguments if not text.startswith("config=")])
    if config.run.dir == Path(""):
        config.run.dir = Path("runs") / recipe.name
    return config


def _config_file(text: str) -> Path:
    """A path, or the name of a yaml shipped in ``configs/``."""
    shipped = CONFIGS / f"{text}.yaml"
    return shipped if shipped.exists() and not Path(text).exists() else Path(text)


def run(config: Any) -> dict[str, Any]:
    """Run a resolved recipe, alone or as twins over seeds; resumes what is already there."""
    from suite3d.engine.distributed import world
    from suite3d.engine.loop import run_task
    from suite3d.engine.order import seed_everything
    from suite3d.engine.twin import run_twins

    with world(config.train.device) as here:
        if config.run.fresh and here.main and config.run.dir.exists():
            shutil.rmtree(config.run.dir)
        here.barrier()
        if getattr(config, "twin", "none") != "none" or getattr(config, "seeds", 1) > 1:
            return run_twins(config, here)
        seed_everything(config.train.seed)
        return run_task(config.task(), config.train, path=config.run.dir, world=here, resolved=config)

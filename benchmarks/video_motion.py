"""Does pretraining on the motion set teach motion? kNN accuracy of the frozen encoder beside its random start and a single frame, over seeds.

    python benchmarks/video_motion.py [--recipe videomae] [--seeds 3] [--json benchmarks/results/video_motion.json] [key=value ...]

Each seed is one run of ``suite3d pretrain RECIPE`` on the motion set as configured; its training time is printed. The probe is the online one
(video/recipes/probe.py): middle clips, all tokens, training clips against validation clips, no label seen by the encoder.

random        the same encoder before its first step
single frame  the trained encoder on clips that show their middle frame all the time: what appearance alone gives
trained       the trained encoder
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import describe

from suite3d.engine.distributed import pick_device
from suite3d.engine.files import write_json
from suite3d.engine.order import seed_everything
from suite3d.evaluate.statistics import mean_interval
from suite3d.interop.load import read_checkpoint
from suite3d.recipes import find_recipe, resolve, run
from suite3d.report.text import print_table
from suite3d.video.recipes.probe import build_probe, pooled, single_frame

ROWS = ("random", "single frame", "trained")
SCORES = ("knn_standardised", "knn", "ridge")


def one_seed(recipe: str, seed: int, folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Train once and score the three encoders."""
    settings = [*overrides, f"train.seed={seed}", f"run.dir={folder / f'{recipe}_seed{seed}'}", "train.probe_every=0", "run.fresh=true"]
    config = resolve(find_recipe(recipe, "pretrain"), settings)
    device = pick_device(config.train.device)
    start = time.perf_counter()
    run(config)
    seconds = time.perf_counter() - start
    seed_everything(seed)
    encoder = config.build_encoder().to(device)
    probe = build_probe(config.probe, config.data, config.augment)
    assert probe is not None
    scores = {"random": probe.score(pooled(encoder), device)}
    encoder.load_state_dict(read_checkpoint(config.run.dir / "encoder.safetensors"))
    scores["single frame"] = probe.score(single_frame(pooled(encoder)), device)
    scores["trained"] = probe.score(pooled(encoder), device)
    return {"seconds": round(seconds, 1), "scores": scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="videomae")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "video_motion.json")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    seeds = [one_seed(arguments.recipe, seed, arguments.runs, arguments.overrides) for seed in range(arguments.seeds)]
    chance = seeds[0]["scores"]["trained"]["knn_chance"]
    rows: list[list[object]] = []
    for name in ROWS:
        for score in SCORES:
            values = [100 * seed["scores"][name][score] for seed in seeds]
            rows.append([name, score, *(f"{value:.1f}" for value in values), mean_interval(values).format(digits=1)])
    columns = ["encoder", "probe", *(f"seed {number}" for number in range(len(seeds))), "mean [95 % interval], %"]
    print_table({"columns": columns, "rows": rows})
    times = [seed["seconds"] for seed in seeds]
    print(f"chance {100 * chance:.1f} %; training took {statistics.median(times):.0f} s a seed (median)")
    write_json(
        arguments.json, {**describe(), "recipe": arguments.recipe, "chance": chance, "seeds": seeds, "table": {"columns": columns, "rows": rows}}
    )


if __name__ == "__main__":
    main()

"""``suite3d``: pretrain | finetune | evaluate | embed | show | export | data | bench | demo | list | doctor."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from suite3d.config import ConfigError

USAGE = """\
suite3d pretrain RECIPE [key=value ...] [config=FILE.yaml]     self-supervised pretraining
suite3d finetune RECIPE [init=RUN] [twin=scratch] [seeds=3] [labels=5%] [key=value ...]
suite3d evaluate RUN [key=value ...]                           evaluate a fine-tuned run again
suite3d evaluate RUN knn,linear,attentive,fewshot,retrieval    what frozen features of videos, images or objects are worth
suite3d evaluate RUN diagnostics                               ranks, alignment, uniformity of an image run; needs no labels
suite3d evaluate RUN propagation [propagation.root=DAVIS]      objects followed through videos by frozen features: J and F
suite3d evaluate RUN segmentation [segmentation.root=FOLDER]   pixels labelled by patches of a few labelled pictures: mIoU
suite3d embed RUN OUT.npz [data.root=FOLDER]                   features of every picture, video, scan or object of a folder
suite3d show RUN                                               what happened in a run; writes report.html
suite3d export RUN OUT [layout=...]                            weights for OpenPCDet, Point-MAE, VideoMAE, transformers or timm
suite3d data make-street OUT [format=kitti|nuscenes|video] [key=value ...]
suite3d data check LIST_OR_FOLDER [workers=N] [key=value ...]  which videos can be used; writes quarantine.jsonl
suite3d data transcode SRC OUT [short_side=256] [gop=16] [key=value ...]
suite3d bench data LIST_OR_FOLDER [model_rate=R] [key=value ...]
                                                               clips a second, what the model eats, how often to repeat
suite3d demo [key=value ...]                                   the whole job on procedural data
suite3d list                                                   every recipe and what it needs
suite3d doctor                                                 versions, compiled ops, self-test
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 1 the run failed, 2 the command or configuration is wrong."""
    parser = argparse.ArgumentParser(prog="suite3d", usage=USAGE, add_help=True)
    parser.add_argument("command", choices=sorted(COMMANDS), metavar="COMMAND")
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    parsed = parser.parse_args(arguments)
    try:
        return COMMANDS[parsed.command](parsed.rest)
    except ConfigError as error:
        print(f"suite3d: {error}", file=sys.stderr)
        return 2


def _split(rest: Sequence[str], positional: int, form: str) -> tuple[list[str], list[str]]:
    """Leading positional words and the key=value rest."""
    if len(rest) < positional or any("=" in word for word in rest[:positional]):
        raise ConfigError(f"expected: suite3d {form}")
    return list(rest[:positional]), list(rest[positional:])


def _train(stage: str, rest: Sequence[str]) -> int:
    from suite3d.recipes import find_recipe, resolve, run

    (name,), overrides = _split(rest, 1, f"{stage} RECIPE [key=value ...]; `suite3d list` names the recipes")
    config = resolve(find_recipe(name, stage), overrides)
    try:
        result = run(config)
    except ConfigError:
        raise
    except ValueError as error:
        print(f"suite3d: {error}", file=sys.stderr)
        return 1
    _print_result(result)
    return 0


def _print_result(result: dict[str, object]) -> None:
    from suite3d.report.text import print_table

    table = result.get("table")
    if isinstance(table, dict):
        print_table(table)
    for key in ("note", "encoder", "report"):
        if result.get(key):
            print(f"{key}: {result[key]}")


def _pretrain(rest: Sequence[str]) -> int:
    return _train("pretrain", rest)


def _finetune(rest: Sequence[str]) -> int:
    return _train("finetune", rest)


def _evaluate(rest: Sequence[str]) -> int:
    from suite3d.recipes import modality_of

    (run,), overrides = _split(rest, 1, "evaluate RUN [knn,linear,attentive,fewshot,retrieval] [key=value ...]")
    frozen = overrides.pop(0).split(",") if overrides and "=" not in overrides[0] else []
    modality = modality_of(Path(run))
    if modality == "LiDAR" and frozen:
        raise ConfigError(f"{run} is a LiDAR run: {', '.join(frozen)} evaluate encoders of clips, images and object clouds")
    if modality == "image":
        from suite3d.image.recipes.evaluate import evaluate_images

        result = evaluate_images(Path(run), frozen or ["knn", "linear"], overrides)
    elif modality == "object clouds":
        from suite3d.pointcloud.recipes.objects.evaluate import evaluate_objects

        result = evaluate_objects(Path(run), frozen or ["knn", "linear"], overrides)
    elif frozen:
        from suite3d.video.recipes.frozen import evaluate_frozen

        result = evaluate_frozen(Path(run), frozen, overrides)
    elif modality == "video":
        from suite3d.video.recipes.evaluate import evaluate_run as evaluate_video

        result = evaluate_video(Path(run), overrides)
    else:
        from suite3d.pointcloud.recipes.evaluate import evaluate_run

        result = evaluate_run(Path(run), overrides)
    _print_result(result)
    return 0


def _embed(rest: Sequence[str]) -> int:
    from suite3d.recipes import modality_of

    (run, out), overrides = _split(rest, 2, "embed RUN OUT.npz [data.root=FOLDER] [key=value ...]")
    modality = modality_of(Path(run))
    if modality not in ("image", "video", "LiDAR", "object clouds"):
        raise ConfigError(f"{run}: embed expects a run on pictures, videos, LiDAR scans or object clouds")
    if modality == "image":
        from suite3d.image.recipes.embed import embed_images as embed
    elif modality == "LiDAR":
        from suite3d.pointcloud.recipes.embed import embed_scans as embed
    elif modality == "object clouds":
        from suite3d.pointcloud.recipes.objects.embed import embed_objects as embed
    else:
        from suite3d.video.recipes.embed import embed_videos as embed
    print(embed(Path(run), Path(out), overrides))
    return 0


def _show(rest: Sequence[str]) -> int:
    from suite3d.report.html import write_report
    from suite3d.report.text import summarise

    (run,), _ = _split(rest, 1, "show RUN")
    path = Path(run)
    if not path.is_dir():
        raise ConfigError(f"{path} is not a run directory")
    print(summarise(path))
    print(f"report: {write_report(path)}")
    return 0


def _export(rest: Sequence[str]) -> int:
    from suite3d.recipes import modality_of

    (run, out), options = _split(
        rest, 2, "export RUN OUT [layout=spconv2|spconv1|videomae|videomae_finetuned|transformers|transformers_v5|timm|point_mae]"
    )
    modality = modality_of(Path(run))
    if modality == "video":
        from suite3d.video.interop import export_run as export_video

        print(export_video(Path(run), Path(out), options))
    elif modality == "object clouds":
        from suite3d.pointcloud.interop.point_mae import export_objects

        print(export_objects(Path(run), Path(out), options))
    else:
        from suite3d.pointcloud.interop.export import export_run

        print(export_run(Path(run), Path(out), options))
    return 0


def _data(rest: Sequence[str]) -> int:
    (what,), rest = _split(rest, 1, "data make-street | check | transcode ...")
    if what == "check":
        from suite3d.video.data.check import check

        (target,), overrides = _split(rest, 1, "data check LIST_OR_FOLDER [workers=N] [key=value ...]")
        return check(Path(target), overrides)
    if what == "transcode":
        from suite3d.video.data.transcode import transcode

        (source, copy), overrides = _split(rest, 2, "data transcode SRC OUT [short_side=256] [gop=16] [key=value ...]")
        return transcode(Path(source), Path(copy), overrides)
    if what == "make-street":
        from suite3d.pointcloud.recipes.make_street import make_street

        (out,), overrides = _split(rest, 1, "data make-street OUT [format=kitti|nuscenes|video] [key=value ...]")
        print(make_street(Path(out), overrides))
        return 0
    raise ConfigError(f"unknown data command '{what}': expected make-street, check or transcode")


def _bench(rest: Sequence[str]) -> int:
    from suite3d.video.data.forecast import bench_data

    (what, target), overrides = _split(rest, 2, "bench data LIST_OR_FOLDER [model_rate=R] [key=value ...]")
    if what != "data":
        raise ConfigError(f"unknown benchmark '{what}': expected data")
    return bench_data(Path(target), overrides)


def _demo(rest: Sequence[str]) -> int:
    from suite3d.pointcloud.recipes.demo import demo

    _print_result(demo(list(rest)))
    return 0


def _list(rest: Sequence[str]) -> int:
    from suite3d.recipes import RECIPES
    from suite3d.report.text import print_table

    rows = [[r.name, r.stage, r.modality, r.family, r.paper, r.needs, r.checked] for r in RECIPES]
    print_table({"columns": ["recipe", "command", "modality", "family", "paper", "needs", "checked against"], "rows": rows})
    return 0


def _doctor(rest: Sequence[str]) -> int:
    from suite3d.doctor import doctor

    return doctor()


COMMANDS = {
    "pretrain": _pretrain,
    "finetune": _finetune,
    "evaluate": _evaluate,
    "embed": _embed,
    "show": _show,
    "export": _export,
    "data": _data,
    "bench": _bench,
    "demo": _demo,
    "list": _list,
    "doctor": _doctor,
}

if __name__ == "__main__":
    sys.exit(main())

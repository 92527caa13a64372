"""Evaluate a detector on a validation set with the protocol of its layout, write the official result files and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from suite3d.pointcloud.data.batch import collate_frames
from suite3d.pointcloud.data.dataset import FrameDataset
from suite3d.pointcloud.data.frame import Frame
from suite3d.pointcloud.data.source import FrameSource
from suite3d.pointcloud.detection.detections import Detections
from suite3d.pointcloud.detection.detector import Detector
from suite3d.source import BadSample

DEFAULT_IOU = {"Car": 0.7, "Van": 0.7, "Truck": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}


@dataclass(kw_only=True)
class EvaluateConfig:
    """How a detector is scored.

    Attributes:
        protocol: ``kitti`` (R11/R40 AP on camera-frame labels), ``nuscenes`` (mAP, NDS), ``boxes`` (3D and BEV AP R40 in
            the LiDAR frame), or ``auto`` by data set.
        iou: ``boxes`` protocol: class -> IoU; classes not named use the KITTI values, or 0.5.
        max_frames: score only this many frames, evenly spread; 0 = all.
        pictures: frames drawn as bird's-eye views (and on the camera image where there is one).
        min_score: detections below it are not drawn.
    """

    protocol: Literal["auto", "kitti", "nuscenes", "boxes"] = "auto"
    iou: dict[str, float] = field(default_factory=dict)
    max_frames: int = 0
    pictures: int = 4
    min_score: float = 0.3


@dataclass
class Scored:
    """One evaluated frame: its labels and what was found. The points are kept only for frames that are drawn."""

    index: int
    frame: Frame
    boxes: np.ndarray[Any, Any]
    scores: np.ndarray[Any, Any]
    names: list[str]


def evaluate_detector(
    detector: Detector, dataset: FrameDataset, config: EvaluateConfig, device: torch.device, path: Path, *, batch_size: int = 4
) -> dict[str, Any]:
    """Predict every frame, score, write result files and pictures under ``path``.

    Returns:
        ``{"metrics": {name: percent}, "primary": name, "table": {...}, "protocol": text, "scans": n, "skipped": [...]}``.

    Raises:
        ValueError: no frame of the validation set could be read, or none is labelled.
    """
    protocol = _protocol(config, dataset)
    skipped: list[str] = []
    scored = list(_predict(detector, dataset, config, device, batch_size, skipped))
    if not scored:
        raise ValueError(f"no validation frame could be evaluated; the first problems: {skipped[:3] or 'no frame has labels'}")
    scorer = {"kitti": _score_kitti, "nuscenes": _score_nuscenes, "boxes": _score_boxes}[protocol]
    result = scorer(scored, dataset, detector, config, path)
    _draw(scored[: config.pictures], detector, config, path)
    return {**result, "protocol": protocol, "scans": len(scored), "skipped": skipped}


def _protocol(config: EvaluateConfig, dataset: FrameDataset) -> str:
    if config.protocol != "auto":
        return config.protocol
    return {"KittiObject": "kitti", "NuScenes": "nuscenes"}.get(type(dataset).__name__, "boxes")


def _predict(
    detector: Detector, dataset: FrameDataset, config: EvaluateConfig, device: torch.device, batch_size: int, skipped: list[str]
) -> Iterator[Scored]:
    labelled = [index for index in range(len(dataset)) if dataset.labelled(index)]
    if config.max_frames and len(labelled) > config.max_frames:
        labelled = [labelled[i] for i in np.linspace(0, len(labelled) - 1, config.max_frames).round().astype(int)]
    if not labelled:
        return
    encoder = detector.encoder
    source = FrameSource(
        dataset, [], class_names=detector.class_names, indices=labelled, channels=encoder.channels, point_range=encoder.grid.point_range
    )
    done = 0
    for start in range(0, len(labelled), batch_size):
        frames, rows = [], []
        for row in range(start, min(start + batch_size, len(labelled))):
            try:
                frames.append(source.get(row, np.random.default_rng(0)))
                rows.append(labelled[row])
            except BadSample as bad:
                skipped.append(str(bad))
        if not frames:
            continue
        batch = collate_frames(frames, [0] * len(frames), class_names=detector.class_names).to(device)
        for row, frame, found in zip(rows, frames, detector.predict(batch), strict=True):
            done += 1
            yield _scored(row, frame, found, detector, keep_points=done <= config.pictures)


def _scored(index: int, frame: Frame, found: Detections, detector: Detector, *, keep_points: bool) -> Scored:
    found = found.to("cpu")
    names = [detector.class_names[label] for label in found.labels.tolist()]
    frame.meta["points_in_boxes"] = _points_in_boxes(frame)
    kept = frame if keep_points else frame.keep_points(np.zeros(0, dtype=np.int64))
    return Scored(index, kept, found.boxes.double().numpy(), found.scores.double().numpy(), names)


def _points_in_boxes(frame: Frame) -> np.ndarray[Any, Any]:
    from suite3d.ops import points_in_boxes_mask

    if frame.boxes is None or len(frame.boxes) == 0:
        return np.zeros(0, dtype=np.int64)
    boxes = torch.from_numpy(np.ascontiguousarray(frame.boxes[:, :7], dtype=np.float32))
    return points_in_boxes_mask(torch.from_numpy(frame.xyz), boxes).sum(1).numpy()


def _score_boxes(scored: list[Scored], dataset: FrameDataset, detector: Detector, config: EvaluateConfig, path: Path) -> dict[str, Any]:
    from suite3d.pointcloud.detection.evaluate.boxes import evaluate_boxes

    result = evaluate_boxes(
        [_truth(item.frame) for item in scored],
        [item.frame.classes for item in scored],
        [item.boxes for item in scored],
        [item.scores for item in scored],
        [item.names for item in scored],
        iou_thresholds={name: config.iou.get(name, DEFAULT_IOU.get(name, 0.5)) for name in detector.class_names},
        gt_points=[item.frame.meta["points_in_boxes"] for item in scored],
        levels={"all": 1},
    )
    columns, rows = result.rows()
    metrics = {f"{name} AP 3D": levels["all"]["3d"] for name, levels in result.average_precision.items()}
    metrics |= {f"{name} AP BEV": levels["all"]["bev"] for name, levels in result.average_precision.items()}
    metrics |= {"mAP 3D": result.mean("3d", level="all"), "mAP BEV": result.mean("bev", level="all")}
    return {"metrics": _finite(metrics), "primary": "mAP 3D", "table": {"columns": columns, "rows": rows}}


def _truth(frame: Frame) -> np.ndarray[Any, Any]:
    return np.zeros((0, 7)) if frame.boxes is None else frame.boxes[:, :7].astype(np.float64)


def _score_kitti(scored: list[Scored], dataset: FrameDataset, detector: Detector, config: EvaluateConfig, path: Path) -> dict[str, Any]:
    from suite3d.pointcloud.data.kitti_labels import read_kitti_labels, write_kitti_results
    from suite3d.pointcloud.detection.evaluate.kitti import evaluate_kitti

    folder = path / "kitti_results" / "data"
    truth, found = [], []
    for item in scored:
        meta = item.frame.meta
        file = folder / f"{meta['id']}.txt"
        write_kitti_results(file, item.boxes, item.names, item.scores, meta["calibration"], image_size=meta["image_size"])
        truth.append(read_kitti_labels(meta["label_path"]))
        found.append(read_kitti_labels(file))
    result = evaluate_kitti(truth, found, detector.class_names)
    columns, rows = result.rows()
    metrics = {f"{name} AP 3D R40 moderate": values["3d"]["R40"][1] for name, values in result.average_precision.items()}
    metrics |= {f"{name} AP BEV R40 moderate": values["bev"]["R40"][1] for name, values in result.average_precision.items()}
    metrics["mAP 3D R40 moderate"] = result.mean()
    return {
        "metrics": _finite(metrics),
        "primary": "mAP 3D R40 moderate",
        "table": {"columns": columns, "rows": rows},
        "objects": {name: list(counts) for name, counts in result.truths.items()},
        "result files": str(folder),
    }


def _score_nuscenes(scored: list[Scored], dataset: FrameDataset, detector: Detector, config: EvaluateConfig, path: Path) -> dict[str, Any]:
    from suite3d.pointcloud.detection.evaluate.nuscenes import evaluate_nuscenes
    from suite3d.pointcloud.detection.evaluate.nuscenes_format import lidar_boxes_to_nuscenes, write_nuscenes_results

    truth, found, positions = {}, {}, {}
    for item in scored:
        token = item.frame.meta["token"]
        pose = item.frame.pose
        if pose is None:
            raise ValueError(f"{item.frame.name}: nuScenes scoring needs the frame's pose")
        boxes = np.zeros((0, 9)) if item.frame.boxes is None else item.frame.boxes
        attributes = [names[0] if names else "" for names in item.frame.meta.get("attributes", [])]
        truth[token] = lidar_boxes_to_nuscenes(
            token, boxes, item.frame.classes, np.ones(len(boxes)), lidar_to_global=pose, attributes=attributes or None
        )
        for entry, count in zip(truth[token], item.frame.meta["points_in_boxes"], strict=True):
            entry["num_pts"] = int(count)
        found[token] = lidar_boxes_to_nuscenes(token, item.boxes, item.names, item.scores, lidar_to_global=pose)
        positions[token] = item.frame.meta.get("ego_translation", pose[:3, 3])
    write_nuscenes_results(path / "nuscenes_results.json", found)
    result = evaluate_nuscenes(truth, found, positions, classes=detector.class_names)
    columns, rows = result.rows()
    metrics = {"NDS": 100 * result.nd_score, "mAP": 100 * result.mean_ap}
    metrics |= {f"{name} AP": 100 * value for name, value in result.mean_dist_aps.items()}
    return {
        "metrics": _finite(metrics),
        "primary": "NDS",
        "table": {"columns": columns, "rows": rows},
        "result files": str(path / "nuscenes_results.json"),
    }


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    """Without the classes that have no ground truth."""
    return {name: float(value) for name, value in metrics.items() if np.isfinite(value)}


def _draw(scored: list[Scored], detector: Detector, config: EvaluateConfig, path: Path) -> None:
    from suite3d.report.bev import BevScene, draw_bev
    from suite3d.report.png import write_png

    pictures = path / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for item in scored:
        shown = item.scores >= config.min_score
        name = item.frame.name.replace("/", "_")
        scene = BevScene(
            points=item.frame.xyz,
            boxes=item.boxes[shown][:, :7],
            scores=item.scores[shown],
            labels_boxes=_truth(item.frame),
            voxel_size=detector.encoder.grid.voxel_size[0],
            title=f"{item.frame.name}: detections (score >= {config.min_score:g}) against labels",
        )
        write_png(pictures / f"detections_{name}.png", draw_bev(scene))
        camera = _camera_picture(item, shown)
        if camera is not None:
            write_png(pictures / f"camera_{name}.png", camera)


def _camera_picture(item: Scored, shown: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Detections and labels on the camera image, where the layout has one and an image reader is installed."""
    from suite3d.report.camera import draw_boxes_on_image, read_image

    calibration, image_path = item.frame.meta.get("calibration"), item.frame.meta.get("image_path")
    if calibration is None or image_path is None:
        return None
    image = read_image(image_path)
    if image is None:
        return None
    projection = calibration.P2 @ calibration.lidar_to_rect
    image = draw_boxes_on_image(image, _truth(item.frame), projection, color=(90, 220, 90))
    return draw_boxes_on_image(image, item.boxes[shown][:, :7], projection, color=(255, 120, 40))

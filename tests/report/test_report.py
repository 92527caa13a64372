"""A report from whatever a run left behind: whole, killed, empty, damaged, compared."""

from __future__ import annotations

import base64
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from suite3d.report.bev import BevScene, draw_bev
from suite3d.report.curves import chart, sparkline, thin, ticks
from suite3d.report.html import write_report
from suite3d.report.png import read_png, write_png
from suite3d.report.run import read_run
from suite3d.report.text import print_table, summarise

VOID = {"meta", "img", "br", "line", "polyline", "polygon", "circle"}


class Page(HTMLParser):
    """Checks that tags close in order and collects what a test asks about."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.attributes = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append(dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append(dict(attributes))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return " ".join(self.text)


def make_run(folder, *, steps=60, truncated=False, result=True):
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for step in range(steps):
        rows.append(
            {
                "step": step,
                "time": step * 0.1,
                "kind": "train",
                "loss": math.exp(-step / 20),
                "loss_jigsaw": 0.5,
                "lr": 1e-3,
                "note": "text",
                "ok": True,
            }
        )
        if step % 20 == 0:
            rows.append({"step": step, "kind": "probe", "probe_balanced_accuracy": 0.3 + step / 200})
            rows.append({"step": step, "kind": "val", "loss": 2 * math.exp(-step / 20)})
    rows.append({"step": 30, "kind": "event", "message": "The representation has <b>collapsed</b> & more"})
    rows.append({"step": 31, "kind": "train", "loss": float("nan")})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text + ('{"step": 60, "kind": "tr' if truncated else ""))
    (folder / "config.yaml").write_text("recipe: mv_jar\nname: <script>alert(1)</script>\n")
    (folder / "environment.json").write_text(json.dumps({"torch": "2.13.0", "gpu": None, "command": ["suite3d", "pretrain"]}))
    (folder / "provenance.json").write_text(json.dumps({"labels": "none", "splits": {"train": ["drive_1", "drive_2"]}}))
    (folder / "load.json").write_text(json.dumps({"matched": 72, "share": 0.875, "missing": ["conv_input.0.weight"]}))
    (folder / "skipped.jsonl").write_text(json.dumps({"path": "/data/broken.bin", "reason": "17 bytes, not a multiple of 16", "step": 3}) + "\n")
    if result:
        (folder / "result.json").write_text(
            json.dumps({"table": {"columns": ["class", "AP"], "rows": [["Car", 71.234567], ["Cyclist", None]]}, "note": "Few data."})
        )
    write_png(folder / "pictures" / "scan_0000040.png", draw_bev(BevScene(points=np.zeros((1, 3))), 60))
    return folder


def test_a_whole_run(tmp_path):
    path = write_report(make_run(tmp_path / "run"))
    page = Page(path.read_text())
    assert path.name == "report.html" and not [file for file in path.parent.iterdir() if file.name.startswith(".")]
    for words in ("71.2346", "Few data.", "mv_jar", "2.13.0", "conv_input.0.weight", "drive_1, drive_2", "/data/broken.bin", "17 bytes"):
        assert words in page.words, words
    captions = [page.text[i + 1] for i in range(len(page.text) - 1)]
    assert {"loss", "loss_jigsaw", "probe_balanced_accuracy", "lr"} <= set(captions)
    assert "<b>collapsed</b> & more" in page.words  # shown as text, not run as tags
    assert page.tags.count("script") == 4 + 1  # one block of data a chart, one program


def test_nothing_is_fetched_from_anywhere(tmp_path):
    page = Page(write_report(make_run(tmp_path / "run")).read_text())
    links = [value for attributes in page.attributes for key, value in attributes.items() if key in ("src", "href", "xlink:href", "data")]
    assert links and all(link.startswith("data:") for link in links)


def test_the_curves_hold_the_logged_numbers(tmp_path):
    text = write_report(make_run(tmp_path / "run")).read_text()
    data = [json.loads(block) for block in re.findall(r'<script type="application/json">(.*?)</script>', text)]
    loss = next(block for block in data if len(block["series"]) == 2)
    train, val = loss["series"]
    assert (train["name"], val["name"]) == ("train", "val")
    assert train["x"] == list(range(60)) and val["x"] == [0, 20, 40]
    np.testing.assert_allclose(train["y"], np.exp(-np.arange(60) / 20), rtol=1e-5)


def test_the_pictures_are_inside(tmp_path):
    run = make_run(tmp_path / "run")
    text = write_report(run).read_text()
    (image,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    (tmp_path / "copy.png").write_bytes(base64.b64decode(image))
    np.testing.assert_array_equal(read_png(tmp_path / "copy.png"), read_png(run / "pictures" / "scan_0000040.png"))


def test_a_killed_run(tmp_path):
    run = make_run(tmp_path / "run", truncated=True, result=False)
    (run / "result.json").write_text('{"table": {"colu')
    (run / "load.json").write_bytes(b"\xff\xfe\x00")
    page = Page(write_report(run).read_text())
    assert "metrics.jsonl: 1 incomplete line was left out" in page.words
    assert "result.json is not complete json" in page.words and "load.json is not complete json" in page.words
    assert len(read_run(run).series()["loss"]["train"][0]) == 60
    assert "not finished" in summarise(run)


@pytest.mark.parametrize(
    "content", [None, "", "\n\n", "[1, 2]\nnull\n", '{"kind": "train"}\n{"step": null, "loss": 3}\n{"step": "x", "loss": "y"}\n']
)
def test_a_run_that_logged_nothing(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    Page(write_report(tmp_path).read_text())
    assert "nothing was logged yet" in summarise(tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="not a directory"):
        write_report(tmp_path / "none")


def test_a_comparison_lays_its_runs_over_each_other(tmp_path):
    for arm in ("pretrained", "scratch"):
        for seed in range(2):
            make_run(tmp_path / arm / f"seed{seed}")
    (tmp_path / "result.json").write_text(json.dumps({"table": {"columns": ["metric", "pretrained"], "rows": [["mAP", "61.2 ± 2.0"]]}}))
    text = write_report(tmp_path).read_text()
    page = Page(text)
    blocks = [json.loads(block) for block in re.findall(r'<script type="application/json">(.*?)</script>', text)]
    probe = next(block for block in blocks if "probe" not in block["series"][0]["name"] and block["series"][0]["x"] == [0, 20, 40])
    assert [series["name"] for series in probe["series"]] == ["pretrained/seed0", "pretrained/seed1", "scratch/seed0", "scratch/seed1"]
    colors = [series["color"] for series in probe["series"]]
    assert colors[0] == colors[1] != colors[2] == colors[3]
    assert "61.2 ± 2.0" in page.words and page.words.count("/data/broken.bin") == 1
    shown = summarise(tmp_path)
    assert "scratch/seed1" in shown and "61.2 ± 2.0" in shown


def test_the_summary_shows_state_result_and_reasons(tmp_path, capsys):
    shown = summarise(make_run(tmp_path / "run"))
    for words in ("finished, 60 steps", "Car", "71.23", "Few data.", "probe_balanced_accuracy (probe)", "17 bytes", "<b>collapsed</b>"):
        assert words in shown, words
    print_table({"columns": ["recipe", "needs"], "rows": [["mv_jar", "[nothing]"]]}, title="recipes")
    assert "[nothing]" in capsys.readouterr().out


def test_charts():
    assert chart("empty", {"train": ([], [])}) == ""
    Page(chart("one", {"train": ([3.0], [1.0])}))
    Page(chart("flat <&>", {"train": ([0.0, 1.0], [0.0, 0.0]), "a/b": ([0.0], [-1.0])}))
    assert "(log)" in chart("wide", {"train": ([0.0, 1.0], [1e-3, 10.0])}) and "(log)" not in chart("narrow", {"train": ([0.0, 1.0], [1.0, 10.0])})
    assert "(log)" not in chart("negative", {"train": ([0.0, 1.0], [-1.0, 1000.0])})


def test_thinning_keeps_means_and_extremes():
    xs, ys = list(map(float, range(1000))), np.random.default_rng(0).normal(size=1000).tolist()
    steps, means, lows, highs = thin((xs, ys), limit=100)
    assert len(steps) == 100 and steps[-1] == 999 and np.mean(means) == pytest.approx(np.mean(ys))
    assert min(lows) == min(ys) and max(highs) == max(ys)
    assert thin((xs[:50], ys[:50]), limit=100)[1] == ys[:50]


@pytest.mark.parametrize("low, high", [(0, 1), (-3, 17), (0.123, 0.124), (1e5, 3.2e6), (0, 41), (5, 5)])
def test_ticks_are_few_round_and_inside(low, high):
    values = ticks(low, high)
    assert 1 <= len(values) <= 7 and all(low - 1e-9 <= value <= high + 1e-9 for value in values)
    if high > low:
        assert len(values) >= 2 and len(set(np.round(np.diff(values), 9))) == 1


def test_sparklines_rise_and_fall():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█" and sparkline([]) == "" and sparkline([2, 2]) == "▁▁"
    assert len(sparkline(list(range(1000)), width=40)) == 40

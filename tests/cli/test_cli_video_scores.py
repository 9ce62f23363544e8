"""Scores and reports of the videos that ``masam predict`` writes."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from clips import frames, video_model, write_clip, write_frames, write_label_frames, write_video_dataset
from PIL import Image


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return video_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def root(tmp_path) -> Path:
    return write_video_dataset(tmp_path / "set")


@pytest.fixture
def perfect(root, tmp_path) -> Path:
    """Predictions that are the references themselves, in folders to spoil."""
    for case in range(2):
        write_label_frames(tmp_path / f"masks/case{case}", frames(4, seed=case)[1])
    return tmp_path / "masks"


def test_predictions_with_overlays_are_scored(masam, model, root, tmp_path):
    out = tmp_path / "out"
    assert masam("predict", root / "imagesTr", "--model", model, "--out", out, "--overlay", "--quiet").code == 0
    assert (out / "case0.overlay/frame0.png").exists()
    words = ("evaluate", out, root / "labelsTr", "--labels", root, "--quiet")
    result = masam(*words, "--out", tmp_path / "scores.json", "--json")
    assert (result.code, result.err) == (0, "")
    assert json.loads((tmp_path / "scores.json").read_text()) == result.json
    # Counted here from the files, over the frames of each video.
    for case, scores in enumerate(np.array([s["dice"] for s in result.json["scores"]]).reshape(2, 2)):
        found = np.stack([np.asarray(Image.open(out / f"case{case}/frame{t}.png")) for t in range(4)])
        truth = frames(4, seed=case)[1]
        for value, dice in zip((1, 4), scores, strict=True):
            one, other = found == value, truth == value
            assert dice == pytest.approx(2 * (one & other).sum() / (one.sum() + other.sum()))
    assert masam(*words, "--out", tmp_path / "scores.csv").code == 0
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["nsd"] + row["hd95_mm"] + row["reference_ml"] for row in rows} == {""}


def test_the_tables_count_frames(masam, root, perfect):
    for t in (1, 2):
        (root / f"labelsTr/case1/frame{t}.png").unlink()
    result = masam("evaluate", perfect, root / "labelsTr", "--labels", root, "--quiet")
    assert (result.code, result.err) == (0, "")
    words = " ".join(re.sub(r"[^\w.]", " ", result.out).split())
    assert "video Dice mIoU per frame 95 interval frames empty unlabelled" in words
    assert "case0 1.000 1.000 4 0 0 case1 1.000 1.000 2 0 2 all 1.000 1.000 1.000 to 1.000 6 0 2" in words
    for absent in ("HD95", "ASSD", "NSD", "mm"):
        assert absent not in words


def test_single_videos_are_one_case(masam, root, perfect):
    masks = perfect / "case0"
    masks.rename(perfect / "mine")
    words = ("--labels", root, "--json", "--quiet")
    result = masam("evaluate", perfect / "mine", root / "labelsTr/case0", *words)
    assert [(video["case"], video["miou_per_frame"]) for video in result.json["videos"]] == [("case0", 1)]


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_what_is_refused(masam, root, perfect, tmp_path, command):
    def error(predictions: Path = perfect, *more: object) -> str:
        words = {
            "evaluate": (predictions, root / "labelsTr"),
            "report": (
                *("--images", root / "imagesTr", "--predictions", predictions, "--references", root / "labelsTr"),
                *("--out", tmp_path / "report.html"),
            ),
        }[command]
        result = masam(command, *words, "--labels", root, "--quiet", *more)
        assert (result.code, result.out) == (3, "")
        return result.error

    (perfect / "case0/frame2.png").rename(tmp_path / "frame2.png")
    assert "case0: 1 of 4 labelled frames have no prediction: frame2; predict them" in error()
    Image.new("L", (5, 4)).save(perfect / "case0/frame2.png")
    assert "frame2.png: the predicted frame has 5 x 4 pixels, its reference 26 x 20" in error()
    (perfect / "case1.nii.gz").write_bytes(b"")
    assert "masks: expected volumes or folders of label frames among the predictions, got both" in error()
    assert not (tmp_path / "report.html").exists()


def test_a_report_of_videos(masam, root, perfect, tmp_path):
    Image.fromarray(np.zeros((20, 26), np.uint8)).save(perfect / "case1/frame2.png")
    words = ("report", "--images", root / "imagesTr", "--predictions", perfect, "--references", root / "labelsTr")
    result = masam(*words, "--labels", root, "--out", tmp_path / "report.html", "--quiet")
    assert (result.code, result.err) == (0, "")
    assert re.fullmatch(r"mean Dice 0\.92\d\d, mIoU per frame 0\.8750 over 2 cases: .*report.html\n", result.out), (
        result.out
    )
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "<b>2</b><span>videos, 2 classes</span>" in page
    assert "Radiological" not in page


def test_a_report_of_one_video_file(masam, tmp_path):
    pixels, labels = frames(4)
    clip = write_clip(tmp_path / "clips/operation.mp4", pixels)
    masks, truth = (write_label_frames(tmp_path / name, labels, "frame{:06d}.png") for name in ("masks", "truth"))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "ball": 1, "box": 4}}))
    for images in (clip, clip.parent):
        words = ("--images", images, "--predictions", masks, "--references", truth, "--labels", tmp_path)
        result = masam("report", *words, "--out", tmp_path / "report.html", "--json", "--quiet")
        assert result.code == 0, result.err
        assert (result.json["mean_dice"], result.json["cases"]) == (1, 1)
    write_frames(clip.parent / "another", pixels)
    words = ("--images", clip.parent, "--predictions", masks, "--references", truth, "--labels", tmp_path)
    result = masam("report", *words, "--out", tmp_path / "report.html")
    assert result.code == 3
    assert f"{clip.parent}: expected a video of case truth, found none; give the folder of videos" in result.error


def test_a_preview_of_videos(masam, root, tmp_path):
    picture, config = tmp_path / "preview.png", tmp_path / "config.yaml"
    config.write_text("augmentation: none\n")
    words = ("--out", tmp_path / "plan.yaml", "--preview", picture, "--preview-config", config, "--quiet")
    result = masam("plan", root, *words)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        f"wrote {tmp_path / 'plan.yaml'}: video, frames of 512 pixels",
        f"wrote {picture}: training samples",
    ]
    drawn = matplotlib.image.imread(picture)[..., :3]
    coloured = drawn.max(axis=-1) - drawn.min(axis=-1) > 0.2
    assert coloured.mean() > 0.2

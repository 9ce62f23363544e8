"""Prediction of videos: indexed frames of the input's names and size, overlays, mismatches, reruns, kills."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from clips import NTSC, PLAN, frames, video_model, write_frames, write_label_frames, write_lossless, write_video_dataset
from masam_cli import arrays, finish, save, start
from PIL import Image
from tiny import LABELS

from masam.io.video.overlay import draw_labels
from masam.io.video.reader import open_frames
from masam.labels import LabelScheme
from masam.predict.predictor import Predictor
from masam.predict.video import predict_video
from masam.preprocess.intensity import Window
from masam.preprocess.plan import Plan
from masam.weights.model_file import load

PIXELS, _ = frames(4)
SCHEME = LabelScheme.from_mapping(LABELS)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return video_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def clip(tmp_path):
    return write_lossless(tmp_path / "in/clip.mkv", PIXELS)


@pytest.fixture
def folder(tmp_path):
    return write_frames(tmp_path / "folders/case", PIXELS)


def expected(model: Path, video: Path) -> dict[str, np.ndarray]:
    found = {}
    predictor = Predictor(load(model), device="cpu")
    predict_video(predictor, open_frames(video), lambda frame, labels: found.update({f"{frame.name}.png": labels}))
    return found


def written(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for file in sorted(folder.iterdir()):
        with Image.open(file) as image:
            assert image.mode == "P"
            found[file.name] = np.array(image)
    return found


def require_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert np.array_equal(values, other[name]), name


def test_a_video_file_becomes_a_folder_of_numbered_frames_and_an_overlay_of_its_rate(masam, model, clip, tmp_path):
    result = masam("predict", clip, "--model", model, "--out", tmp_path / "out", "--overlay", "--json")
    assert result.code == 0
    labels = expected(model, clip)
    assert sorted(labels) == [f"frame{t:06d}.png" for t in range(4)]
    require_same(written(tmp_path / "out/clip"), labels)
    overlay = open_frames(tmp_path / "out/clip.overlay.mp4")
    assert (overlay.size, overlay.frame_rate, overlay.count) == ((20, 26), NTSC, 4)
    entry = result.json["done"]["clip"]
    assert (entry["frames"], entry["frame_rate"], entry["overlay"]) == (4, "30000/1001", "clip.overlay.mp4")
    assert result.json["failed"] == {}
    assert json.loads((tmp_path / "out/predictions.json").read_text())["done"]["clip"] == entry
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["clip", "clip.overlay.mp4", "predictions.json"]


def test_a_folder_of_frames_keeps_its_names(masam, model, folder, tmp_path):
    result = masam("predict", folder, "--model", model, "--out", tmp_path / "out", "--overlay", "--stride", 1)
    assert result.code == 0
    assert result.out == f"1 of 1 cases in {tmp_path / 'out'} (0 kept from an earlier run)\n"
    labels = written(tmp_path / "out/case")
    require_same(labels, expected(model, folder))
    for t in range(4):
        with Image.open(tmp_path / f"out/case.overlay/frame{t}.png") as image:
            assert np.array_equal(np.asarray(image), draw_labels(PIXELS[t], labels[f"frame{t}.png"], SCHEME))


def test_a_bad_video_does_not_stop_the_others(masam, model, clip, tmp_path):
    write_frames(clip.parent / "seq.1", PIXELS[:2])
    bad = write_frames(clip.parent / "bad", PIXELS)
    Image.new("RGB", (5, 5)).save(bad / "frame2.png")
    result = masam("predict", clip.parent, "--model", model, "--out", tmp_path / "out")
    assert result.code == 4
    assert "1 of 3 scans failed" in result.error
    assert "frame2.png: frame 2 of 4 has 5 x 5 pixels, the first one has 26 x 20" in result.error
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["clip", "predictions.json", "seq.1"]
    for name in ("clip.mkv", "seq.1"):
        require_same(written(tmp_path / "out" / name.removesuffix(".mkv")), expected(model, clip.parent / name))


def test_a_truncated_video_leaves_no_output(masam, model, folder, tmp_path):
    data = (folder / "frame3.png").read_bytes()
    (folder / "frame3.png").write_bytes(data[: len(data) - 30])
    result = masam("predict", folder, "--model", model, "--out", tmp_path / "out", "--overlay")
    assert result.code == 3
    assert "frame3.png: expected a complete image" in result.error
    assert not (tmp_path / "out").exists()


def test_a_rerun_keeps_unchanged_cases_and_repeats_the_others(masam, model, folder, tmp_path):
    out = tmp_path / "out"

    def again(*options: object) -> tuple[list[str], int]:
        result = masam("predict", folder, "--model", model, "--out", out, "--json", *options)
        assert result.code == 0, result.err
        return result.json["kept"], (out / "case/frame0.png").stat().st_mtime_ns

    kept, first = again()
    assert (kept, again()) == ([], (["case"], first))
    # An overlay is asked for, a written frame is damaged, a setting and a frame change: each makes it anew.
    kept, second = again("--overlay")
    assert kept == []
    assert second > first
    assert again("--overlay") == (["case"], second)
    assert again() == (["case"], second)
    (out / "case/frame1.png").write_bytes(b"")
    assert again("--overlay")[0] == []
    assert again("--overlay", "--stride", 2)[0] == []
    Image.fromarray(PIXELS[0]).save(folder / "frame1.png")
    assert again("--stride", 2)[0] == []
    assert not (out / "case.overlay").exists(), "an overlay of other labels"
    assert len(written(out / "case")) == 4


def test_a_killed_run_leaves_no_partial_case_and_is_repeated(masam, model, tmp_path):
    many = write_frames(tmp_path / "in/long", frames(1)[0].repeat(600, 0))
    out = tmp_path / "out"
    process = start("predict", many, "--model", model, "--out", out, "--device", "cpu", "--quiet")
    until = time.monotonic() + 60
    while not list(out.glob(".masam-tmp-*/long/*.png")):
        assert process.poll() is None, finish(process).err
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert finish(process).code == -signal.SIGKILL
    assert not (out / "long").exists()
    for file in sorted(many.iterdir())[3:]:
        file.unlink()
    assert masam("predict", many, "--model", model, "--out", out).code == 0
    assert len(written(out / "long")) == 3
    assert sorted(p.name for p in out.iterdir()) == ["long", "predictions.json"]


def test_model_and_input_must_be_of_one_kind(masam, model, trained, clip, tmp_path):
    result = masam("predict", clip, "--model", trained, "--out", tmp_path / "out")
    assert result.code == 6
    assert "clip.mkv: the model is for CT volumes (set), the input is video; use a model" in result.error
    scan = save(tmp_path / "scan.nii.gz", arrays()[0])
    result = masam("predict", scan, "--model", model, "--out", tmp_path / "out")
    assert result.code == 6
    assert "scan.nii.gz: the model is for video (endo), the input is a volume; use a model" in result.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", "masks.nii.gz"), "clip.mkv is a video, so expected a folder for its labels"),
        (("--out", "out", "--fill-holes", "ball"), "keep-largest and fill-holes need the whole volume at once"),
    ],
)
def test_options_of_volumes_are_refused(masam, model, clip, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    result = masam("predict", clip, "--model", model, *options)
    assert result.code == 2
    assert message in result.error


def test_volumes_have_no_overlay(masam, trained, tmp_path):
    scan = save(tmp_path / "scan.nii.gz", arrays()[0])
    result = masam("predict", scan, "--model", trained, "--out", tmp_path / "out", "--overlay")
    assert result.code == 2
    assert "--overlay: overlays are for videos only; masam report draws labels over scans" in result.error


def test_files_of_the_user_are_not_overwritten(masam, model, clip, folder, tmp_path):
    for video, out in ((clip, clip.parent), (folder, folder), (folder, folder.parent)):
        result = masam("predict", video, "--model", model, "--out", out)
        assert result.code == 2
        assert "the folder holds the videos; labels would lie among them; name another folder" in result.error
    for name in ("clip", "clip.overlay.mp4"):
        mine = tmp_path / "out" / name
        mine.mkdir(parents=True)
        result = masam("predict", clip, "--model", model, "--out", tmp_path / "out")
        assert result.code == 2
        assert f"the folder holds {name}, which masam predict did not write there" in result.error
        shutil.rmtree(mine)
    assert len(list(folder.iterdir())) == 4


def test_a_plan_for_videos_comes_from_the_preset(masam, tmp_path):
    root = write_video_dataset(tmp_path / "set")
    result = masam("plan", root, "--out", tmp_path / "plan.yaml", "--json")
    assert result.code == 0
    assert (result.json["modality"], result.json["intensity"]) == ("video", {"kind": "rgb", "normalisation": "unit"})
    assert result.json["labels"] == LABELS
    result = masam("plan", root, "--out", tmp_path / "plan.yaml", "--preset", "paper-mr")
    assert result.code == 2
    assert "'paper-mr' is for volumes, the data set contains videos" in result.error


@pytest.mark.parametrize("as_files", [False, True])
def test_training_on_videos(masam, tmp_path, as_files):
    root, run = write_video_dataset(tmp_path / "set", cases=3, as_files=as_files), tmp_path / "run"
    next((root / "labelsTr/case0").iterdir()).unlink()
    masam("plan", root, "--out", tmp_path / "plan.yaml")
    plan = Plan.from_yaml(tmp_path / "plan.yaml").model_copy(update={"image_size": 32, "window": 3})
    plan.to_yaml(tmp_path / "plan.yaml")
    words = ("--plan", tmp_path / "plan.yaml", "--epochs", 1, "--size", "vit_t", "--device", "cpu", "--set", "folds=3")
    result = masam("train", root, "--out", run, *words, "--set", "model.adapter_channels=8", "--fold", 1)
    assert result.code == 0, result.err
    assert "case0: 1 of 4 frames have no label and are ignored" in result.err
    trained = load(run / "model.safetensors")
    assert (trained.card.plan, trained.spec.image_channels) == (plan, 3)
    with (run / "metrics.csv").open() as file:
        reported = float(list(csv.DictReader(file))[-1]["validation_dice"])
    # The same by the command line: predict the held-out video, count.
    (held_out,) = json.loads((run / "splits.json").read_text())[1]["val"]
    video = root / f"imagesTr/{held_out}{'.mp4' if as_files else ''}"
    assert masam("predict", video, "--model", run, "--out", tmp_path / "masks", "--stride", 3, "--quiet").code == 0
    found = np.stack(list(written(tmp_path / "masks" / held_out).values()))
    reference = np.stack(list(written(root / "labelsTr" / held_out).values()))
    dice = [
        2 * np.sum((found == value) & (reference == value)) / (np.sum(found == value) + np.sum(reference == value))
        for name, value in LABELS.items() if value > 0 and name != "ignore"
    ]  # fmt: skip
    assert reported == pytest.approx(np.nanmean(dice), abs=1e-4)


def test_check_looks_at_videos(masam, tmp_path):
    root = write_video_dataset(tmp_path / "set", cases=3)
    shutil.rmtree(root / "imagesTr/case1")
    shutil.copytree(root / "imagesTr/case0", root / "imagesTr/case1")
    (root / "labelsTr/case0/frame3.png").unlink()
    values = np.array(Image.open(root / "labelsTr/case2/frame0.png"))
    values[0, 0] = 77
    write_label_frames(tmp_path / "other", values[None])
    shutil.copy(tmp_path / "other/frame0.png", root / "labelsTr/case2/frame0.png")
    result = masam("check", root, "--quiet", "--json")
    assert result.code == 3
    found = {(one["severity"], one["case"], one["what"].split(":")[0]) for one in result.json["findings"]}
    assert ("warning", "case0", "1 of 4 frames have no label and are ignored") in found
    same = "has the same image as case0"
    assert any(one[:2] == ("warning", "case1") and one[2].startswith(same) for one in found)
    unknown = "label value 77 (1 voxels) is not in dataset.json, which defines"
    assert any(case == "case2" and unknown in what for _, case, what in found)
    assert result.json["errors"] == 1


def test_a_plan_for_the_other_kind_is_refused(masam, tmp_path):
    root = write_video_dataset(tmp_path / "set")
    plan = Plan(
        name="ct", modality="CT", slice_axis="axial", intensity=Window(low=0, high=9), image_size=32, labels=LABELS
    )
    plan.to_yaml(tmp_path / "plan.yaml")
    result = masam("train", root, "--out", tmp_path / "run", "--plan", tmp_path / "plan.yaml", "--device", "cpu")
    assert result.code == 2
    assert "the plan is for volumes, the data set contains videos; give the plan of this data set" in result.error
    assert not (tmp_path / "run").exists()


def test_the_plan_travels_with_the_model(model):
    assert load(model).card.plan == PLAN

"""Scores of videos: pairing of frames, known values of the mIoU per frame, and folders of cases."""

import csv
import json
import math
import tracemalloc

import numpy as np
import pytest
from clips import write_label_frames
from PIL import Image

from masam.errors import ConfigError, InputError
from masam.evaluation import Evaluation, VideoScore, evaluate
from masam.io.nifti.file import write_volume
from masam.volume import Volume

LABELS = {"background": 0, "organ": 1, "tool": 2, "thread": 5}
NAN = math.nan


def video(folder, *lines, name="frame{}.png"):
    """Write a video whose frames are one line of pixels each."""
    return write_label_frames(folder, [np.array([line], np.uint8) for line in lines], name)


def score(tmp_path, prediction, reference, labels=LABELS, **options):
    """Score one video; returns the evaluation."""
    guess, truth = video(tmp_path / "masks/case", *prediction), video(tmp_path / "labels/case", *reference)
    return evaluate(guess.parent, truth.parent, labels, **options)


# Reference and prediction of each frame. By hand, per frame, of the classes in the reference:
# frame 0: organ 2 of 3, tool 1 of 2                         -> (2/3 + 1/2) / 2 = 7/12
# frame 1: organ 1 of 2; the thread is not in the reference  -> 1/2
# frame 2: no class in the reference                         -> no score
# frame 3: tool 0 of 1                                       -> 0
REFERENCE = ((1, 1, 1, 2, 0), (1, 1, 0, 0, 0), (0, 0, 0, 0, 0), (2, 0, 0, 0, 0))
PREDICTION = ((1, 1, 0, 2, 2), (1, 0, 5, 5, 0), (1, 0, 0, 0, 0), (0, 0, 0, 0, 0))


def test_miou_per_frame_by_hand(tmp_path):
    found = score(tmp_path, PREDICTION, REFERENCE)
    (one,) = found.videos
    assert one.miou_per_frame == pytest.approx((7 / 12 + 1 / 2 + 0) / 3)
    assert (one.case, one.frames, one.empty_frames, one.unlabelled_frames) == ("case", 4, 1, 0)
    assert found.miou_per_frame == one.miou_per_frame
    assert found.miou_per_frame_interval == pytest.approx((NAN, NAN), nan_ok=True)


def test_overlap_is_pooled_over_the_frames(tmp_path):
    found = score(tmp_path, PREDICTION, REFERENCE)
    # Organ 3 of 5 + 4, tool 1 of 2 + 2, and a thread that only the prediction holds.
    np.testing.assert_allclose(found.values("dice"), [[2 * 3 / 9, 2 * 1 / 4, 0]])
    np.testing.assert_allclose(found.values("iou"), [[3 / 6, 1 / 3, 0]])
    for metric in ("hd95_mm", "hd95_pooled_mm", "assd_mm", "nsd", "reference_ml", "prediction_ml"):
        assert np.isnan(found.values(metric)).all(), metric


@pytest.mark.parametrize(("reference_empty", "thread"), [("nan", NAN), ("one", 1.0)])
def test_a_class_in_no_frame_of_both_is_scored_as_in_volumes(tmp_path, reference_empty, thread):
    found = score(tmp_path, [(1, 2)], [(1, 2)], reference_empty=reference_empty)
    np.testing.assert_array_equal(found.values("dice"), [[1, 1, thread]])
    assert found.miou_per_frame == 1, "a class that is not present in a frame is no matter of the rule"


def test_a_video_without_any_class_has_no_score(tmp_path):
    found = score(tmp_path, [(0, 1)], [(0, 0)])
    assert math.isnan(found.miou_per_frame)
    assert found.record()["videos"][0] == {
        "case": "case", "miou_per_frame": None, "frames": 1, "empty_frames": 1, "unlabelled_frames": 0,
    }  # fmt: skip


def test_ignored_pixels_are_background_in_both(tmp_path):
    labels = {**LABELS, "ignore": 9}
    found = score(tmp_path, [(1, 1, 2), (1, 2, 0)], [(1, 9, 9), (9, 9, 9)], labels)
    np.testing.assert_array_equal(found.values("dice"), [[1, NAN, NAN]])
    assert (found.miou_per_frame, found.videos[0].empty_frames) == (1, 1)


def test_means_are_over_videos_whatever_their_length(tmp_path):
    for name, guesses, truths in (("a", [(1,)], [(1,)]), ("b", [(0,)] * 3, [(1,)] * 3)):
        video(tmp_path / "masks" / name, *guesses)
        video(tmp_path / "labels" / name, *truths)
    found = evaluate(tmp_path / "masks", tmp_path / "labels", LABELS, workers=2)
    assert [one.miou_per_frame for one in found.videos] == [1, 0]
    assert found.miou_per_frame == 0.5
    assert found.miou_per_frame_interval == (0, 1)
    assert found.cases == ("a", "b")


def test_frames_pair_by_name_and_unlabelled_ones_do_not_count(tmp_path):
    guess = video(tmp_path / "masks/case", *[(1, 0)] * 11)
    truth = video(tmp_path / "labels/case", *[(1, 0)] * 11)
    for t in (0, 2, 10):
        (truth / f"frame{t}.png").unlink()
    found = evaluate(guess.parent, truth.parent, LABELS)
    assert found.videos == (VideoScore("case", 1.0, 8, 0, 3),)
    for t in (1, 9):
        (guess / f"frame{t}.png").unlink()
    message = r"masks/case: 2 of 8 labelled frames have no prediction: frame1, frame9; predict them, or count"
    with pytest.raises(InputError, match=message):
        evaluate(guess.parent, truth.parent, LABELS)
    worst = evaluate(guess.parent, truth.parent, LABELS, missing="worst")
    assert worst.miou_per_frame == 6 / 8
    assert worst.values("iou")[0, 0] == 6 / 8
    assert worst.missing == ()


@pytest.mark.parametrize(("reference_empty", "thread"), [("nan", NAN), ("one", 0.0)])
def test_a_video_without_prediction_is_an_error_or_the_worst(tmp_path, reference_empty, thread):
    video(tmp_path / "masks/a", (1, 0))
    for name in "ab":
        video(tmp_path / "labels" / name, (1, 0))
    with pytest.raises(InputError, match="1 of 2 cases have no prediction: b"):
        evaluate(tmp_path / "masks", tmp_path / "labels", LABELS)
    options = {"missing": "worst", "reference_empty": reference_empty}
    found = evaluate(tmp_path / "masks", tmp_path / "labels", LABELS, **options)
    assert found.missing == ("b",)
    np.testing.assert_array_equal(found.values("dice")[1], [0, thread, thread])
    assert found.videos[1] == VideoScore("b", 0.0, 1, 0, 0)


@pytest.mark.parametrize(
    ("prediction", "reference", "message"),
    [
        ((1, 1), (1,), r"masks/case/frame0.png: the predicted frame has 2 x 1 pixels, its reference 1 x 1; score"),
        ((7,), (1,), r"masks/case/frame0.png: expected label values of the label scheme, \[0, 1, 2, 5\], got 7"),
        ((1,), (7,), r"labels/case/frame0.png: expected label values of the label scheme, \[0, 1, 2, 5, 9\], got 7"),
        ((9,), (9,), r"masks/case/frame0.png: expected label values of the label scheme, \[0, 1, 2, 5\], got 9"),
    ],
)
def test_a_frame_that_is_refused(tmp_path, prediction, reference, message):
    with pytest.raises(InputError, match=message):
        score(tmp_path, [prediction], [reference], {**LABELS, "ignore": 9})


def test_label_values_above_255_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="labels: expected label values from 0 to 255"):
        score(tmp_path, [(1,)], [(1,)], {"background": 0, "organ": 256})


def test_colour_images_are_refused_as_labels(tmp_path):
    guess = video(tmp_path / "masks/case", (1,))
    (tmp_path / "labels/case").mkdir(parents=True)
    Image.new("RGB", (1, 1)).save(tmp_path / "labels/case/frame0.png")
    with pytest.raises(InputError, match=r"labels/case/frame0.png: expected an indexed PNG"):
        evaluate(guess.parent, tmp_path / "labels", LABELS)


def test_memory_does_not_grow_with_the_length(tmp_path):
    frame = np.ones((300, 400), np.uint8)
    peaks = []
    for count in (2, 30):
        for side in ("masks", "labels"):
            write_label_frames(tmp_path / f"{side}{count}/case", [frame] * count)
        tracemalloc.start()
        evaluate(tmp_path / f"masks{count}", tmp_path / f"labels{count}", LABELS)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + frame.size


def test_single_folders_of_frames_are_one_case(tmp_path):
    guess, truth = video(tmp_path / "mine", (1, 0)), video(tmp_path / "seq.1", (1, 0))
    (guess / "notes.txt").write_text("")
    assert evaluate(guess, truth, LABELS).cases == ("seq.1",)
    assert evaluate(str(guess), str(truth), LABELS).cases == ("seq.1",)
    assert evaluate([truth], truth, LABELS).cases == ("seq.1",)
    assert evaluate({"x": guess}, {"x": truth}, LABELS).cases == ("x",)


def test_overlays_beside_the_predictions_are_not_cases(tmp_path):
    reference = video(tmp_path / "labels/case", (1, 0))
    for name in ("case.overlay", "other.overlay"):
        (tmp_path / "masks" / name).mkdir(parents=True)
        Image.new("RGB", (2, 1)).save(tmp_path / "masks" / name / "frame0.png")
    guess = video(tmp_path / "masks/case", (1, 0))
    with pytest.raises(InputError, match=r"1 of 2 predictions have no reference: other.overlay"):
        evaluate(guess.parent, reference.parent, LABELS)
    (tmp_path / "masks/other.overlay/frame0.png").unlink()
    assert evaluate(guess.parent, reference.parent, LABELS).mean_dice == 1
    # Labels under such a name are a case like any other.
    video(tmp_path / "labels/case.overlay", (1, 0))
    with pytest.raises(InputError, match=r"1 of 2 cases have no prediction: case.overlay"):
        evaluate(guess.parent, reference.parent, LABELS)


def test_volumes_and_videos_are_not_mixed(tmp_path):
    volume = Volume(np.ones((1, 2, 1), np.uint8))
    frames = video(tmp_path / "mixed/b", (1, 1))
    write_volume(tmp_path / "mixed/a.nii.gz", volume)
    only = video(tmp_path / "only/a", (1, 1)).parent
    message = r"mixed: expected volumes or folders of label frames among the predictions, got both: volume a and folder"
    with pytest.raises(InputError, match=message + " b; put them into separate folders"):
        evaluate(tmp_path / "mixed", only, LABELS)
    with pytest.raises(InputError, match="among the references, got both: volume a and folder b"):
        evaluate({"a": volume}, {"a": volume, "b": frames}, LABELS)
    with pytest.raises(InputError, match="the predictions are volumes, the references are folders of label frames"):
        evaluate({"a": volume}, only, LABELS)


def test_images_beside_volumes_are_not_a_video(tmp_path):
    write_volume(tmp_path / "masks/a.nii.gz", Volume(np.ones((1, 2, 1), np.uint8)))
    Image.new("RGB", (1, 1)).save(tmp_path / "masks/preview.png")
    assert evaluate(tmp_path / "masks", tmp_path / "masks", LABELS).videos == ()


def test_frames_beside_folders_of_frames_are_refused(tmp_path):
    video(tmp_path / "labels", (1,))
    video(tmp_path / "labels/case", (1,))
    with pytest.raises(InputError, match="the folder and its subfolder case both contain label frames; give the"):
        evaluate({"a": tmp_path / "labels/case"}, tmp_path / "labels", LABELS)


def test_a_folder_without_frames_is_refused(tmp_path):
    truth = video(tmp_path / "labels/a", (1,))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: expected label frames \(PNG files\), found none"):
        evaluate({"a": truth}, {"a": tmp_path / "empty"}, LABELS)
    message = r"expected at least one .nii.gz, .nii or .dcm file or folder of label frames among the predictions"
    with pytest.raises(InputError, match=message):
        evaluate(tmp_path / "empty", truth.parent, LABELS)


def test_the_tables_hold_no_millimetres(tmp_path):
    found = score(tmp_path, [(1, 2), (1, 0)], [(1, 2), (1, 0)])
    assert found.rows()[0] == ("class", "Dice", "95 % interval", "IoU", "n", "NaN")
    assert found.rows()[-1] == ("mean", "1.000", "-", "1.000", "1", "")
    assert found.video_rows() == [
        ("video", "Dice", "mIoU per frame", "95 % interval", "frames", "empty", "unlabelled"),
        ("case", "1.000", "1.000", "", "2", "0", "0"),
        ("all", "1.000", "1.000", "-", "2", "0", "0"),
    ]
    assert "mm" not in found.table()
    assert found.table().splitlines()[-1].split() == ["all", "1.000", "1.000", "-", "2", "0", "0"]


def test_files_of_video_scores_round_trip(tmp_path):
    found = score(tmp_path, PREDICTION, REFERENCE)
    found.to_json(tmp_path / "scores.json")
    again = Evaluation.from_json(tmp_path / "scores.json")
    assert repr(again) == repr(found)
    record = json.loads((tmp_path / "scores.json").read_text())
    assert (record["version"], record["miou_per_frame"]) == (2, found.miou_per_frame)
    assert record["scores"][0]["hd95_mm"] is None
    found.to_csv(tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["nsd"], row["reference_ml"]) for row in rows] == [
        ("organ", "", ""), ("tool", "", ""), ("thread", "", ""),
    ]  # fmt: skip


def test_a_file_with_different_cases_in_videos_and_scores_is_refused(tmp_path):
    record = score(tmp_path, [(1,)], [(1,)]).record()
    record["videos"][0]["case"] = "another"
    (tmp_path / "scores.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="videos and scores have different cases"):
        Evaluation.from_json(tmp_path / "scores.json")

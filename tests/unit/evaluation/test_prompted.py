"""Evaluation with prompts, with an oracle of known answers and with a model."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from clips import write_label_frames
from tiny import LABELS, random_model

import masam
from masam.errors import ConfigError, InputError, ModelError
from masam.evaluation.overlap import count_overlap
from masam.evaluation.prompted import evaluate_prompts
from masam.evaluation.prompts import PromptEvaluation, PromptScore
from masam.io.nifti.file import write_volume
from masam.predict.predictor import Predictor
from masam.preprocess.intensity import Window
from masam.preprocess.plan import Plan
from masam.prompts import Box3D, Click
from masam.prompts.simulated_user import BOXES
from masam.volume import Geometry, Volume
from masam.weights.model_file import ModelCard

PLAN = Plan(
    name="tiny", modality="CT", slice_axis="axial", intensity=Window(low=-100, high=200), window=3, image_size=32,
    labels=LABELS,
)  # fmt: skip
SHAPE = (20, 24, 6)
GRID = Geometry(np.diag([1.0, 1.0, 3.0, 1.0]))


def scan(seed=0):
    coarse = np.random.default_rng(seed).normal(50, 120, (5, 6, 3))
    return Volume(coarse.repeat(4, 0).repeat(4, 1).repeat(2, 2).astype(np.float32), GRID)


def truth(*, box=True, value=4):
    """A ball class of 10 x 10 x 4 voxels, and a box class of 4 x 5 x 2."""
    array = np.zeros(SHAPE, np.uint8)
    array[2:12, 4:14, 1:5] = 1
    if box:
        array[14:18, 16:21, 3:5] = value
    return Volume(array, GRID)


@pytest.fixture(scope="module")
def predictor():
    return Predictor(random_model(scale=0.5), device="cpu", plan=PLAN, stride=3)


@pytest.fixture
def oracle(predictor, monkeypatch):
    """Fills a box, and on a click turns the slice of the click into what it should be; keeps what it was asked."""
    asked, reference = [], truth().array

    def predict(self, encoded, progress=None, prompts=None):
        asked.append(prompts)
        answer = np.zeros(SHAPE, np.uint8)
        for prompt in prompts or ():
            value = LABELS[prompt.class_name]
            if isinstance(prompt, Box3D):
                low, high = np.reshape(prompt.corners, (2, 3)).astype(int)
                answer[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = value
            else:
                k = int(prompt.position[2])
                answer[..., k] = np.where(reference[..., k] == value, value, answer[..., k])
        return Volume(answer, GRID)

    monkeypatch.setattr(Predictor, "predict", predict)
    return asked


def test_boxes_and_clicks_have_the_scores_that_geometry_gives(predictor, oracle):
    result = evaluate_prompts(predictor, {"a": scan()}, {"a": truth()}, clicks=5)
    ball, box = result.scores
    assert (ball.case, ball.label, ball.automatic) == ("a", "ball", 0)
    assert ball.boxes["tight box"] == 1
    # 10 % of 10, 10 and 4 voxels are 1, 1 and 0; 20 % are 2, 2 and 1, and the border cuts nothing.
    assert ball.boxes["box relaxed by 10 %"] == 2 * 400 / (400 + 12 * 12 * 4)
    assert ball.boxes["box relaxed by 20 %"] == 2 * 400 / (400 + 14 * 14 * 6)
    assert ball.clicks == (2 / 5, 4 / 6, 6 / 7, 1, 1)
    assert box.label == "box"
    assert box.boxes["tight box"] == 1
    assert box.clicks == (2 / 3, 1, 1, 1, 1)
    # No click is made where nothing is wrong: 1 automatic, 5 boxes a class, 4 and 2 clicks.
    assert len(oracle) == 1 + 2 * 5 + 4 + 2
    clicks = [click for click in oracle[9] if isinstance(click, Click)]
    assert len(clicks) == 4
    assert all(click.positive and click.class_name == "ball" for click in clicks)
    assert {click.position[2] for click in clicks} == {1, 2, 3, 4}
    assert clicks[0].position[:2] == (6, 8), "the middle of the object"


def test_a_class_that_the_reference_lacks_has_no_score(predictor, oracle):
    scans = {case: scan(seed) for seed, case in enumerate("ab")}
    result = evaluate_prompts(predictor, scans, {"a": truth(box=False), "b": truth()}, clicks=1)
    assert [(score.case, score.label) for score in result.scores] == [("a", "ball"), ("b", "ball"), ("b", "box")]
    first = result.by_clicks[0]
    assert first.classes == {"ball": 2 / 5, "box": 2 / 3}
    assert first.mean_dice == pytest.approx((2 / 5 + 2 / 3) / 2)


def test_ignored_voxels_are_neither_scored_nor_clicked(predictor, oracle):
    labels = {**LABELS, "ignore": 9}
    reference = truth()
    reference.array[..., 1:4][reference.array[..., 1:4] == 1] = 9
    result = evaluate_prompts(predictor, {"a": scan()}, {"a": reference}, labels, clicks=2)
    (ball, _) = result.scores
    assert ball.boxes["tight box"] == 1, "the box is about what is known to be the object"
    assert ball.clicks == (1, 1)
    assert [click.position[2] for click in oracle[6]] == [4]


def test_cropped_objects_are_not_prompted():
    cropping = Predictor(
        random_model(scale=0.5), device="cpu", plan=Plan(**{**PLAN.model_dump(), "crop": "content"}), stride=3
    )
    image = scan()
    image.array[...] = 100
    image.array[..., 3:] = -1000
    result = evaluate_prompts(cropping, {"a": image}, {"a": truth()}, clicks=3)
    ball, box = result.scores
    assert set(box.boxes.values()) == {box.automatic}, "no box can be drawn about it"
    assert len(ball.clicks) == 3


def test_scores_are_those_of_the_same_prompts_by_hand(predictor):
    image, reference = scan(), truth()
    result = evaluate_prompts(predictor, {"a": image}, {"a": reference}, clicks=1)
    for score in result.scores:
        mask = reference.array == LABELS[score.label]
        low, high = np.argwhere(mask).min(axis=0), np.argwhere(mask).max(axis=0)
        box = Box3D((*low.tolist(), *high.tolist()), class_name=score.label)
        for prompts, dice in ((None, score.automatic), ([box], score.boxes["tight box"])):
            answer = predictor.predict(image, prompts=prompts).array == LABELS[score.label]
            assert count_overlap(mask, answer).dice() == dice


def test_scores_of_a_case_do_not_depend_on_other_cases(predictor):
    scans = {case: scan(seed) for seed, case in enumerate("ab")}
    references = dict.fromkeys(scans, truth())
    together = evaluate_prompts(predictor, scans, references, clicks=1)
    alone = evaluate_prompts(predictor, {"b": scans["b"]}, {"b": truth()}, clicks=1)
    assert [score for score in together.scores if score.case == "b"] == list(alone.scores)


def test_the_seed_only_changes_jittered_boxes(predictor, oracle):
    one, same, other = (evaluate_prompts(predictor, {"a": scan()}, {"a": truth()}, clicks=1, seed=n) for n in (0, 0, 1))
    assert one.scores == same.scores
    assert [score.boxes["jittered box"] for score in one.scores] != [s.boxes["jittered box"] for s in other.scores]
    for a, b in zip(one.scores, other.scores, strict=True):
        assert replace(b, boxes={**b.boxes, "jittered box": a.boxes["jittered box"]}) == a


def test_scans_and_references_come_from_files_folders_or_memory(predictor, oracle, tmp_path):
    for case in ("a", "b"):
        write_volume(tmp_path / f"images/{case}_0000.nii.gz", scan())
        write_volume(tmp_path / f"labels/{case}.nii.gz", truth())
    image, label = tmp_path / "images/a_0000.nii.gz", tmp_path / "labels/b.nii.gz"
    both = evaluate_prompts(predictor, tmp_path / "images", tmp_path / "labels", clicks=1)
    assert both.cases == ("a", "b")
    for images, references in (
        (image, label),
        ({"b": image}, tmp_path / "labels/b.nii.gz"),
        ({"b": scan()}, {"b": label}),
        ({"b": str(image)}, {"b": truth()}),
        (image.parent.parent / "images/b_0000.nii.gz", {"b": truth()}),
    ):
        alone = evaluate_prompts(predictor, images, references, clicks=1)
        assert alone.scores == both.scores[2:]
    with pytest.raises(InputError, match="1 of 1 references have no scan: c"):
        evaluate_prompts(predictor, image, {"c": truth()})
    with pytest.raises(InputError, match="1 of 2 scans have no reference: b"):
        evaluate_prompts(predictor, tmp_path / "images", {"a": truth()})


def test_channels_are_checked_before_scoring(predictor, oracle):
    two = Volume(np.zeros((*SHAPE, 2), np.float32), GRID)
    with pytest.raises(InputError, match="expected 1 channel"):
        evaluate_prompts(predictor, {"a": scan(), "b": two}, {"a": truth(), "b": truth()})
    assert not oracle


def test_classes_are_matched_by_name(predictor, oracle):
    """A data set may number the model's classes otherwise, and lack some."""
    result = evaluate_prompts(predictor, {"a": scan()}, {"a": truth(box=False)}, {"background": 0, "ball": 1}, clicks=1)
    assert result.labels == ("ball",)
    renamed = {"background": 0, "box": 1, "ball": 4}
    result = evaluate_prompts(predictor, {"a": scan()}, {"a": truth(value=2)}, {"background": 0, "box": 1, "ball": 2})
    assert [score.boxes["tight box"] for score in result.scores] == [1, 1]
    with pytest.raises(ConfigError, match=r"^labels: expected classes of the model, ball, box, got cube; give"):
        evaluate_prompts(predictor, {"a": scan()}, {"a": truth()}, {**renamed, "cube": 2})


def test_invalid_input_is_refused(predictor, tmp_path):
    scans, references = {"a": scan()}, {"a": truth()}
    for options, message in (({"clicks": 0}, "clicks: expected 1 click or more, got 0"), ({"seed": -1}, "seed: exp")):
        with pytest.raises(ConfigError, match=f"^{message}"):
            evaluate_prompts(predictor, scans, references, **options)
    with pytest.raises(InputError, match=r"^1 of 2 references have no scan: b; give a folder of scans and"):
        evaluate_prompts(predictor, scans, {"a": truth(), "b": truth()})
    with pytest.raises(InputError, match=r"^1 of 2 scans have no reference: b"):
        evaluate_prompts(predictor, {"a": scan(), "b": scan()}, references)
    moved = Volume(truth().array, Geometry(np.diag([1.0, 1.0, 2.0, 1.0])))
    with pytest.raises(InputError, match=r"^a: the reference is not on the voxel grid of the scan; resample"):
        evaluate_prompts(predictor, scans, {"a": moved})
    with pytest.raises(InputError, match="got 7; correct the label file"):
        evaluate_prompts(predictor, scans, {"a": truth(value=7)})
    automatic = random_model()
    automatic.card = ModelCard(training={"steps": 9, "dataset": "tiny"}, plan=PLAN)
    with pytest.raises(ModelError, match="the model was trained without prompts"):
        evaluate_prompts(automatic, scans, references)


def score(case, label, automatic, clicks):
    return PromptScore(case, label, automatic, dict.fromkeys(BOXES, 0.9), clicks)


def test_label_frames_of_a_video_are_refused(predictor, tmp_path):
    frames = write_label_frames(tmp_path / "labels/clip", [np.zeros((4, 4), np.uint8)] * 2)
    with pytest.raises(InputError, match="prompts are supported for scans, but this reference is a video") as caught:
        evaluate_prompts(predictor, {"clip": scan()}, tmp_path / "labels")
    assert str(frames) in str(caught.value)


def test_the_record_has_means_over_classes_and_intervals_over_cases(tmp_path):
    scores = (score("a", "ball", 0.5, (0.6,)), score("a", "box", 0.1, (0.2,)), score("b", "ball", 0.7, (1.0,)))
    result = PromptEvaluation(scores, ("a", "b", "c"), ("ball", "box"), BOXES, 1, 0)
    assert result.automatic.mean_dice == pytest.approx((0.6 + 0.1) / 2)
    assert result.automatic.low < result.automatic.mean_dice < result.automatic.high
    result.to_json(tmp_path / "scores.json")
    record = json.loads((tmp_path / "scores.json").read_text())
    assert (record["format"], record["version"], record["cases"]) == ("masam-prompt-evaluation", 1, ["a", "b", "c"])
    assert record["scores"][2] == {
        "case": "b", "label": "ball", "automatic": 0.7, "boxes": dict.fromkeys(BOXES, 0.9), "clicks": [1.0],
    }  # fmt: skip
    assert [item["prompt"] for item in record["summary"]] == ["automatic", *BOXES, "1 click"]
    rows = result.rows()
    assert rows[0] == ("prompt", "Dice", "95 % interval", "ball", "box")
    assert rows[-1][:2] == ("1 click", "0.500")
    assert rows[-1][3:] == ("0.800", "0.200")


def test_without_any_class_scores_are_undefined():
    result = PromptEvaluation((), ("a",), ("ball",), BOXES, 2, 0)
    assert math.isnan(result.automatic.mean_dice)
    assert result.rows()[1] == ("automatic", "-", "-")
    assert result.record()["summary"][0]["mean_dice"] is None


def test_it_is_a_public_name():
    assert masam.evaluate_prompts is evaluate_prompts

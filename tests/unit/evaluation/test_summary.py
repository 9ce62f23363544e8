"""Evaluation of sets of cases: pairing, empty masks, summaries and files."""

import csv
import json
import math

import numpy as np
import pytest

from masam.errors import ConfigError, InputError
from masam.evaluation import CaseScore, Evaluation, evaluate
from masam.evaluation.statistics import bootstrap_interval, mean_of_means, summarise
from masam.io.nifti.file import write_volume
from masam.labels import LabelScheme
from masam.volume import Geometry, Volume

LABELS = {"background": 0, "liver": 1, "spleen": 2}
NAN = math.nan


def row(*values: int, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    """A volume of one line of voxels along the last axis."""
    return Volume(np.array(values, dtype=np.uint8).reshape(1, 1, -1), Geometry(np.diag([*spacing, 1.0])))


def score(prediction: Volume, reference: Volume, **options) -> dict[str, CaseScore]:
    evaluation = evaluate({"a": prediction}, {"a": reference}, LABELS, **options)
    return {item.label: item for item in evaluation.scores}


def numbers(item: CaseScore) -> list[float]:
    return [item.dice, item.iou, item.hd95_mm, item.hd95_pooled_mm, item.assd_mm, item.nsd]


# Reference, prediction, then liver's and spleen's [Dice, IoU, HD95, pooled HD95, ASSD, NSD at 0.5 mm], by hand.
EMPTY, ONE_SIDE, PERFECT = [NAN] * 6, [0.0, 0.0, NAN, NAN, NAN, 0.0], [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
TABLE = [
    ((0, 0, 0), (0, 0, 0), EMPTY, EMPTY),
    ((0, 1, 0), (0, 0, 0), ONE_SIDE, EMPTY),
    ((0, 0, 0), (0, 1, 0), ONE_SIDE, EMPTY),
    ((0, 1, 0), (0, 1, 0), PERFECT, EMPTY),
    ((0, 2, 0), (0, 0, 0), EMPTY, ONE_SIDE),
    ((0, 0, 0), (2, 2, 2), EMPTY, ONE_SIDE),
    ((2, 2, 0), (2, 2, 0), EMPTY, PERFECT),
    ((0, 1, 2), (0, 1, 2), PERFECT, PERFECT),
    ((0, 1, 2), (0, 1, 0), PERFECT, ONE_SIDE),
    ((0, 1, 2), (0, 0, 2), ONE_SIDE, PERFECT),
    ((0, 1, 0), (0, 2, 0), ONE_SIDE, ONE_SIDE),
    ((1, 1, 1), (1, 1, 1), PERFECT, EMPTY),
    ((1, 1, 1), (2, 2, 2), ONE_SIDE, ONE_SIDE),
    ((1, 0, 0), (0, 0, 1), [0.0, 0.0, 2.0, 2.0, 2.0, 0.0], EMPTY),
    ((0, 2, 0), (0, 0, 2), EMPTY, [0.0, 0.0, 1.0, 1.0, 1.0, None]),
]


@pytest.mark.parametrize("reference_empty", ["nan", "one"])
@pytest.mark.parametrize(("reference", "prediction", "liver", "spleen"), TABLE)
def test_table_of_empties(reference, prediction, liver, spleen, reference_empty):
    found = score(row(*prediction), row(*reference), reference_empty=reference_empty, nsd_tolerance_mm=0.5)
    for label, expected in (("liver", liver), ("spleen", spleen)):
        if expected is EMPTY and reference_empty == "one":
            expected = [1.0, 1.0, NAN, NAN, NAN, NAN]
        got = numbers(found[label])
        if expected[-1] is None:  # neighbours share corners of their surface: the share is the oracle test's matter
            expected, got = expected[:-1], got[:-1]
        assert got == pytest.approx(expected, nan_ok=True)


def test_scores_carry_spacing_and_volumes():
    item = score(row(1, 0, 0, 0, spacing=(2.0, 5.0, 3.0)), row(0, 0, 1, 1, spacing=(2.0, 5.0, 3.0)))["liver"]
    assert (item.reference_ml, item.prediction_ml) == pytest.approx((0.06, 0.03))
    assert item.assd_mm == pytest.approx((6 + 9 + 6) / 3)


def test_ignored_voxels_are_background_in_both():
    labels = {**LABELS, "ignore": 9}
    found = evaluate({"a": row(1, 1, 1, 2)}, {"a": row(1, 1, 9, 9)}, labels).scores
    assert found[0].dice == 1.0
    assert math.isnan(found[1].dice)
    with pytest.raises(
        InputError, match=r"prediction a: expected label values of the label scheme, \[0, 1, 2\], got 9"
    ):
        evaluate({"a": row(9, 1)}, {"a": row(1, 1)}, labels)


def test_means_over_cases_then_classes_and_the_other_way():
    references = {"a": row(1, 2), "b": row(1, 0), "c": row(0, 0)}
    predictions = {"a": row(1, 2), "b": row(0, 0), "c": row(0, 0)}
    evaluation = evaluate(predictions, references, LABELS)
    np.testing.assert_array_equal(evaluation.values("dice"), [[1, 1], [0, NAN], [NAN, NAN]])
    assert evaluation.mean_dice == pytest.approx((0.5 + 1) / 2)
    assert evaluation.mean_dice_by_case == pytest.approx((1 + 0) / 2)
    assert evaluation.case_dice == pytest.approx({"a": 1.0, "b": 0.0, "c": NAN}, nan_ok=True)
    liver, spleen = evaluation.summary
    assert (liver.dice.counted, liver.dice.nan, spleen.dice.counted, spleen.dice.nan) == (2, 1, 1, 2)
    assert (liver.hd95_mm.counted, liver.hd95_mm.nan) == (1, 2)
    assert liver.dice.median == 0.5


def test_missing_prediction_is_an_error_or_the_worst_score():
    references, predictions = {"a": row(1, 0), "b": row(1, 0), "c": row(1, 0)}, {"a": row(1, 0)}
    with pytest.raises(
        InputError,
        match="2 of 3 cases have no prediction: b, c; predict them, or count each as a total failure",
    ):
        evaluate(predictions, references, LABELS)
    evaluation = evaluate(predictions, references, LABELS, missing="worst")
    assert evaluation.missing == ("b", "c")
    assert evaluation.mean_dice == pytest.approx(1 / 3)
    assert numbers(evaluation.scores[2]) == pytest.approx(ONE_SIDE, nan_ok=True)
    assert numbers(evaluation.scores[3]) == pytest.approx(EMPTY, nan_ok=True)
    assert evaluation.scores[2].reference_ml == pytest.approx(0.001)
    as_in_paper = evaluate(predictions, references, LABELS, missing="worst", reference_empty="one")
    np.testing.assert_array_equal(as_in_paper.values("dice"), [[1, 1], [0, 0], [0, 0]])


def test_extra_prediction_is_an_error_or_left_out():
    predictions = {"a": row(1), "b": row(1)}
    with pytest.raises(InputError, match="1 of 2 predictions have no reference: b; add their references"):
        evaluate(predictions, {"a": row(1)}, LABELS)
    assert evaluate(predictions, {"a": row(1)}, LABELS, extra="ignore").cases == ("a",)


def test_other_grid_is_refused_with_both_values():
    with pytest.raises(
        InputError, match=r"prediction a: the prediction has shape \(1, 1, 2\), its reference \(1, 1, 3\)"
    ):
        score(row(1, 1), row(1, 1, 1))
    message = r"geometry of the prediction differs from its reference: spacing \[1.0, 1.0, 2.0\].*instead of spacing \["
    with pytest.raises(InputError, match=message):
        score(row(1, 1, spacing=(1.0, 1.0, 2.0)), row(1, 1))


@pytest.mark.parametrize(("values", "message"), [((0, 3), "got 3;"), ((0, 255), "got 255;")])
def test_unknown_value_is_refused(values, message):
    with pytest.raises(InputError, match=f"reference a: expected label values .*, {message}"):
        score(row(0, 0), row(*values))


def test_negative_and_float_values_are_refused():
    with pytest.raises(InputError, match="got -4;"):
        evaluate({"a": Volume(np.full((1, 1, 1), -4, np.int16))}, {"a": row(1)}, LABELS)
    with pytest.raises(InputError, match="a: expected label values of an integer type, got float32"):
        evaluate({"a": Volume(np.zeros((1, 1, 1), np.float32))}, {"a": row(1)}, LABELS)


@pytest.mark.parametrize("names", [("Case", "case"), ("\u00e9", "e\u0301")])
def test_ids_that_differ_in_case_or_unicode_form_are_refused(names):
    with pytest.raises(InputError, match="have the same case id"):
        evaluate(dict.fromkeys(names, row(1)), {"a": row(1)}, LABELS)


@pytest.mark.parametrize("name", ["a\nb", "a\udcff", "a\tb"])
def test_unprintable_ids_are_refused(name):
    with pytest.raises(InputError, match="contains unprintable characters; rename the file"):
        evaluate({name: row(1)}, {name: row(1)}, LABELS)


def test_two_single_files_are_one_case(tmp_path):
    for name in ("mask", "truth"):
        write_volume(tmp_path / f"{name}.nii.gz", row(1, 0))
    assert evaluate(tmp_path / "mask.nii.gz", tmp_path / "truth.nii.gz", LABELS).case_dice == {"truth": 1.0}
    with pytest.raises(InputError, match="is a file, got a folder"):
        evaluate(tmp_path, tmp_path / "truth.nii.gz", LABELS)


def test_folders_and_lists_are_refused_with_a_reason(tmp_path):
    with pytest.raises(InputError, match="nowhere: expected a folder of predictions"):
        evaluate(tmp_path / "nowhere", {"a": row(1)}, LABELS)
    with pytest.raises(
        InputError,
        match=r"expected at least one .nii.gz, .nii or .dcm file or folder of label frames among the predictions",
    ):
        evaluate(tmp_path, {"a": row(1)}, LABELS)
    with pytest.raises(InputError, match=r"a.mha: expected a .nii.gz, .nii or .dcm file"):
        evaluate([tmp_path / "a.mha"], {"a": row(1)}, LABELS)
    with pytest.raises(InputError, match=r"'a.nii' and 'a.nii.gz' have the same case id"):
        evaluate([tmp_path / "a.nii", tmp_path / "a.nii.gz"], {"a": row(1)}, LABELS)


def test_files_in_folders(tmp_path):
    pytest.importorskip("masam.io.nifti.file")
    nibabel = pytest.importorskip("nibabel")
    for folder, values in (("predictions", (1, 1, 2)), ("references", (1, 2, 2))):
        (tmp_path / folder).mkdir()
        for case, suffix in (("a", ".nii.gz"), ("b", ".nii")):
            image = nibabel.Nifti1Image(row(*values).array, np.eye(4))
            nibabel.save(image, tmp_path / folder / f"{case}{suffix}")
    dataset = tmp_path / "dataset.json"
    dataset.write_text(json.dumps({"labels": LABELS}), encoding="utf-8")
    done = []
    evaluation = evaluate(
        tmp_path / "predictions",
        sorted((tmp_path / "references").iterdir()),
        dataset,
        workers=2,
        progress=lambda n, of: done.append((n, of)),
    )
    assert evaluation.cases == ("a", "b")
    np.testing.assert_allclose(evaluation.values("dice"), [[2 / 3, 2 / 3]] * 2)
    assert done == [(1, 2), (2, 2)]


def test_dataset_json_faults(tmp_path):
    path = tmp_path / "dataset.json"
    with pytest.raises(InputError, match=r"dataset.json: expected a file, got none"):
        evaluate({"a": row(1)}, {"a": row(1)}, path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"dataset.json: expected the key 'labels'"):
        evaluate({"a": row(1)}, {"a": row(1)}, path)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="workers: expected at least 1 worker, got 0"):
        score(row(1), row(1), workers=0)
    with pytest.raises(ConfigError, match="expected a tolerance of 0 mm or more, got nan"):
        score(row(1), row(1), nsd_tolerance_mm=NAN)


def test_workers_change_nothing():
    rng = np.random.default_rng(0)
    volumes = [{f"c{n}": Volume(rng.integers(0, 3, (5, 6, 7))) for n in range(4)} for _ in range(2)]
    scheme = LabelScheme.from_mapping(LABELS)
    assert evaluate(*volumes, scheme, workers=3) == evaluate(*volumes, scheme)


def small_evaluation() -> Evaluation:
    references = {"a, 1": row(1, 2, 0), "b": row(1, 1, 0)}
    return evaluate({"a, 1": row(1, 2, 2), "b": row(1, 0, 0)}, references, LABELS, nsd_tolerance_mm=0.25)


def test_json_round_trip_is_exact_and_strict(tmp_path):
    evaluation, path = small_evaluation(), tmp_path / "evaluation.json"
    evaluation.to_json(path)
    again = Evaluation.from_json(path)
    assert repr(again) == repr(evaluation)  # NaN is not equal to itself
    assert again.rows() == evaluation.rows()
    json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_files_of_version_1_stay_readable(tmp_path):
    evaluation, path = small_evaluation(), tmp_path / "evaluation.json"
    record = evaluation.record()
    for new in ("videos", "miou_per_frame", "miou_per_frame_interval"):
        del record[new]
    path.write_text(json.dumps({**record, "version": 1}), encoding="utf-8")
    assert repr(Evaluation.from_json(path)) == repr(evaluation)


def test_volumes_have_no_video_table():
    evaluation = small_evaluation()
    assert evaluation.video_rows() == []
    assert math.isnan(evaluation.miou_per_frame)
    assert evaluation.record()["videos"] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected format 'masam-evaluation', version 2 or earlier"),
        ('{"format": "masam-evaluation", "version": 3}', "expected format 'masam-evaluation', version 2 or earlier"),
        ('{"format": "masam-evaluation", "version": 1}', "a field is missing or has the wrong type"),
        ('{"format": "masam-evaluation", "version": 2}', "a field is missing or has the wrong type"),
    ],
)
def test_other_json_is_refused(tmp_path, text, message):
    path = tmp_path / "evaluation.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        Evaluation.from_json(path)


def test_csv_has_one_row_per_case_and_class(tmp_path):
    small_evaluation().to_csv(tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["case"], r["label"]) for r in rows] == [
        ("a, 1", "liver"),
        ("a, 1", "spleen"),
        ("b", "liver"),
        ("b", "spleen"),
    ]
    assert (rows[0]["dice"], rows[2]["dice"], rows[3]["dice"]) == ("1.0", "0.6666666666666666", "")


def test_table_for_the_terminal():
    lines = small_evaluation().table().splitlines()
    assert " ".join(lines[0].split()) == "class Dice 95 % interval IoU HD95 mm ASSD mm NSD 0.25 mm n NaN"
    assert lines[1].split()[:5] == ["liver", "0.833", "0.667", "to", "1.000"]
    assert lines[2].split()[:3] == ["spleen", "0.667", "-"]
    assert lines[3].split()[:2] == ["mean", "0.750"]


def test_statistics_by_hand():
    statistic = summarise(np.array([0.2, NAN, 0.4, 0.9]))
    assert (statistic.mean, statistic.median, statistic.counted, statistic.nan) == (pytest.approx(0.5), 0.4, 3, 1)
    assert statistic.std == pytest.approx(math.sqrt((0.09 + 0.01 + 0.16) / 2))
    assert 0.2 <= statistic.low < 0.5 < statistic.high <= 0.9
    assert summarise(np.array([0.2, NAN, 0.4, 0.9])) == statistic
    lonely = summarise(np.array([0.7]))
    assert (lonely.mean, lonely.counted) == (0.7, 1)
    assert math.isnan(lonely.std)
    assert math.isnan(lonely.low)
    assert math.isnan(summarise(np.array([NAN, NAN])).mean)


def test_interval_has_the_width_of_the_standard_error():
    values = np.random.default_rng(1).normal(0.8, 0.1, (400, 1))
    low, high = bootstrap_interval(values)
    assert (high - low) == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert mean_of_means(values, axis=0) == pytest.approx((low + high) / 2, abs=0.001)

"""``masam evaluate`` and ``masam report``: missing cases, invalid input, escaping of names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from masam_cli import SPACING, arrays, save


@pytest.fixture
def folders(dataset, tmp_path) -> tuple[Path, Path]:
    """Predictions that are the references themselves, in folders to spoil."""
    for name in ("masks", "references"):
        for case in ("a", "b"):
            save(tmp_path / name / f"{case}.nii.gz", arrays()[1])
    return tmp_path / "masks", tmp_path / "references"


@pytest.fixture
def evaluate(masam, dataset, folders):
    return lambda *words: masam("evaluate", *folders, "--labels", dataset / "dataset.json", "--quiet", *words)


def test_a_perfect_score(evaluate):
    result = evaluate("--json")
    assert (result.code, result.err) == (0, "")
    assert result.json["mean_dice"] == 1
    assert "2 cases" in evaluate().out


def test_a_missing_prediction_is_an_error_or_the_worst(evaluate, folders):
    (folders[0] / "b.nii.gz").unlink()
    refused = evaluate()
    assert (refused.code, refused.out) == (3, "")
    assert "1 of 2 cases have no prediction: b" in refused.error
    worst = evaluate("--missing", "worst", "--json").json
    assert (worst["mean_dice"], worst["missing"]) == (0.5, ["b"])


def test_a_prediction_left_over_is_an_error_or_ignored(evaluate, folders):
    save(folders[0] / "c.nii.gz", arrays()[1])
    refused = evaluate()
    assert refused.code == 3
    assert "1 of 3 predictions have no reference: c" in refused.error
    assert evaluate("--extra", "ignore", "--json").json["mean_dice"] == 1


def test_a_class_absent_from_both_masks(evaluate, folders):
    for folder in folders:
        for case in ("a", "b"):
            save(folder / f"{case}.nii.gz", np.minimum(arrays()[1], 1))
    left_out = evaluate("--json").json
    assert [score["dice"] for score in left_out["scores"]] == [1, None, 1, None]
    paper = evaluate("--json", "--reference-empty", "1").json
    assert [score["dice"] for score in paper["scores"]] == [1, 1, 1, 1]


def test_json_without_scores(evaluate, folders):
    for folder in folders:
        for case in ("a", "b"):
            save(folder / f"{case}.nii.gz", np.zeros((4, 4, 2), np.uint8))
    assert evaluate("--json").json["mean_dice"] is None


SHIFTED = SPACING + np.array([[0, 0, 0, 2.0]] + [[0, 0, 0, 0]] * 3)


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (arrays()[1][:-1], SPACING, "the prediction has shape (23, 20, 6), its reference (24, 20, 6)"),
        (arrays()[1], SHIFTED, "the geometry of the prediction differs from its reference"),
        (arrays()[1] * np.float32(0.5), SPACING, "expected labels to be integers from 0 to 65535, got 0.5"),
        (arrays()[1] * 7, SPACING, "expected label values of the label scheme, [0, 1, 2], got 7, 14"),
        (arrays()[1] * np.float32(np.nan), SPACING, "expected labels to be integers from 0 to 65535, got nan"),
        (-arrays()[1].astype(np.int16), SPACING, "expected labels to be integers from 0 to 65535, got -1"),
    ],
    ids=["shape", "place", "fractional", "unknown", "NaN", "negative"],
)
def test_a_prediction_that_is_refused(evaluate, folders, tmp_path, array, affine, message):
    save(folders[0] / "b.nii.gz", array, affine)
    result = evaluate("--out", tmp_path / "scores.json", "--json")
    assert (result.code, result.out) == (3, "")
    assert result.error.startswith(f"error[INPUT]: {folders[0] / 'b.nii.gz'}: ")
    assert message in result.error
    assert not (tmp_path / "scores.json").exists()


def test_rounding_of_the_header_is_accepted(evaluate, folders):
    save(folders[0] / "b.nii.gz", arrays()[1], SPACING * (1 + 1e-6))
    assert evaluate("--json").json["mean_dice"] == 1


def test_missing_files_are_refused(masam, dataset, folders, tmp_path):
    masks, references = folders
    labels = ("--labels", dataset)
    for words, message in (
        ((masks, tmp_path / "none", *labels), "none: expected a folder of references"),
        ((tmp_path / "none", references, *labels), "none: expected a folder of predictions"),
        ((masks, references / "a.nii.gz", *labels), "is a file, got a folder"),
        ((masks / "none.nii.gz", references / "a.nii.gz", *labels), "none.nii.gz: expected a file, got none"),
        ((masks, references, "--labels", tmp_path), "dataset.json: expected a file, got none"),
    ):
        result = masam("evaluate", *words)
        assert result.code == 3
        assert message in result.error
    for words in (("--out", tmp_path / "scores.txt"), ("--nsd-tolerance", "-1")):
        assert masam("evaluate", *folders, *labels, *words).code == 2


def test_names_cannot_inject_markup(masam, dataset, tmp_path):
    case, label = "<img src=x onerror=alert(1)>", "<script>alert(2)</script>"
    image, labels = arrays()
    save(tmp_path / f"scans/{case}_0000.nii.gz", image)
    save(tmp_path / f"masks/{case}.nii.gz", labels)
    content = json.loads((dataset / "dataset.json").read_text()) | {"labels": {"background": 0, label: 1, "[red]": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    masks, names = tmp_path / "masks", ("--labels", tmp_path / "dataset.json", "--quiet")
    words = ("--images", tmp_path / "scans", "--predictions", masks, "--references", masks)
    result = masam("report", *words, *names, "--out", tmp_path / "report.html", "--title", "<i>t</i>")
    assert (result.code, result.err) == (0, "")
    page = (tmp_path / "report.html").read_text()
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert "<i>t" not in page
    assert "&lt;script&gt;alert(2)" in page
    table = masam("evaluate", masks, masks, *names)
    assert label in table.out
    assert "[red]" in table.out, "a name is no markup"


def test_a_report_of_one_scan_takes_three_files(masam, dataset, tmp_path):
    image, labels = arrays()
    scan, mask, truth = (tmp_path / f"{name}.nii.gz" for name in ("scan_0000", "mask", "truth"))
    for path, array in ((scan, image), (mask, labels), (truth, labels)):
        save(path, array)
    words = ("--images", scan, "--predictions", mask, "--references", truth, "--labels", dataset, "--quiet")
    result = masam("report", *words, "--out", tmp_path / "report.html")
    assert (result.code, result.out) == (0, f"mean Dice 1.0000 over 1 case: {tmp_path / 'report.html'}\n"), result.err


def test_the_report_needs_the_scans_and_the_run(masam, dataset, folders, tmp_path):
    words = ("report", "--images", dataset / "imagesTr", "--predictions", folders[0], "--references", folders[1])
    words += ("--labels", dataset, "--out", tmp_path / "report.html")
    scans = masam(*words)
    assert scans.code == 3
    assert f"{dataset / 'imagesTr'}: expected a scan of case a, found none" in scans.error
    run = masam(*words, "--run", tmp_path / "nowhere")
    assert run.code == 3
    assert "nowhere: expected a run folder with a metrics.csv; check --run, or leave it out" in run.error
    assert not (tmp_path / "report.html").exists()

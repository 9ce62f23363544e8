"""``masam evaluate-prompts``: a table, a record and a curve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from masam_cli import TINY, arrays, save


@pytest.fixture(scope="module")
def prompted(dataset, tmp_path_factory) -> Path:
    """A run folder of a model that was trained with prompts."""
    from masam.cli import main

    run = tmp_path_factory.mktemp("prompted") / "run"
    words = ["train", str(dataset), "--out", str(run), "--epochs", "1", "--quiet", *TINY, "--set", "prompt_rate=0.5"]
    assert main(words) == 0
    return run


@pytest.fixture
def evaluate(masam, dataset, prompted):
    words = ("evaluate-prompts", dataset / "imagesTs", dataset / "labelsTs", "--labels", dataset, "--quiet")
    return lambda *more: masam(*words, "--model", prompted, "--stride", 5, *more)


def test_a_table_a_record_and_a_curve(evaluate, tmp_path):
    out, plot = tmp_path / "prompts.json", tmp_path / "new/clicks.png"
    result = evaluate("--clicks", 2, "--out", out, "--plot", plot)
    assert (result.code, result.err) == (0, "")
    for words in ("2 cases", "organ", "vessel", "automatic", "tight box", "relaxed by 20 %", "jittered", "2 clicks"):
        assert words in result.out
    assert result.out.endswith(f"wrote {out}\nwrote {plot}\n")
    record = json.loads(out.read_text())
    assert [(score["case"], score["label"]) for score in record["scores"]] == [
        ("Ts0", "organ"), ("Ts0", "vessel"), ("Ts1", "organ"), ("Ts1", "vessel"),
    ]  # fmt: skip
    assert all(len(score["clicks"]) == 2 and len(score["boxes"]) == 5 for score in record["scores"])
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_scan_and_its_reference_are_one_case(masam, dataset, prompted, tmp_path):
    image, labels = arrays()
    scan, reference = save(tmp_path / "scan.nii.gz", image), save(tmp_path / "mask.nii.gz", labels)
    result = masam("evaluate-prompts", scan, reference, "--model", prompted, "--clicks", 1, "--json")
    assert result.code == 0, result.err
    assert {score["label"] for score in result.json["scores"]} == {"organ", "vessel"}, "the classes of the model"
    assert result.json["cases"] == ["mask"]
    assert "case 1 of 1: mask" in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "x.csv"), "error[CONFIG]: --out: expected a name that ends in .json, got x.csv"),
        (("--plot", "x.pdf"), "error[CONFIG]: --plot: expected a name that ends in .png, got x.pdf"),
        (("--missing", "worst"), "error[USAGE]: No such option: --missing; see masam evaluate-prompts --help"),
        (("--clicks", "0"), "error[CONFIG]: clicks: expected 1 click or more, got 0"),
        (("--seed", "-1"), "error[CONFIG]: seed: expected a seed of 0 or more, got -1"),
    ],
)
def test_options_that_are_refused(evaluate, words, message):
    result = evaluate(*words)
    assert (result.code, result.out, result.error) == (2, "", message)


def test_a_model_is_required(masam, dataset):
    result = masam("evaluate-prompts", dataset / "imagesTs", dataset / "labelsTs", "--labels", dataset)
    assert result.code == 2
    assert result.error == "error[USAGE]: Missing option '--model'; see masam evaluate-prompts --help"


def test_what_is_given_must_fit(masam, dataset, prompted, trained, tmp_path):
    save(tmp_path / "labels/other.nii.gz", arrays()[1])
    for references, model, code, message in (
        (tmp_path / "labels", prompted, 3, f"{dataset / 'imagesTs'}: 1 of 1 references have no scan: other; give"),
        (
            dataset / "labelsTs",
            trained,
            6,
            "the model was trained without prompts, so its response",
        ),
        (tmp_path / "none", prompted, 3, f"{tmp_path / 'none'}: expected a folder of references"),
    ):
        words = ("evaluate-prompts", dataset / "imagesTs", references, "--labels", dataset, "--model", model)
        result = masam(*words, "--out", tmp_path / "out.json")
        assert result.code == code
        assert message in result.error
        assert not (tmp_path / "out.json").exists()

"""``masam evaluate-prompts``: a table, a record and a curve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from exported import PLAN
from masam_cli import arrays, save
from tiny import random_model

from masam.preprocess.plan import Plan
from masam.weights.card import ModelCard
from masam.weights.model_file import save as save_model


@pytest.fixture(scope="module")
def models(dataset, tmp_path_factory) -> tuple[Path, Path]:
    """Random models whose cards state that they were trained with and without prompts."""
    labels = json.loads((dataset / "dataset.json").read_text())["labels"]
    plan = Plan.model_validate(PLAN.model_dump() | {"labels": labels})
    folder = tmp_path_factory.mktemp("models")
    for rate in (0.5, 0.0):
        model = random_model(scale=0.5)
        model.card = ModelCard(plan, training={"steps": 2, "prompt_rate": rate})
        save_model(folder / f"{rate}.safetensors", model)
    return folder / "0.5.safetensors", folder / "0.0.safetensors"


@pytest.fixture
def prompted(models) -> Path:
    return models[0]


@pytest.fixture
def evaluate(masam, dataset, prompted):
    words = ("evaluate-prompts", dataset / "imagesTs", dataset / "labelsTs", "--labels", dataset, "--quiet")
    return lambda *more: masam(*words, "--model", prompted, "--stride", 3, *more)


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


def test_mismatched_input_is_refused(masam, dataset, models, tmp_path):
    prompted, unprompted = models
    save(tmp_path / "labels/other.nii.gz", arrays()[1])
    for references, model, code, message in (
        (tmp_path / "labels", prompted, 3, f"{dataset / 'imagesTs'}: 1 of 1 references have no scan: other; give"),
        (
            dataset / "labelsTs",
            unprompted,
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

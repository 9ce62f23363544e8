"""The whole path as a user walks it: train, predict, evaluate, report, info."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from masam_cli import TINY, write_msd_dataset
from safetensors.torch import load_file
from tiny import without_type_checks

from masam.errors import ConfigError
from masam.model.sizes import SIZES


@pytest.fixture(scope="module")
def masks(dataset, trained, tmp_path_factory):
    from masam.cli import main

    out = tmp_path_factory.mktemp("masks") / "masks"
    assert main(["predict", str(dataset / "imagesTs"), "--model", str(trained), "--out", str(out), "--quiet"]) == 0
    return out


def test_train_fills_the_run_folder_and_prints_only_json(trained):
    printed = json.loads((trained.parent / "stdout.txt").read_text())
    assert printed["steps"] == 2
    assert printed["seed"] == 1234
    names = {path.name for path in trained.iterdir()}
    assert names == {
        *("plan.yaml", "config.yaml", "metrics.csv", "tensorboard", "last", "model.safetensors", "manifest.json")
    }
    assert json.loads((trained / "manifest.json").read_text())["steps"] == 2


def without_times(manifest):
    return {key: value for key, value in manifest.items() if key not in ("started_utc", "finished_utc", "seconds")}


def test_python_leaves_the_same_run_folder_as_the_command(dataset, trained, tmp_path):
    import masam

    model = {"size": "vit_t", "adapter_channels": 8, "fact_rank": 4}
    settings = {"epochs": 1, "device": "cpu", "batch_windows": 9, "validate_every": 0, "model": model}
    result = masam.train(str(dataset), str(tmp_path / "run"), settings)
    run = result.folder.root
    files = {path.relative_to(trained) for path in trained.rglob("*") if "tfevents" not in path.name}
    assert {path.relative_to(run) for path in run.rglob("*") if "tfevents" not in path.name} == files
    for name in ("plan.yaml", "config.yaml"):
        assert (run / name).read_text() == (trained / name).read_text()
    for name in ("model.safetensors", "last/weights.safetensors", "last/optimizer.safetensors"):
        ours, theirs = load_file(run / name), load_file(trained / name)
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    ours, theirs = (without_times(json.loads((root / "manifest.json").read_text())) for root in (run, trained))
    assert ours == theirs
    printed = json.loads((trained.parent / "stdout.txt").read_text())
    assert {"run": str(trained), **result.facts(), "seconds": printed["seconds"]} == printed


def test_a_resumed_python_run_refuses_settings(dataset, trained):
    import masam

    message = "^--resume: a resumed run keeps its settings; give none; or start a new run$"
    for train in (masam.train, masam.train_folds):
        with pytest.raises(ConfigError, match=message):
            train(dataset, trained, {"epochs": 3}, resume=True)
    with pytest.raises(ConfigError, match=message):
        masam.pretrain(trained, {"steps": 3}, resume=True)


def test_the_model_can_be_read_by_whom_the_folder_can(trained):
    mask = os.umask(0)
    os.umask(mask)
    assert (trained / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask


def test_predict_folder_writes_labels_of_the_scheme_on_the_scans_grid(dataset, masks):
    assert {path.name for path in masks.iterdir()} == {"Ts0.nii.gz", "Ts1.nii.gz", "predictions.json"}
    for case in ("Ts0", "Ts1"):
        scan, mask = nib.load(dataset / "imagesTs" / f"{case}_0000.nii.gz"), nib.load(masks / f"{case}.nii.gz")
        assert mask.shape == scan.shape
        np.testing.assert_array_equal(mask.affine, scan.affine)
        assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2}


def test_predict_one_scan_to_a_named_file(masam, dataset, trained, masks, tmp_path):
    out = tmp_path / "mask.nii.gz"
    result = masam("predict", dataset / "imagesTs/Ts0_0000.nii.gz", "--model", trained, "--out", out)
    assert (result.code, result.out) == (0, f"wrote {out}\n")
    assert out.read_bytes() == (masks / "Ts0.nii.gz").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["mask.nii.gz"]


def test_predict_one_scan_to_a_folder(masam, dataset, trained, tmp_path):
    scan = dataset / "imagesTs/Ts1_0000.nii.gz"
    result = masam("predict", scan, "--model", trained / "model.safetensors", "--out", tmp_path / "one", "--json")
    assert result.code == 0
    assert result.json["failed"] == {}
    [case] = result.json["done"]
    assert (tmp_path / "one" / f"{case}.nii.gz").is_file()


def test_evaluate_as_table_json_and_csv_agree(masam, dataset, masks, tmp_path):
    words = ("evaluate", masks, dataset / "labelsTs", "--labels", dataset / "dataset.json", "--quiet")
    table = masam(*words, "--out", tmp_path / "scores.csv")
    assert table.code == 0
    assert "organ" in table.out
    result = masam(*words, "--out", tmp_path / "scores.json", "--json")
    assert result.err == ""
    assert json.loads((tmp_path / "scores.json").read_text()) == result.json
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["label"]) for row in rows] == [
        (case, label) for case in ("Ts0", "Ts1") for label in ("organ", "vessel")
    ]
    assert [float(row["dice"]) for row in rows] == [score["dice"] for score in result.json["scores"]]


def test_evaluate_two_files_whatever_their_names(masam, dataset, masks):
    reference = dataset / "labelsTs/Ts0.nii.gz"
    perfect = masam("evaluate", reference, reference, "--labels", dataset, "--json")
    assert perfect.json["mean_dice"] == 1
    other = masam("evaluate", masks / "Ts1.nii.gz", reference, "--labels", dataset, "--json", "--quiet")
    assert other.code == 0
    assert {score["case"] for score in other.json["scores"]} == {"Ts0"}


def test_report_shows_cases_curves_and_score(masam, dataset, masks, trained, tmp_path):
    page = tmp_path / "page" / "report.html"
    words = ("report", "--images", dataset / "imagesTs", "--predictions", masks, "--references", dataset / "labelsTs")
    result = masam(*words, "--labels", dataset, "--run", trained, "--out", page, "--json")
    assert result.code == 0
    scored = masam("evaluate", masks, dataset / "labelsTs", "--labels", dataset, "--json", "--quiet").json
    assert result.json == {"page": str(page), "mean_dice": scored["mean_dice"], "cases": 2}
    text = page.read_text()
    assert text.count("data:image/png;base64") == 3, "two cases and the training curves"
    assert str(dataset) not in text, "folders tell of users"


def test_report_of_a_missing_prediction(masam, dataset, masks, tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some/Ts0.nii.gz").write_bytes((masks / "Ts0.nii.gz").read_bytes())
    words = ("report", "--images", dataset / "imagesTs", "--references", dataset / "labelsTs", "--labels", dataset)
    words += ("--predictions", tmp_path / "some", "--out", tmp_path / "report.html")
    refused = masam(*words)
    assert refused.code == 3
    assert "1 of 2 cases have no prediction: Ts1" in refused.error
    assert not (tmp_path / "report.html").exists()
    accepted = masam(*words, "--missing", "worst")
    assert accepted.code == 0
    assert "Ts1" in (tmp_path / "report.html").read_text()


def test_info_describes_the_model_and_lists_sizes(masam, trained):
    described = masam("info", trained, "--json").json
    assert (described["size"], described["num_classes"], described["image_size"]) == ("vit_t", 2, 32)
    assert described["classes"] == {"background": 0, "organ": 1, "vessel": 2}
    assert described["training"]["steps"] == 2
    assert "size: vit_t" in masam("info", trained).out
    sizes = masam("info", "--json").json
    assert set(sizes) == {"vit_h", "vit_l", "vit_b", "vit_t"}
    assert all(0 < count["trainable"] < count["total"] for count in sizes.values())


def test_plan_is_written_said_and_used(masam, dataset, tmp_path):
    out = tmp_path / "plan.yaml"
    said = masam("plan", dataset, "--out", out, "--quiet")
    assert said.out == f"wrote {out}: CT, axial slices of 32 pixels\n"
    out.write_text(out.read_text().replace("window: 5", "window: 3"))
    run = tmp_path / "run"
    # 1e-4 is no number in YAML 1.1, but one to people.
    words = ("--plan", out, "--epochs", 1, *TINY, "--set", "learning_rate=1e-4", "--quiet")
    trained = masam("train", dataset, "--out", run, *words)
    assert (trained.code, trained.err) == (0, "")
    assert masam("info", run, "--json").json["window"] == 3
    assert "learning_rate: 0.0001" in (run / "config.yaml").read_text()


def test_a_suggestion_of_the_plan_is_used(masam, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("masam.training.suggest.SIZES", {"vit_t": SIZES["vit_t"]})
    plan, run = tmp_path / "plan.yaml", tmp_path / "run"
    with without_type_checks():
        said = masam("plan", dataset, "--out", plan, "--memory", "0.8GB", "--quiet")
    assert said.code == 0, said.err
    sentence = r"^suggestion for 0.8 GB: vit_t, (\d+) of 24 windows at once \(predicted peak 0.\d+ GB\)$"
    found = re.search(sentence, said.out, re.M)
    windows = int(found[1])
    assert windows > 1
    words = ("--plan", plan, "--epochs", 1, "--set", f"batch_windows={windows}", "--set", "validate_every=0")
    words = (*words, "--set", "model.adapter_channels=8", "--device", "cpu")
    assert masam("train", dataset, "--out", run, *words).code == 0
    settings = (run / "config.yaml").read_text()
    assert f"micro_batch_windows: {windows}" in settings
    assert masam("info", run, "--json").json["size"] == "vit_t"
    assert masam("plan", dataset, "--out", plan, "--memory", "much").code == 2


def test_a_class_is_added_to_a_trained_model(masam, dataset, trained, tmp_path):
    grown, run = shutil.copytree(dataset, tmp_path / "grown"), tmp_path / "run"
    facts = json.loads((grown / "dataset.json").read_text())
    facts["labels"] |= {"lesion": 3}
    (grown / "dataset.json").write_text(json.dumps(facts))
    words = ("train", grown, "--out", run, "--epochs", 1, "--device", "cpu", "--set", "batch_windows=9")
    words = (*words, "--set", "validate_every=0", "--quiet")
    result = masam(*words, "--init", trained)
    assert (result.code, result.err) == (0, "")
    told, before = masam("info", run, "--json").json, masam("info", trained, "--json").json
    assert told["classes"] == before["classes"] | {"lesion": 3}
    assert told["training"]["started_from"] == {
        "content_sha256": before["content_sha256"], "dataset": before["training"]["dataset"],
        "classes": ["organ", "vessel"],
    }  # fmt: skip
    same = ("image_size", "window", "fact_rank", "adapter_channels")
    assert {key: told[key] for key in same} == {key: before[key] for key in same}
    assert (told["class_groups"], "class_groups" in before) == ([[0, 1, 2], [3]], False)
    predicted = masam("predict", grown / "imagesTs", "--model", run, "--out", tmp_path / "masks", "--device", "cpu")
    assert predicted.code == 0
    lost = masam("train", dataset, "--out", tmp_path / "back", "--init", run, "--device", "cpu")
    assert (lost.code, lost.error) == (
        2,
        f"error[CONFIG]: {run / 'model.safetensors'}: the model to start from has the classes organ, vessel, lesion, "
        "the data set organ, vessel: lesion cannot be removed or renamed; name the classes in dataset.json as the "
        "model does",
    )
    assert not (tmp_path / "back").exists()
    missing = masam("train", dataset, "--out", tmp_path / "back", "--init", tmp_path / "nothing", "--device", "cpu")
    assert (missing.code, missing.error.split(": ")[0]) == (3, "error[INPUT]")


def test_plan_of_other_classes_is_refused(masam, dataset, tmp_path):
    plan = tmp_path / "plan.yaml"
    masam("plan", dataset, "--out", plan)
    plan.write_text(plan.read_text().replace("vessel", "liver"))
    result = masam("train", dataset, "--out", tmp_path / "run", "--plan", plan, *TINY)
    assert result.code == 2
    assert "the plan has the classes {'background': 0, 'organ': 1, 'liver': 2}, dataset.json has" in result.error
    assert not (tmp_path / "run").exists()


def test_msd_layout_end_to_end(masam, tmp_path):
    data, run, masks = write_msd_dataset(tmp_path / "Task09_Spleen"), tmp_path / "run", tmp_path / "masks"
    settings = tmp_path / "settings.yaml"
    settings.write_text("epochs: 1\nlearning_rate: 1e-4\nfolds: 2\nmodel: {size: vit_t, adapter_channels: 8}\n")
    words = ("--set", "model.fact_rank=4", "--set", "batch_windows=6", "--set", "validate_every=1")
    trained = masam("train", data, "--out", run, "--config", settings, "--device", "cpu", *words, "--json")
    assert trained.code == 0
    assert 0 <= trained.json["best_dice"] <= 1
    predicted = masam("predict", data / "imagesTs", "--model", run, "--out", masks, "--stride", 5, "--batch", 2)
    assert (predicted.code, predicted.out) == (0, f"1 of 1 cases in {masks} (0 kept from an earlier run)\n")
    assert nib.load(masks / "spleen_9.nii.gz").shape == (24, 20, 6)

"""``masam export``, and its exports in other software."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from exported import model_with_plan
from masam_cli import arrays, environment, save
from tiny import random_model, without_type_checks

from masam.export.agreement import TOLERANCE
from masam.weights import model_file as weights

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def export(masam):
    """Run the command; tracing does not get along with the checks of annotations."""

    def call(*words):
        with without_type_checks():
            return masam("export", *words)

    return call


@pytest.fixture
def model(tmp_path) -> Path:
    """A model whose labels differ from voxel to voxel, which two steps of training do not give."""
    weights.save(tmp_path / "model.safetensors", model_with_plan())
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_a_network_for_other_software(exports, name):
    out = getattr(exports, name)
    result = exports.results[name]
    assert (result.code, result.err) == (0, "")
    difference = result.json["largest_difference"]
    assert 0 < difference <= TOLERANCE
    assert result.json == {
        "format": name,
        "path": str(out),
        "size_bytes": out.stat().st_size,
        "largest_difference": difference,
        "tolerance": TOLERANCE,
        "has_plan": True,
    }


def labels_in(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    images = {path.name: nib.load(path) for path in folder.glob("*.nii.gz")}
    return {name: (np.asarray(image.dataobj), image.affine) for name, image in images.items()}


def test_monai_segments_scans_as_masam_does(masam, export, model, tmp_path):
    for seed, affine in enumerate((np.diag([1.5, 1.5, 4.0, 1.0]), np.diag([-1.0, 2.0, -3.0, 1.0]))):
        save(tmp_path / "scans" / f"case{seed}_0000.nii.gz", arrays(seed=seed)[0], affine)
    scans, bundle = tmp_path / "scans", tmp_path / "tiny"
    result = export(model, "--format", "monai-bundle", "--out", bundle)
    assert result.code == 0
    size = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    assert result.out == (f"wrote {bundle} ({size / 1e6:.1f} MB); its outputs equal the model's\n")
    assert result.err == f"writing {bundle} and comparing it with the model\n"
    assert masam("predict", scans, "--model", model, "--out", tmp_path / "ours", "--device", "cpu").code == 0
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(bundle / "configs/inference.json")]
    command += ["--bundle_root", str(bundle), "--dataset_dir", str(scans), "--output_dir", str(tmp_path / "theirs")]
    command += ["--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment())
    assert done.returncode == 0, done.stderr
    ours, theirs = labels_in(tmp_path / "ours"), labels_in(tmp_path / "theirs")
    assert set(ours) == set(theirs) == {"case0.nii.gz", "case1.nii.gz"}
    for name, (labels, affine) in ours.items():
        assert len(np.unique(labels)) > 1
        np.testing.assert_array_equal(theirs[name][0], labels)
        np.testing.assert_array_equal(theirs[name][1], affine)


def test_a_run_folder_is_exported(masam, export, trained, tmp_path):
    out = tmp_path / "bundle"
    result = export(trained, "--format", "monai-bundle", "--out", out, "--json")
    assert result.json["largest_difference"] == 0
    metadata = json.loads((out / "configs/metadata.json").read_text("utf-8"))
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert channels == {"0": "background", "1": "organ", "2": "vessel"}


def test_a_merged_model_predicts_like_the_model(masam, export, model, tmp_path):
    merged = tmp_path / "merged.safetensors"
    assert export(model, "--format", "safetensors", "--merge", "--out", merged).code == 0
    assert masam("info", merged, "--json").json["fact_rank"] == 0
    scan = save(tmp_path / "scan.nii.gz", arrays()[0])
    for one, name in ((model, "a.nii.gz"), (merged, "b.nii.gz")):
        assert masam("predict", scan, "--model", one, "--out", tmp_path / name).code == 0
    one, other = (np.asarray(nib.load(tmp_path / name).dataobj) for name in ("a.nii.gz", "b.nii.gz"))
    assert (one == other).mean() > 0.999, "rounding may turn a voxel, not more"


def test_a_model_without_a_plan(export, tmp_path):
    weights.save(tmp_path / "bare.safetensors", random_model())
    words = (tmp_path / "bare.safetensors", "--format")
    copied = export(*words, "safetensors", "--out", tmp_path / "copy.safetensors", "--embed-base")
    assert copied.code == 0
    assert copied.out.splitlines()[1] == "the model has no plan: the export does not describe preprocessing"
    refused = export(*words, "monai-bundle", "--out", tmp_path / "bundle")
    assert refused.code == 6
    assert refused.error.startswith("error[MODEL]: the model has no plan, which a bundle requires")
    assert not (tmp_path / "bundle").exists()


def test_the_official_format(masam, export, tmp_path):
    """There and back: an imported official model is exported again, tensor by tensor the same."""
    official, ours, out = GOLDEN / "masam_tiny_96_adapter.pth", tmp_path / "ours.safetensors", tmp_path / "epoch_1.pth"
    sam = ("--sam", GOLDEN / "sam_tiny_256.pth")
    words = ("--adapter", official, "--image-size", 96, "--out", ours)
    assert masam("weights", "import", *sam, *words).code == 0
    base = ("--sam-checkpoint", GOLDEN / "sam_tiny_256.pth")
    result = export(ours, "--format", "reference", "--out", out, *base)
    assert result.code == 0
    megabytes = out.stat().st_size / 1e6
    assert result.out == (
        f"wrote {out} ({megabytes:.1f} MB); its outputs equal the model's\n"
        "options for the official code: --ckpt sam_tiny_256.pth --vit_name custom --num_classes 3 --img_size 96 "
        "--rank 4 --scale 1\n"
    )
    written, expected = (torch.load(path, weights_only=True) for path in (out, official))
    assert set(written) == set(expected)
    assert all(torch.equal(written[name], tensor) for name, tensor in expected.items())
    refused = export(ours, "--format", "reference", "--out", tmp_path / "x.pth", *base, "--merge")
    assert (refused.code, "the official format contains no encoder; omit --merge" in refused.error) == (2, True)


def test_the_official_format_requires_a_sam_file(export, trained, tmp_path):
    refused = export(trained, "--format", "reference", "--out", tmp_path / "epoch_1.pth")
    assert refused.code == 6
    assert "and with the frozen encoder of a SAM file" in refused.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "out", "expected"),
    [
        ("onnx", "a.pt2", "expected a name that ends in .onnx for the format onnx"),
        ("torch", "a", "expected a name that ends in .pt2 for the format torch"),
        ("safetensors", "a.pth", "expected a name that ends in .safetensors for the format safetensors"),
        ("monai-bundle", "a.onnx", "expected a folder name that does not end in .onnx for the format monai-bundle"),
    ],
)
def test_the_name_must_fit_the_format(export, tmp_path, name, out, expected):
    result = export(tmp_path / "not_read", "--format", name, "--out", tmp_path / out)
    assert result.code == 2
    assert result.error == f"error[CONFIG]: --out {tmp_path / out}: {expected}"


@pytest.mark.parametrize(("name", "out"), [("onnx", "a.onnx"), ("monai-bundle", "a")])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_existing_files_are_not_overwritten(export, tmp_path, name, out, kind):
    there = tmp_path / out
    there.write_text("mine") if kind == "file" else there.mkdir()
    result = export(tmp_path / "not_read", "--format", name, "--out", there)
    assert result.code == 5
    assert result.error == (
        f"error[RESOURCE]: --out {there}: the path already exists; choose another name or remove it"
    )
    assert [path.name for path in tmp_path.iterdir()] == [out]


def test_an_unwritable_folder_is_refused(export, model, unwritable):
    result = export(model, "--format", "torch", "--out", unwritable / "a.pt2")
    assert result.code == 5
    assert result.error.startswith(f"error[RESOURCE]: --out {unwritable}/a.pt2: cannot write to ")


def test_a_missing_package_is_named(export, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = export(model, "--format", "onnx", "--out", tmp_path / "a.onnx")
    assert result.code == 5
    assert result.error.startswith("error[RESOURCE]: this export requires onnxscript, which is not installed (")
    assert result.error.endswith("; pip install 'masam[export]'")


def test_an_unknown_format_is_refused_with_the_known_ones(export, model, tmp_path):
    result = export(model, "--format", "coreml", "--out", tmp_path / "a")
    assert result.code == 2
    assert "Invalid value for '--format'" in result.error
    for name in ("safetensors", "onnx", "torch", "monai-bundle"):
        assert f"'{name}'" in result.error


def test_leftovers_of_a_killed_export_are_removed(export, model, tmp_path, monkeypatch):
    code = (
        "import os, sys, torch\nfrom pathlib import Path\nfrom masam.export import model_file\n"
        "model_file.require_same_tensors = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        "from masam.weights.model_file import load\n"
        "model_file.write_model_file(load(sys.argv[1]), Path(sys.argv[2]))"
    )
    words = [sys.executable, "-c", code, str(model), str(tmp_path / "a.safetensors")]
    assert subprocess.run(words, check=False, timeout=60).returncode == -9
    hidden = [path for path in tmp_path.iterdir() if path.name.startswith(".masam-tmp-")]
    assert len(hidden) == 1
    assert not (tmp_path / "a.safetensors").exists()
    assert export(model, "--format", "safetensors", "--out", tmp_path / "a.safetensors").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "model.safetensors"]
    assert all(map(torch.equal, *(weights.load(f).state_dict().values() for f in (model, tmp_path / "a.safetensors"))))

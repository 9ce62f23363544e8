"""Foreign models on the command line: official models, published bases, and malicious files."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from masam_cli import TINY, save
from safetensors.torch import save_file
from tiny import Bomb

from masam.weights.official import LABELS, load_reference
from masam.weights.published import PUBLISHED, PublishedWeights, cache_folder

GOLDEN = Path(__file__).parents[1] / "golden"
SAM, ADAPTER = GOLDEN / "sam_tiny_256.pth", GOLDEN / "masam_tiny_96_adapter.pth"
PLAN = """
name: tiny
modality: CT
slice_axis: stored
intensity: {kind: window, low: -200, high: 250}
window_minmax: true
image_size: 96
labels: {background: 0, liver: 1, spleen: 2, kidney: 3}
"""


@pytest.fixture
def plan(tmp_path) -> Path:
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path / "plan.yaml"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty cache folder of published weights, and one name in the registry: the golden SAM."""
    monkeypatch.setenv("MASAM_HOME", str(tmp_path / "home"))
    entry = PublishedWeights(
        name="sam-tiny", title="for tests", size="custom", url="http://127.0.0.1:9/sam_tiny_256.pth",
        filename="sam_tiny_256.pth", bytes=SAM.stat().st_size,
        sha256="81f112df3949fd3ebdea5eb54e3aea5ec4e4cda943778e130ef3905fc5a60e65", licence="Apache-2.0", page="x",
    )  # fmt: skip
    monkeypatch.setitem(PUBLISHED, entry.name, entry)
    return cache_folder()


def import_words(out: Path, *more: object) -> tuple[object, ...]:
    return ("weights", "import", "--sam", SAM, "--adapter", ADAPTER, "--out", out, "--image-size", 96, *more)


def official_labels(volume: np.ndarray) -> np.ndarray:
    """Return the labels of the official test program for a volume of 96 x 96 slices (paper.md 1.5, 1.8)."""
    network = load_reference(SAM, ADAPTER, 96)
    padded = np.concatenate([volume[:, :, :1]] * 2 + [volume] + [volume[:, :, -1:]] * 2, axis=2)
    votes = np.zeros((padded.shape[2], 96, 96, 4))
    for first in range(volume.shape[2]):
        window = np.flip(np.rot90(padded[:, :, first : first + 5], k=1, axes=(0, 1)), axis=1)
        window = np.float32((np.clip(window, -200, 250) + 200) / 450 * 255)
        window = (window - window.min()) / (window.max() - window.min() + 1e-8)
        slices = torch.from_numpy(np.ascontiguousarray(window.transpose(2, 0, 1)))[None, :, None]
        with torch.no_grad():
            logits = network(slices.expand(-1, -1, 3, -1, -1)).logits[0]
        votes[first : first + 5] += logits.softmax(dim=1).permute(0, 2, 3, 1).numpy()
    labels = votes.argmax(axis=-1)[2:-2].transpose(1, 2, 0)
    return np.rot90(np.flip(labels, axis=1), k=-1, axes=(0, 1))


@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (-1, -1)], ids=["RAS", "LAS", "LPS"])
def test_an_imported_model_predicts_as_the_official_program(masam, tmp_path, plan, signs):
    """The orientation in the header has no effect, because the official program ignores it."""
    rng = np.random.default_rng(0)
    volume = (rng.normal(0, 120, (96, 96, 7)) + 200 * np.linspace(-1, 1, 96)[:, None, None]).astype(np.int16)
    save(tmp_path / "scan.nii.gz", volume, np.diag([*signs, 3.0, 1.0]))
    out = tmp_path / "official.safetensors"
    imported = masam(*import_words(out, "--plan", plan, "--embed-base", "--licence", "MIT", "--json"))
    assert (imported.code, imported.err) == (0, "")
    facts = imported.json
    assert (facts["num_classes"], facts["fact_rank"], facts["adapter_channels"], facts["depth"]) == (3, 4, 24, 4)
    assert (facts["licence"], facts["encoder"]) == ("MIT", "in the file")
    # The decoder of the golden files has four heads, unlike official files; no tensor determines this.
    predicted = masam("predict", tmp_path / "scan.nii.gz", "--model", out, "--out", tmp_path / "mask.nii.gz")
    assert predicted.code == 0, predicted.err
    labels = np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj)
    expected = official_labels(volume)
    assert len(np.unique(expected)) > 1
    assert (labels != expected).mean() < 1e-4  # near ties, whose last digit depends on the order of sums


def test_output_of_an_import(masam, tmp_path):
    out = tmp_path / "official.safetensors"
    result = masam(*import_words(out))
    assert result.out == (
        f"wrote {out}: custom, 3 classes at 96 pixels, rank 4, adapters of 24, 4 blocks\n"
        "it has no plan, so masam predict cannot prepare scans for it: give --trained-on or --plan\n"
    )
    box = GOLDEN / "masam_tiny_bbox_96_adapter.pth"
    words = ("weights", "import", "--sam", SAM, "--adapter", box, "--image-size", 96, "--out", out)
    assert masam(*words, "--trained-on", "prostate").out.count("\n") == 1
    assert masam("info", out, "--json").json["classes"] == {"background": 0, "prostate": 1}


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--trained-on", "btcv"), 6, "the plan has 12 classes at 96 pixels, the model 3 at 96"),
        (("--trained-on", "amos"), 2, "Invalid value for '--trained-on'"),
        (("--trained-on", "btcv", "--plan", "x"), 2, "--plan and --trained-on: the two options exclude each other"),
        (("--image-size", 100), 2, "image_size: expected a multiple of 16 pixels, got 100"),
        (("--out", "x.pth"), 2, "--out: expected a name that ends in .safetensors, got x.pth"),
        (("--sam", ADAPTER), 6, "expected SAM weights, got an official MA-SAM adapter"),
        (("--adapter", SAM), 6, "expected an official MA-SAM adapter, got SAM weights"),
        (("--sam", "sam-vit-h"), 3, "sam-vit-h is not on this machine; run masam weights get sam-vit-h"),
    ],
)
def test_refused_imports(masam, tmp_path, home, more, code, message):
    out = tmp_path / "official.safetensors"
    result = masam(*import_words(out, *more))
    assert result.code == code
    assert message in result.error
    assert not out.exists()


def test_trained_on_accepts_all_known_data_sets(masam):
    refused = masam("weights", "import", "--trained-on", "x", "--sam", "x", "--adapter", "x", "--out", "x")
    assert all(f"'{name}'" in refused.error for name in LABELS)


def test_a_published_name_is_accepted_as_base_everywhere(masam, dataset, home, tmp_path, plan):
    run, masks = tmp_path / "run", tmp_path / "masks"
    train = ("train", dataset, "--out", run, "--epochs", 1, *TINY[2:], "--sam-checkpoint", "sam-tiny")
    missing = masam(*train)
    assert (missing.code, run.exists()) == (3, False)
    assert missing.error == (
        "error[INPUT]: sam-tiny is not on this machine; run masam weights get sam-tiny (about 2 MB)"
    )
    home.mkdir(parents=True)
    shutil.copy(SAM, home / "sam_tiny_256.pth")
    assert masam("weights", "verify", "sam-tiny").code == 0
    trained = masam(*train)
    assert trained.code == 0, trained.err
    facts = masam("info", run, "--json").json
    assert (facts["kind"], facts["base"]["file"], facts["steps_done"]) == ("masam run folder", "sam_tiny_256.pth", 2)
    assert masam("info", SAM, "--json").json["published_as"] == "sam-tiny"
    # The base is found by its hash.
    scan = next((dataset / "imagesTs").iterdir())
    assert masam("predict", scan, "--model", run, "--out", masks).code == 0
    (home / "sam_tiny_256.pth").unlink()
    lost = masam("predict", scan, "--model", run, "--out", tmp_path / "more")
    assert lost.code == 6
    assert lost.error.endswith("give that file with --sam-checkpoint, or run masam weights get sam-tiny")
    assert masam("predict", scan, "--model", run, "--out", masks, "--sam-checkpoint", SAM).code == 0


def plant(folder: Path, canary: Path) -> list[Path]:
    """Write the payload into every kind of accepted file, and into some others."""
    folder.mkdir()
    bomb, sam = Bomb(canary), torch.load(SAM, weights_only=True)
    files = []
    for suffix in (".pth", ".pt", ".bin", ".safetensors", ".onnx", ".pt2", ".npy", ".npz", ".pkl"):
        for kind in ("zip", "legacy", "pickle", "text"):
            path = folder / f"{kind}{suffix}"
            files.append(path)
            if kind == "zip":
                torch.save({**sam, "bomb": bomb}, path)
            elif kind == "legacy":
                torch.save({"bomb": bomb}, path, _use_new_zipfile_serialization=False)
            elif kind == "pickle":
                path.write_bytes(pickle.dumps({"state_dict": {}, "bomb": bomb}))
            else:
                path.write_bytes(pickle.dumps(bomb, protocol=0))
    evil = json.dumps({"__reduce__": ["os.mkdir", [str(canary)]]})
    files.append(folder / "notes.safetensors")
    save_file(sam, files[-1], metadata={"masam": evil, "format": "pt"})
    return files


def test_no_planted_code_runs_by_any_command(masam, dataset, tmp_path):
    canary, out, model = tmp_path / "canary", tmp_path / "out", GOLDEN / "model_v2.safetensors"
    scan = next((dataset / "imagesTs").iterdir())
    for number, path in enumerate(plant(tmp_path / "planted", canary)):
        as_sam = [
            ("predict", scan, "--model", model, "--out", out, "--sam-checkpoint", path),
            ("train", dataset, "--out", out, "--epochs", 1, *TINY[2:], "--sam-checkpoint", path),
            ("weights", "import", "--sam", path, "--adapter", ADAPTER, "--out", out / "x.safetensors"),
        ]
        as_model = [
            ("predict", scan, "--model", path, "--out", out),
            ("weights", "import", "--sam", SAM, "--adapter", path, "--out", out / "x.safetensors"),
            ("export", path, "--format", "safetensors", "--out", out / "x.safetensors"),
        ]
        commands = as_sam + as_model
        if path.name != "notes.safetensors":
            # One of the six per file: each meets every kind of file, and every suffix meets several commands.
            commands = [commands[(number + number // 4) % 6]]
        for words in [("info", path), *commands]:
            result = masam(*words)
            # A valid SAM file with unusual metadata is accepted.
            serves = path.name == "notes.safetensors" and words in [("info", path), *as_sam]
            assert result.code in ((0, 6) if serves else (3, 6)), (words, result.err)
            assert result.code == 0 or result.error.startswith(("error[INPUT]: ", "error[MODEL]: "))
            assert not canary.exists(), words
            shutil.rmtree(out, ignore_errors=True)
    pickle.loads(pickle.dumps(Bomb(canary)))  # noqa: S301 - shows that the payload does work
    assert canary.exists()

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import LABELS, TINY, VARIED, Bomb, random_model, randomise
from weight_files import PLAN

from masam.errors import InputError, ModelError
from masam.export.identify import identify
from masam.model.sam import Sam
from masam.model.sizes import SIZES
from masam.weights.card import ModelCard
from masam.weights.model_file import save

GOLDEN = Path(__file__).parents[2] / "golden"


def test_sam_weights():
    facts = identify(GOLDEN / "sam_tiny_256.pth")
    content = (GOLDEN / "sam_tiny_256.pth").read_bytes()
    assert next(iter(facts)) == "kind"
    expected = {
        "kind": "SAM weights", "size": "custom", "image_size": 256, "depth": 4, "embed_dim": 48, "num_heads": 3,
        "global_blocks": [1, 3], "masks": 4, "tensors": 202, "types": ["float32"], "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(), "file": "sam_tiny_256.pth",
    }  # fmt: skip
    assert expected.items() <= facts.items()


def test_a_published_size_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "vit_t", TINY)
    torch.save({"model": randomise(Sam(TINY, 64)).state_dict(), "epoch": 3}, tmp_path / "medsam.pth")
    assert identify(tmp_path / "medsam.pth")["size"] == "vit_t"


@pytest.mark.parametrize(("name", "classes"), [("masam_tiny_96_adapter.pth", 3), ("masam_tiny_bbox_96_adapter.pth", 1)])
def test_an_official_adapter(name, classes):
    facts = identify(GOLDEN / name)
    expected = {
        "kind": "an official MA-SAM adapter", "num_classes": classes, "fact_rank": 4, "adapter_channels": 24,
        "depth": 4, "embed_dim": 48, "size": "an encoder of width 48",
    }  # fmt: skip
    assert expected.items() <= facts.items()


def test_a_model_of_masam(tmp_path):
    model = random_model()
    model.card = ModelCard(PLAN, None, {"steps": 7}, "MIT")
    save(tmp_path / "model.safetensors", model)
    facts = identify(tmp_path / "model.safetensors")
    expected = {
        "kind": "masam model", "size": "custom", "num_classes": 2, "classes": LABELS, "window": 3, "image_size": 32,
        "fact_rank": 3, "adapter_channels": 6, "training": {"steps": 7}, "licence": "MIT", "base": None,
        "encoder": "in the file", "format_version": 3,
    }  # fmt: skip
    assert expected.items() <= facts.items()
    assert facts["values"] == sum(tensor.numel() for tensor in model.state_dict().values())
    assert facts["versions"]["torch"] == torch.__version__
    json.dumps(facts)


@pytest.mark.parametrize(
    ("name", "version", "base"),
    [
        ("model_v1.safetensors", 1, {"size": "custom", "file": None}),
        ("model_v2.safetensors", 2, {"size": "custom", "file": "sam_tiny_256.pth"}),
        ("model_v3.safetensors", 3, {"size": "custom", "file": "sam_tiny_256.pth"}),
        ("model_v3_whole.safetensors", 3, None),
        ("model_v1_whole.safetensors", 1, None),
        ("model_v2_whole.safetensors", 2, None),
    ],
)
def test_every_version_of_our_format(name, version, base):
    facts = identify(GOLDEN / name)
    assert (facts["kind"], facts["format_version"]) == ("masam model", version)
    assert facts["versions"]["masam"] == "0.1.0"
    assert facts["base"] is None if base is None else base.items() <= facts["base"].items()


def test_what_differs_from_the_papers_model_is_shown(tmp_path):
    names = ("increments", "fact_blocks", "adapter_places", "adapter_depth_kernel", "adapter_dilation", "decoder")
    assert not set(names) & set(identify(GOLDEN / "model_v2.safetensors"))
    facts = identify(GOLDEN / "model_v3_whole.safetensors")
    assert {name: facts[name] for name in names} == {name: getattr(VARIED, name) for name in names}
    assert "adapter_blocks" not in facts
    assert facts["class_groups"] == ((0, 2), (1,))
    json.dumps(facts)


def test_a_run_folder_tells_of_run_and_model(tmp_path):
    with pytest.raises(InputError, match=r"this folder contains neither model.safetensors nor last/state.json$"):
        identify(tmp_path)
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "state.json").write_text(json.dumps({"step": 12, "best_dice": 0.5}))
    assert identify(tmp_path) == {"kind": "masam run folder", "steps_done": 12, "best_dice": 0.5}
    save(tmp_path / "model.safetensors", random_model())
    facts = identify(tmp_path)
    assert (facts["kind"], facts["steps_done"], facts["num_classes"]) == ("masam run folder", 12, 2)
    (tmp_path / "last" / "state.json").write_text("[]")
    with pytest.raises(ModelError, match=r"state.json: the state file is damaged$"):
        identify(tmp_path)


def test_other_tensors_are_said_to_be_that(tmp_path):
    save_file({"b": torch.ones(2), "a": torch.ones(1, dtype=torch.int64)}, tmp_path / "x.safetensors")
    facts = identify(tmp_path / "x.safetensors")
    assert (facts["kind"], facts["first_names"]) == ("tensors of an unknown model", ["a", "b"])
    assert (facts["tensors"], facts["values"], facts["types"]) == (2, 3, ["float32", "int64"])


def test_damage_and_code_are_refused(tmp_path):
    model = tmp_path / "model.safetensors"
    save(model, random_model())
    damaged = bytearray(model.read_bytes())
    damaged[-1] ^= 1
    model.write_bytes(damaged)
    with pytest.raises(ModelError, match="the file is damaged"):
        identify(model)
    torch.save({"bomb": Bomb(tmp_path / "canary")}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="could run code"):
        identify(tmp_path / "evil.pth")
    assert not (tmp_path / "canary").exists()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"expected a .safetensors or .pth file, got .txt$"):
        identify(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("name", "kind"), [("torch", "torch.export program"), ("onnx", "ONNX model"), ("bundle", "MONAI bundle")]
)
def test_exports(exports, name, kind):
    path = getattr(exports, name)
    facts = identify(path)
    assert (facts["kind"], facts["size"], facts["num_classes"]) == (kind, "custom", 2)
    assert (facts["image_size"], facts["window"], facts["adapter_channels"]) == (32, 3, 6)
    file = path if name != "bundle" else path / "models/model.pt"
    hashes = facts if name != "bundle" else facts["weights"]
    assert hashes["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    json.dumps(facts)


def test_exports_of_others_and_damaged_ones(tmp_path):
    program = torch.export.export(torch.nn.ReLU(), (torch.ones(2),))
    torch.export.save(program, tmp_path / "other.pt2")
    assert identify(tmp_path / "other.pt2")["kind"] == "torch.export program, not from masam"
    for suffix, kind in ((".pt2", "torch.export program"), (".onnx", "ONNX model")):
        path = tmp_path / f"junk{suffix}"
        path.write_bytes(b"\xff" * 100)
        with pytest.raises(ModelError, match=rf"junk{suffix}: expected a {kind}, cannot read it"):
            identify(path)
    (tmp_path / "configs").mkdir()
    for name in ("metadata.json", "inference.json"):
        (tmp_path / "configs" / name).write_text("[]")
    with pytest.raises(ModelError, match=r"metadata.json: the bundle's description is damaged$"):
        identify(tmp_path)
    for name in ("metadata.json", "inference.json"):
        (tmp_path / "configs" / name).write_text('{"name": "spleen"}')
    assert identify(tmp_path)["name"] == "spleen"

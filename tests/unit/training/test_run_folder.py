import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from tiny import LABELS, SPEC, random_model, random_windows

from masam.errors import ConfigError, InputError, ModelError
from masam.preprocess.intensity import Window
from masam.preprocess.plan import Plan
from masam.runs.metrics import read_rows
from masam.training.checkpoint import (
    changed_names,
    load_checkpoint,
    optimizer_moments,
    save_checkpoint,
    trained_weights,
)
from masam.training.config import TrainConfig
from masam.training.loop import StepReport
from masam.training.run_folder import RunFolder
from masam.training.session import RunState

PLAN = Plan(
    name="tiny", modality="CT", slice_axis="axial", intensity=Window(low=-100, high=200), window=3, image_size=32,
    labels=LABELS,
)  # fmt: skip
STATE = RunState(
    4, 0.5, {}, "key", [StepReport(3, 0.1, 0.2, 0.3, 1e-3, 0.5), StepReport(4, 0.1, 0.25, 0.35, 1e-3, 0.5)]
)


def save(folder, model, optimizer, state):
    save_checkpoint(folder.root, trained_weights(model), optimizer_moments(model, optimizer), asdict(state))


def restore(folder, model, optimizer):
    unchanged = set(model.state_dict()) - changed_names(model)
    return load_checkpoint(folder.root, model, optimizer, RunState, StepReport, unchanged)


def trained(seed, steps=2, everything=False):
    model = random_model(seed=seed).train()
    if everything:
        model.train_everything()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, fused=True)
    for _ in range(steps):
        optimizer.zero_grad()
        model(random_windows()).logits.square().mean().backward()
        optimizer.step()
    return model, optimizer


def same_moments(model, optimizer, other_model, other_optimizer):
    for (name, p), (_, q) in zip(model.named_parameters(), other_model.named_parameters(), strict=True):
        one, other = optimizer.state.get(p, {}), other_optimizer.state.get(q, {})
        assert set(one) == set(other), name
        for key, value in one.items():
            assert torch.equal(value, other[key]), (name, key)
            assert value.dtype == other[key].dtype


@pytest.mark.parametrize("everything", [False, True])
def test_the_state_is_restored_bit_for_bit(tmp_path, everything):
    folder = RunFolder(tmp_path)
    model, optimizer = trained(1, everything=everything)
    save(folder, model, optimizer, STATE)
    assert sorted(p.name for p in folder.last.iterdir()) == [
        "optimizer.safetensors",
        "state.json",
        "weights.safetensors",
    ]
    target, target_optimizer = trained(2, steps=0, everything=everything)
    frozen = {n: t.clone() for n, t in target.state_dict().items() if n not in target.trained_names()}
    assert restore(folder, target, target_optimizer) == STATE
    for name, tensor in target.state_dict().items():
        expected = frozen[name] if name in frozen and not everything else model.state_dict()[name]
        assert torch.equal(tensor, expected), name
    same_moments(model, optimizer, target, target_optimizer)


def test_training_continues_bit_for_bit(tmp_path):
    folder = RunFolder(tmp_path)
    model, optimizer = trained(1)
    save(folder, model, optimizer, STATE)
    other, other_optimizer = trained(1, steps=0)
    restore(folder, other, other_optimizer)
    for net, opt in ((model, optimizer), (other, other_optimizer)):
        opt.zero_grad()
        net.eval()(random_windows(seed=9)).logits.square().mean().backward()
        opt.step()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    same_moments(model, optimizer, other, other_optimizer)


@pytest.mark.parametrize("name", ["last.new", "last.old"])
def test_a_run_killed_between_two_renames_has_its_state(tmp_path, name):
    folder = RunFolder(tmp_path)
    model, optimizer = trained(1)
    save(folder, model, optimizer, STATE)
    folder.last.rename(tmp_path / name)
    assert restore(folder, *trained(2, steps=0)) == STATE
    save(folder, model, optimizer, replace(STATE, step=5))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last"]
    assert restore(folder, *trained(2, steps=0)).step == 5


def test_an_incomplete_state_is_ignored(tmp_path):
    folder = RunFolder(tmp_path)
    save(folder, *trained(1), STATE)
    shutil.copytree(folder.last, tmp_path / "last.new")
    (tmp_path / "last.new" / "state.json").unlink()
    assert restore(folder, *trained(2, steps=0)) == STATE
    shutil.rmtree(folder.last)
    with pytest.raises(InputError, match=r"last: found no saved state to resume from; start a new run$"):
        restore(folder, *trained(2, steps=0))


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors"])
def test_a_damaged_state_is_refused(tmp_path, name):
    folder = RunFolder(tmp_path)
    save(folder, *trained(1), STATE)
    path = folder.last / name
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(ModelError, match=f"{name}: .*the file is damaged"):
        restore(folder, *trained(2, steps=0))
    path.write_bytes(whole[:-5])
    with pytest.raises(ModelError, match=f"{name}: cannot be read as a safetensors file"):
        restore(folder, *trained(2, steps=0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"state.json: the state file is damaged$"),
        ("[]", r"state.json: the state file is damaged$"),
        ('{"version": 1}', r"state.json: the state file is damaged$"),
        ('{"version": 99}', r"expected state version 1, got 99$"),
    ],
)
def test_a_damaged_state_file_is_refused(tmp_path, text, message):
    folder = RunFolder(tmp_path)
    save(folder, *trained(1), STATE)
    (folder.last / "state.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        restore(folder, *trained(2, steps=0))


def test_the_state_of_another_model_is_refused(tmp_path):
    folder = RunFolder(tmp_path)
    save(folder, *trained(1), STATE)
    other = random_model(replace(SPEC, fact_rank=4))
    optimizer = torch.optim.AdamW([p for p in other.parameters() if p.requires_grad])
    message = (
        r"last: 4 tensors do not .*, so the file belongs to another model: image_encoder.fact.sigma_q has \(2, 3, 3\)"
    )
    with pytest.raises(ModelError, match=message):
        restore(folder, other, optimizer)


def test_optimizer_moments_of_another_model_are_refused(tmp_path):
    folder = RunFolder(tmp_path)
    save(folder, *trained(1), STATE)
    other = RunFolder(tmp_path / "other")
    spec = replace(SPEC, adapter_channels=8)
    model = random_model(spec).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model(random_windows()).logits.mean().backward()
    optimizer.step()
    save(other, model, optimizer, STATE)
    shutil.copy(other.last / "optimizer.safetensors", folder.last)
    with pytest.raises(ModelError, match=r"last: the optimizer's exp_avg.*adapter.* does not belong to this model$"):
        restore(folder, *trained(2, steps=0))


def test_settings_are_kept(tmp_path):
    folder = RunFolder(tmp_path / "run")
    config = TrainConfig(epochs=3, learning_rate=1e-4)
    folder.create(plan=PLAN, config=config)
    assert folder.read_settings() == (PLAN, config)
    assert sorted(p.name for p in folder.root.iterdir()) == ["config.yaml", "plan.yaml"]
    # It left nothing to go on from: the folder may be taken again, and old rows do not stay.
    folder.append_metrics({"step": 1, "loss": 2.0})
    folder.create(plan=PLAN, config=config)
    assert not folder.metrics.exists()
    save(folder, *trained(2, steps=0), STATE)
    for refuse in (lambda: folder.create(plan=PLAN, config=config), folder.require_free):
        with pytest.raises(InputError, match=r"run: the folder holds a run already; use --resume, or another --out$"):
            refuse()


def test_a_folder_without_a_run_has_no_settings(tmp_path):
    with pytest.raises(ConfigError, match=r"plan.yaml: settings file not found"):
        RunFolder(tmp_path).read_settings()


def test_metrics_gain_rows_and_columns(tmp_path):
    folder = RunFolder(tmp_path)
    folder.drop_metrics_after(0)
    assert not folder.metrics.exists()
    folder.append_metrics({"step": 1, "loss": 0.5})
    folder.append_metrics({"step": 2, "loss": 0.25, "validation_dice": 0.1})
    folder.append_metrics({"step": 3, "loss": float("nan")})
    assert folder.metrics.read_text() == "step,loss,validation_dice\n1,0.5,\n2,0.25,0.1\n3,nan,\n"
    folder.drop_metrics_after(1)
    assert [row["step"] for row in read_rows(folder.metrics)] == ["1"]


def test_state_json_is_plain(tmp_path):
    folder = RunFolder(tmp_path)
    save(folder, *trained(1), STATE)
    facts = json.loads((folder.last / "state.json").read_text())
    assert (facts["version"], facts["step"], facts["best_dice"], facts["dataset"]) == (1, 4, 0.5, "key")
    assert facts["pending"][1] == [4, 0.1, 0.25, 0.35, 0.001, 0.5]

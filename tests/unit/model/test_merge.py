from dataclasses import replace

import pytest
import torch
from tiny import SPEC, random_model, random_windows, randomise

from masam.export.identify import identify
from masam.model.masam import merged
from masam.model.parameters import count_parameters
from masam.weights.card import Base, ModelCard
from masam.weights.model_file import load, save

BASE = Base("custom", "0" * 64)


def outputs(model, b=2, s=3, dtype=torch.float32):
    with torch.no_grad():
        return model(random_windows(b, s, dtype=dtype))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_outputs_are_those_of_the_unmerged_model(dtype, tolerance):
    model = random_model(replace(SPEC, fact_scale=1.7))
    randomise(model.image_encoder.fact, seed=1, scale=1.0)
    model.to(dtype)
    folded = merged(model)
    for b, s in ((2, 3), (1, 5)):
        for got, expected in zip(outputs(folded, b, s, dtype), outputs(model, b, s, dtype), strict=True):
            assert got.dtype == dtype
            assert (got - expected).abs().max() <= tolerance * expected.abs().max()
    expected, unadapted = (outputs(one, dtype=dtype).logits for one in (model, without_increments(model)))
    assert (unadapted - expected).abs().max() > 1e-3 * expected.abs().max(), "the increments change nothing"


def without_increments(model):
    """The model without its increments."""
    plain = merged(model)
    plain.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if ".fact." not in name})
    return plain


def test_the_merged_model_is_independent():
    model = random_model().train()
    model.card = ModelCard(base=BASE, training={"steps": 3})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.random.get_rng_state()
    folded = merged(model)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert folded.image_encoder.fact is None
    assert folded.spec == replace(SPEC, fact_rank=0)
    assert folded.card == ModelCard(training={"steps": 3})
    assert not folded.training
    with torch.no_grad():
        for tensor in folded.state_dict().values():
            tensor.zero_()
    assert model.training
    assert model.card.base == BASE
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_only_query_and_value_weights_change():
    model = random_model()
    ours, theirs = model.state_dict(), merged(model).state_dict()
    assert set(ours) - set(theirs) == {f"image_encoder.fact.{name}" for name in ("u", "v", "sigma_q", "sigma_v")}
    changed = {name for name in theirs if not torch.equal(ours[name], theirs[name])}
    assert changed == {f"image_encoder.blocks.{layer}.attn.qkv.weight" for layer in range(SPEC.sam.depth)}


def test_a_model_without_increments_is_copied():
    model = merged(random_model())
    again = merged(model)
    assert model.card is None
    for got, expected in zip(outputs(again), outputs(model), strict=True):
        assert torch.equal(got, expected)


def test_a_merged_model_is_saved_without_a_base(tmp_path):
    model = random_model()
    model.card = ModelCard(base=BASE)
    path = tmp_path / "model.safetensors"
    save(path, merged(model))
    loaded = load(path)
    assert loaded.spec.fact_rank == 0
    for got, expected in zip(outputs(loaded), outputs(merged(model)), strict=True):
        assert torch.equal(got, expected)
    facts = identify(path)
    assert (facts["fact_rank"], facts["encoder"]) == (0, "in the file")


def test_the_parameters_of_rank_zero():
    with_fact, without = count_parameters(SPEC), count_parameters(replace(SPEC, fact_rank=0))
    assert without.fact == 0
    assert without.total == with_fact.total - with_fact.fact
    assert without.trainable == with_fact.trainable - with_fact.fact
    assert without.total == sum(p.numel() for p in merged(random_model()).parameters())

import math

import pytest
import torch
from tiny import SAM, random_windows, randomise

from masam.model.fact import FacT
from masam.model.image_encoder import ImageEncoder

LAYERS = range(SAM.depth)


def encoder(dtype, seed=0):
    return randomise(ImageEncoder(SAM, 32), seed).to(dtype).eval()


def images(dtype):
    return random_windows(dtype=dtype).flatten(0, 1)


def merge(model, fact):
    """Merge the increments into the projections and remove FacT."""
    for layer, block in enumerate(model.blocks):
        with torch.no_grad():
            block.attn.qkv.weight.copy_(fact.merged(layer, block.attn.qkv.weight))
    model.fact = None
    return model


def test_it_is_initially_the_identity_bit_for_bit():
    torch.manual_seed(0)
    plain, adapted = encoder(torch.float32), encoder(torch.float32)
    adapted.fact = FacT(SAM.embed_dim, tuple(LAYERS), rank=4)
    assert not adapted.fact.v.any()
    for mode in (True, False):  # dropout of zeros is zero
        adapted.train(mode)
        assert torch.equal(plain(images(torch.float32)), adapted(images(torch.float32)))


def test_the_other_factors_are_initialised_as_default_linear_layers():
    torch.manual_seed(0)
    fact = FacT(400, tuple(range(8)), rank=16)
    for tensor, fan_in in ((fact.u, 400), (fact.sigma_q, 16), (fact.sigma_v, 16)):
        bound = 1 / math.sqrt(fan_in)
        assert tensor.abs().max() <= bound
        assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_merged_equals_unmerged(dtype, tolerance):
    adapted, merged = encoder(dtype), encoder(dtype)
    adapted.fact = randomise(FacT(SAM.embed_dim, tuple(LAYERS), rank=4, scale=0.7), seed=1, scale=1.0).to(dtype).eval()
    with torch.no_grad():
        before = merged(images(dtype))
        expected = adapted(images(dtype))
        got = merge(merged, adapted.fact)(images(dtype))
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()
    assert (before - expected).abs().max() > 1e-2, "the increments change nothing"


@pytest.mark.parametrize("layer", LAYERS)
def test_the_increment_is_scale_u_sigma_v_on_queries_and_values_alone(layer):
    fact = randomise(FacT(8, tuple(LAYERS), rank=3, scale=1.5)).double()
    weight = torch.randn(24, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    query, key, value = (fact.merged(layer, weight) - weight).chunk(3)
    assert torch.equal(fact.merged(layer, weight)[8:16], weight[8:16])
    for got, sigma in ((query, fact.sigma_q[layer]), (value, fact.sigma_v[layer])):
        expected = 1.5 * torch.einsum("er,rq,qi->ei", fact.v, sigma, fact.u)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-14)
    assert not key.any()


def test_all_blocks_share_u_and_v():
    model = encoder(torch.float32)
    plain = set(model.state_dict())
    model.fact = FacT(SAM.embed_dim, tuple(LAYERS), rank=4)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in plain}
    assert shapes == {
        "fact.u": (4, SAM.embed_dim),
        "fact.v": (SAM.embed_dim, 4),
        "fact.sigma_q": (SAM.depth, 4, 4),
        "fact.sigma_v": (SAM.depth, 4, 4),
    }


def test_scale_is_a_factor():
    x = torch.randn(2, 3, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fact = randomise(FacT(8, (0, 1), rank=3)).double().eval()
    once = fact(x, 1)
    for scale in (0.0, 1.0, 3.0, -0.5):
        fact.scale = scale
        for got, one in zip(fact(x, 1), once, strict=True):
            torch.testing.assert_close(got, scale * one, rtol=0, atol=1e-14)


def test_dropout_acts_in_training_alone_and_apart_for_queries_and_values():
    torch.manual_seed(0)
    fact = randomise(FacT(8, (0,), rank=4, dropout=0.5))
    with torch.no_grad():
        fact.sigma_v.copy_(fact.sigma_q)
    x = torch.randn(1, 4, 4, 8)
    query, value = fact(x, 0)
    assert not torch.equal(query, value)
    fact.eval()
    query, value = fact(x, 0)
    assert torch.equal(query, value)
    assert torch.equal(query, fact(x, 0)[0])

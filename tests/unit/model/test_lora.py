import math

import pytest
import torch
from tiny import SAM, random_windows, randomise

from masam.model.fact import FacT, LoRA
from masam.model.image_encoder import ImageEncoder

LAYERS = tuple(range(SAM.depth))


def encoder(dtype=torch.float32, seed=0):
    return randomise(ImageEncoder(SAM, 32), seed).to(dtype).eval()


def images(dtype=torch.float32):
    return random_windows(dtype=dtype).flatten(0, 1)


def test_it_is_initially_the_identity_bit_for_bit():
    torch.manual_seed(0)
    plain, adapted = encoder(), encoder()
    adapted.lora = LoRA(SAM.embed_dim, LAYERS, rank=4)
    assert not adapted.lora.b_q.any()
    assert not adapted.lora.b_v.any()
    for mode in (True, False):
        adapted.train(mode)
        assert torch.equal(plain(images()), adapted(images()))


def test_a_is_initialised_as_a_default_linear_layer():
    torch.manual_seed(0)
    lora = LoRA(400, (0, 1, 2), rank=8)
    for tensor in (lora.a_q, lora.a_v):
        assert tensor.abs().max() <= 1 / 20
        assert tensor.std().item() == pytest.approx(1 / 20 / math.sqrt(3), rel=0.05)
    assert not torch.equal(lora.a_q, lora.a_v)


def test_each_block_has_separate_factors():
    lora, fact = LoRA(16, (1, 3, 5), rank=4), FacT(16, (1, 3, 5), rank=4)
    shapes = {name: tuple(tensor.shape) for name, tensor in lora.state_dict().items()}
    assert shapes == {"a_q": (3, 4, 16), "b_q": (3, 16, 4), "a_v": (3, 4, 16), "b_v": (3, 16, 4)}
    assert [sum(p.numel() for p in one.parameters()) for one in (lora, fact)] == [3 * 4 * 4 * 16, 2 * 64 + 6 * 16]


@pytest.mark.parametrize("kind", [LoRA, FacT])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_merged_equals_unmerged_in_the_blocks_that_have_increments(kind, dtype, tolerance):
    adapted, merged = encoder(dtype), encoder(dtype)
    increments = randomise(kind(SAM.embed_dim, (1,), rank=4, scale=0.7), seed=1, scale=1.0).to(dtype).eval()
    setattr(adapted, kind.__name__.lower(), increments)
    with torch.no_grad():
        before = merged(images(dtype))
        expected = adapted(images(dtype))
        weight = merged.blocks[1].attn.qkv.weight
        weight.copy_(adapted.increments.merged(1, weight))
        got = merged(images(dtype))
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()
    assert (before - expected).abs().max() > 1e-2, "the increments change nothing"


def test_the_increment_is_scale_b_a_on_queries_and_values_alone():
    lora = randomise(LoRA(8, (2, 4), rank=3, scale=1.5)).double()
    weight = torch.randn(24, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    query, key, value = (lora.merged(4, weight) - weight).chunk(3)
    for got, a, b in ((query, lora.a_q[1], lora.b_q[1]), (value, lora.a_v[1], lora.b_v[1])):
        torch.testing.assert_close(got, 1.5 * b @ a, rtol=0, atol=1e-14)
    assert not key.any()


def test_dropout_acts_in_training_alone_and_apart_for_queries_and_values():
    torch.manual_seed(0)
    lora = randomise(LoRA(8, (0,), rank=4, dropout=0.5))
    with torch.no_grad():
        lora.a_v.copy_(lora.a_q)
        lora.b_v.copy_(lora.b_q)
    x = torch.randn(1, 4, 4, 8)
    query, value = lora(x, 0)
    assert not torch.equal(query, value)
    lora.eval()
    query, value = lora(x, 0)
    assert torch.equal(query, value)

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny import SAM, SPEC, random_model, random_windows, randomise

from masam.model.fact import FacT
from masam.model.image_encoder import Attention, Block, ImageEncoder, LayerNorm2d, join_windows, split_windows


def relative_positions(side, table):
    """R[i, j] = table[i - j + side - 1], one entry at a time."""
    return torch.stack([torch.stack([table[i - j + side - 1] for j in range(side)]) for i in range(side)])


def plain_attention(attn, x, increment=None):
    """Attention with decomposed relative positions as published: pad with zeros, split, N x N scores."""
    n, h, w, dim = x.shape
    side, heads = attn.side, attn.num_heads
    rows, columns = -(-h // side), -(-w // side)
    padded = F.pad(x, (0, 0, 0, columns * side - w, 0, rows * side - h))
    query, key, value = F.linear(padded, attn.qkv.weight, attn.qkv.bias).chunk(3, dim=-1)
    if increment is not None:
        more_query, more_value = increment(padded)
        query, value = query + more_query, value + more_value
    out = torch.zeros_like(padded)
    table_h, table_w = relative_positions(side, attn.rel_pos_h), relative_positions(side, attn.rel_pos_w)
    for row in range(rows):
        for column in range(columns):
            window = (slice(None), slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side))
            q, k, v = (t[window].reshape(n, side * side, heads, -1).transpose(1, 2) for t in (query, key, value))
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
            grid = q.reshape(n, heads, side, side, -1)
            along_h = torch.einsum("nmhwc,hkc->nmhwk", grid, table_h)
            along_w = torch.einsum("nmhwc,wkc->nmhwk", grid, table_w)
            scores = scores.reshape(n, heads, side, side, side, side)
            scores = scores + along_h[..., :, None] + along_w[..., None, :]
            attended = scores.reshape(n, heads, side * side, side * side).softmax(dim=-1) @ v
            out[window] = attended.transpose(1, 2).reshape(n, side, side, dim)
    return F.linear(out[:, :h, :w], attn.proj.weight, attn.proj.bias)


def with_gradients(function, leaves, weight):
    for leaf in leaves:
        leaf.grad = None
    out = function()
    (out * weight).sum().backward()
    return out.detach(), [leaf.grad.clone() for leaf in leaves]


GRIDS = [(3, 3), (6, 6), (5, 5), (4, 7), (2, 2), (1, 4)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("adapted", [False, True])
def test_it_is_plain_attention_with_explicit_padding(grid, adapted):
    attn = randomise(Attention(8, 2, side=3), scale=0.5).double()
    fact = randomise(FacT(8, (0,), rank=2), seed=1).double().eval()
    increment = (lambda x: fact(x, 0)) if adapted else None
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, *grid, 8, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(2, *grid, 8, dtype=torch.float64, generator=generator)
    leaves = [x, *attn.parameters(), *(fact.parameters() if adapted else ())]
    got, gradients = with_gradients(lambda: attn(x, increment), leaves, weight)
    expected, expected_gradients = with_gradients(lambda: plain_attention(attn, x, increment), leaves, weight)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-10)
    assert all(gradient.any() for gradient in gradients)


def test_padding_takes_part_in_the_softmax_as_in_the_reference():
    attn = randomise(Attention(8, 2, side=3)).double()
    x = torch.randn(1, 2, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = attn(x)
        attn.qkv.bias[16:] += 1  # values of the padding; those of real tokens shift too, so outputs move by proj(1)
        shifted = attn(x)
        ones = F.linear(torch.ones(8, dtype=torch.float64), attn.proj.weight)
    torch.testing.assert_close(shifted - before, ones.expand_as(before), rtol=0, atol=1e-12)
    with torch.no_grad():
        alone = Attention(8, 2, side=2).double()
        alone.load_state_dict(
            {**attn.state_dict(), "rel_pos_h": attn.rel_pos_h[1:-1], "rel_pos_w": attn.rel_pos_w[1:-1]}
        )
        assert (alone(x) - shifted).abs().max() > 1e-3, "nine keys and four give the same"


@pytest.mark.parametrize("side", [1, 2, 3])
def test_windows_are_split_and_joined(side):
    x = torch.arange(2 * 6 * 12 * 3, dtype=torch.float32).reshape(2, 6, 12, 3)
    windows = split_windows(x, side)
    assert windows.shape == (2 * 6 * 12 // side**2, side, side, 3)
    assert torch.equal(windows[1], x[0, :side, side : 2 * side])
    assert torch.equal(join_windows(windows, side, 6, 12), x)


def test_layer_norm_over_channels():
    norm = randomise(LayerNorm2d(5)).double()
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.layer_norm(x.permute(0, 2, 3, 1), (5,), norm.weight, norm.bias, eps=1e-6).permute(0, 3, 1, 2)
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-12)


def test_a_block_without_adapters_is_sams():
    block = randomise(Block(8, 2, 12, side=3)).double()
    x = torch.randn(2, 4, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens = x + plain_attention(block.attn, F.layer_norm(x, (8,), block.norm1.weight, block.norm1.bias, eps=1e-6))
    normed = F.layer_norm(tokens, (8,), block.norm2.weight, block.norm2.bias, eps=1e-6)
    hidden = F.gelu(F.linear(normed, block.mlp.lin1.weight, block.mlp.lin1.bias))
    expected = tokens + F.linear(hidden, block.mlp.lin2.weight, block.mlp.lin2.bias)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("image_size", [32, 48, 80])
def test_a_batch_is_its_images_one_by_one(image_size):
    encoder = randomise(ImageEncoder(SAM, image_size)).double().eval()
    images = random_windows(3, 1, image_size, dtype=torch.float64).flatten(0, 1)
    with torch.no_grad():
        together = encoder(images)
        alone = torch.cat([encoder(image[None]) for image in images])
    assert together.shape == (3, SAM.out_channels, image_size // 16, image_size // 16)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_global_blocks_attend_to_the_full_grid_and_others_to_their_window():
    encoder = ImageEncoder(SAM, 80)
    assert [block.attn.side for block in encoder.blocks] == [3, 5]


@pytest.mark.parametrize("increments", ["fact", "lora"])
@pytest.mark.parametrize("frozen", [True, False])
def test_checkpointing_changes_no_bit_of_output_and_gradients(increments, frozen):
    results = []
    for checkpointing in (False, True):
        model = random_model(replace(SPEC, increments=increments, fact_dropout=0.5)).train()
        if not frozen:
            model.train_everything()
        model.image_encoder.checkpointing = checkpointing
        torch.manual_seed(7)  # dropout is drawn again for the gradients
        logits = model(random_windows()).logits
        logits.square().mean().backward()
        results.append((logits, {name: p.grad for name, p in model.named_parameters()}, torch.random.get_rng_state()))
    (logits, gradients, state), (other, others, after) = results
    assert torch.equal(logits, other)
    for name, gradient in gradients.items():
        assert (gradient is None) == (others[name] is None), name
        assert gradient is None or torch.equal(gradient, others[name]), name
    assert torch.equal(state, after)


def test_checkpointing_keeps_less_of_the_forward_pass():
    def kept(checkpointing):
        model = random_model().train()
        model.image_encoder.checkpointing = checkpointing
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            model.encode(random_windows())
        return sum(sizes)

    assert kept(True) < 0.5 * kept(False)

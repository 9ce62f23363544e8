from dataclasses import replace

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SPEC, random_model, randomise

from masam.model.adapter3d import Adapter3D, DepthConv
from masam.model.fact import FacT
from masam.model.image_encoder import Attention, join_windows, split_windows
from masam.model.masam import merged

MODEL = random_model(scale=0.5).double()


def draw(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(
    batch=st.integers(1, 3), slices=st.integers(1, 8), tokens=st.integers(1, 5), channels=st.integers(1, 4),
    kernel=st.sampled_from([1, 3, 5]), seed=st.integers(0, 1000),
)  # fmt: skip
@settings(deadline=None)
def test_depth_convolution_is_a_conv3d_with_same_padding(batch, slices, tokens, channels, kernel, seed):
    module = randomise(DepthConv(channels, kernel), seed, scale=1.0).double()
    x = draw(seed, batch, slices, tokens, channels).requires_grad_()
    weight = draw(seed + 1, batch, slices, tokens, channels)
    got = module(x)
    as_volume = x.permute(0, 3, 1, 2)[..., None]  # B c S L 1
    expected = F.conv3d(as_volume, module.weight, module.bias, padding="same")[..., 0].permute(0, 2, 3, 1)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    leaves = (x, module.weight, module.bias)
    for ours, theirs in zip(
        torch.autograd.grad((got * weight).sum(), leaves),
        torch.autograd.grad((expected * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@given(windows=st.integers(2, 4), slices=st.integers(1, 6), seed=st.integers(0, 1000), data=st.data())
@settings(deadline=None)
def test_an_adapter_never_mixes_windows(windows, slices, seed, data):
    changed = data.draw(st.integers(0, windows - 1))
    adapter = randomise(Adapter3D(6, 3), seed)
    x = draw(seed, windows * slices, 1, 2, 6).float()
    other = x.clone()
    other[changed * slices : (changed + 1) * slices] += 1
    before, after = (adapter(t, slices).unflatten(0, (windows, slices)) for t in (x, other))
    kept = [window for window in range(windows) if window != changed]
    assert torch.equal(before[kept], after[kept])
    assert not torch.equal(before[changed], after[changed])


@given(n=st.integers(1, 3), rows=st.integers(1, 4), columns=st.integers(1, 4), side=st.integers(1, 4))
@settings(deadline=None)
def test_windows_join_to_what_was_cut(n, rows, columns, side):
    x = draw(0, n, rows * side, columns * side, 2)
    assert torch.equal(join_windows(split_windows(x, side), side, rows * side, columns * side), x)


@given(h=st.integers(1, 9), w=st.integers(1, 9), side=st.integers(1, 5), seed=st.integers(0, 100))
@settings(deadline=None, max_examples=50)
def test_a_window_attends_to_itself_alone(h, w, side, seed):
    attn = randomise(Attention(4, 2, side), seed, scale=0.5).double()
    x = draw(seed, 1, h, w, 4)
    changed = x.clone()
    changed[:, :side, :side] += 1
    with torch.no_grad():
        differs = (attn(x) - attn(changed)).abs().amax(dim=-1)[0] > 1e-9
    inside = torch.zeros(h, w, dtype=torch.bool)
    inside[:side, :side] = True
    assert torch.equal(differs & ~inside, torch.zeros_like(differs))


@given(rank=st.integers(1, 5), scale=st.floats(-2, 2), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_a_merged_projection_is_the_projection_and_its_increment(rank, scale, seed):
    fact = randomise(FacT(6, (0, 1), rank, scale), seed, scale=1.0).double().eval()
    weight, x = draw(seed, 18, 6), draw(seed + 1, 1, 2, 3, 6)
    query, value = fact(x, 1)
    expected = F.linear(x, weight) + torch.cat([query, torch.zeros_like(query), value], dim=-1)
    torch.testing.assert_close(F.linear(x, fact.merged(1, weight)), expected, rtol=0, atol=1e-11)


@given(b=st.integers(1, 3), s=st.integers(1, 4), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_a_batch_is_its_windows_one_by_one(b, s, seed):
    windows = draw(seed, b, s, 3, 32, 32)
    with torch.no_grad():
        together = MODEL(windows).logits
        alone = torch.cat([MODEL(windows[i : i + 1]).logits for i in range(b)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-11)


@given(shift=st.integers(1, 3), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_the_order_of_windows_does_not_matter(shift, seed):
    windows = draw(seed, 4, 2, 3, 32, 32)
    with torch.no_grad():
        expected = MODEL(windows).logits.roll(shift, dims=0)
        got = MODEL(windows.roll(shift, dims=0)).logits
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)


@given(num_classes=st.integers(1, 6), grid=st.integers(1, 4), s=st.integers(1, 3))
@settings(deadline=None, max_examples=15)
def test_logits_have_the_inputs_size(num_classes, grid, s):
    model = random_model(replace(SPEC, num_classes=num_classes, image_size=16 * grid))
    with torch.no_grad():
        out = model(torch.zeros(1, s, 3, 16 * grid, 16 * grid))
    assert out.logits.shape == (1, s, num_classes + 1, 16 * grid, 16 * grid)
    assert out.iou.shape == (1, s, num_classes + 1)


@given(
    rank=st.integers(0, 5), scale=st.floats(-2, 2), depth=st.integers(1, 3), grid=st.integers(1, 3),
    s=st.integers(1, 4), seed=st.integers(0, 1000),
)  # fmt: skip
@settings(deadline=None, max_examples=20)
def test_a_merged_model_is_the_model(rank, scale, depth, grid, s, seed):
    sam = replace(SPEC.sam, depth=depth)
    # Small weights but for FacT: larger ones make of float32's own rounding more than the tolerance, merged or not.
    spec = replace(SPEC, sam=sam, fact_rank=rank, fact_scale=scale, image_size=16 * grid)
    model = random_model(spec, seed, scale=0.1)
    if rank:
        randomise(model.image_encoder.fact, seed, scale=1.0)
    windows = draw(seed, 2, s, 3, 16 * grid, 16 * grid)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-11)):
        with torch.no_grad():
            expected = model.to(dtype)(windows.to(dtype)).logits
            got = merged(model)(windows.to(dtype)).logits
        assert (got - expected).abs().max() <= tolerance * expected.abs().max()

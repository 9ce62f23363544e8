import pytest
import torch
import torch.nn.functional as F
from tiny import SPEC, random_model, random_windows, randomise

from masam.model.adapter3d import Adapter3D, DepthConv


def plain_adapter(adapter, x, slices):
    """Equation 3 of the paper with a Conv3d."""
    n, h, w, dim = x.shape
    narrow = F.linear(F.layer_norm(x, (dim,), adapter.norm.weight, adapter.norm.bias, eps=1e-6), adapter.down.weight)
    volume = narrow.reshape(n // slices, slices, h, w, -1).permute(0, 4, 1, 2, 3)
    mixed = F.gelu(F.conv3d(volume, adapter.conv.weight, adapter.conv.bias, padding="same"))
    return x + F.linear(mixed.permute(0, 2, 3, 4, 1).reshape(n, h, w, -1), adapter.up.weight)


@pytest.mark.parametrize("slices", [1, 2, 3, 5, 6])
def test_it_is_the_papers_equation(slices):
    adapter = randomise(Adapter3D(8, 4)).double()
    x = torch.randn(2 * slices, 3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(adapter(x, slices), plain_adapter(adapter, x, slices), rtol=0, atol=1e-12)


def test_slices_depend_on_their_neighbours_in_the_window_only():
    adapter = randomise(Adapter3D(8, 4))
    x = torch.randn(10, 2, 2, 8, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[5] += 1  # first slice of the second window
    differs = (adapter(x, 5) != adapter(changed, 5)).flatten(1).any(dim=1).tolist()
    assert differs == [False] * 5 + [True, True] + [False] * 3


def test_no_layer_is_initialised_with_zeros_and_linear_layers_have_no_bias():
    torch.manual_seed(0)
    adapter = Adapter3D(8, 4)
    assert {name for name, p in adapter.named_parameters() if not p.any()} == {"norm.bias"}
    assert set(adapter.state_dict()) == {
        "norm.weight", "norm.bias", "down.weight", "conv.weight", "conv.bias", "up.weight"
    }  # fmt: skip
    assert adapter.conv.weight.shape == (4, 4, 3, 1, 1)


@pytest.mark.parametrize("slices", [1, 3, 5])
def test_windows_of_a_batch_never_mix_in_the_whole_model(slices):
    model = random_model(scale=0.5)
    windows = random_windows(2, slices)
    changed = windows.clone()
    changed[1, 0] = 1 - changed[1, 0]
    with torch.no_grad():
        before, after = model(windows), model(changed)
    assert torch.equal(before.logits[0], after.logits[0])
    assert torch.equal(before.iou[0], after.iou[0])
    # Two blocks of two adapters reach four slices.
    assert all(not torch.equal(before.logits[1, s], after.logits[1, s]) for s in range(slices))
    assert before.logits.shape == (2, slices, SPEC.num_channels, 32, 32)


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 2), (5, 1), (7, 3)])
@pytest.mark.parametrize("slices", [1, 2, 6])
def test_any_kernel_and_dilation_is_a_conv3d(kernel, dilation, slices):
    conv = randomise(DepthConv(4, kernel, dilation)).double()
    x = torch.randn(2, slices, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    reach = kernel // 2 * dilation
    volume = x.permute(0, 3, 1, 2)[..., None]  # B c S L 1
    expected = F.conv3d(volume, conv.weight, conv.bias, padding=(reach, 0, 0), dilation=(dilation, 1, 1))
    torch.testing.assert_close(conv(x), expected[..., 0].permute(0, 2, 3, 1), rtol=0, atol=1e-12)


def test_with_a_kernel_of_one_slices_are_independent():
    adapter = randomise(Adapter3D(8, 4, kernel=1))
    x = torch.randn(6, 2, 2, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(adapter(x, 6), adapter(x, 1), rtol=0, atol=1e-6)

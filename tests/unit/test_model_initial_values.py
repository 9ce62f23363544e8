import pytest
import torch
from tiny import SAM

from masam.model.image_encoder import ImageEncoder
from masam.model.initial_values import LINEAR_STD, grid_waves, patch_waves
from masam.model.masam import Masam
from masam.model.sizes import SIZES, MasamSpec

VIT_T = MasamSpec(SIZES["vit_t"], num_classes=2, image_size=128, adapter_channels=8)


def test_patch_waves_are_orthogonal_and_stronger_the_shorter():
    waves = patch_waves(16, 256).flatten(1).double()
    products = waves @ waves.T
    strength = products.diagonal().sqrt()
    torch.testing.assert_close(products, torch.diag(products.diagonal()), rtol=0, atol=1e-4)
    assert (strength.diff() > -1e-6).all()
    torch.testing.assert_close(waves[0], waves[0, :1].expand(256))


def test_all_waves_together_hold_the_whole_patch():
    waves = patch_waves(8, 64).flatten(1)
    patch = torch.rand(64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.linalg.solve(waves, waves @ patch), patch, rtol=0, atol=1e-4)


def test_there_are_no_more_waves_than_pixels():
    assert patch_waves(4, 100).shape == (16, 4, 4)


@pytest.mark.parametrize("dim", [1, 2, 7, 16, 192])
def test_grid_waves_fill_any_width(dim):
    table = grid_waves(3, 5, dim)
    assert table.shape == (3, 5, dim)
    assert table.abs().max() <= 1


def test_no_two_places_share_a_position():
    table = grid_waves(16, 16, 192).flatten(0, 1)
    distances = torch.cdist(table, table) + 9 * torch.eye(256)
    assert distances.min() > 0.5


def test_a_place_keeps_its_position_when_the_grid_is_finer():
    torch.testing.assert_close(grid_waves(16, 16, 24)[::2, ::2], grid_waves(8, 8, 24))


def test_a_patch_of_the_mean_grey_starts_as_its_place_alone():
    torch.manual_seed(0)
    encoder = ImageEncoder(SIZES["vit_t"], 64)
    with torch.no_grad():
        tokens = encoder.patch_embed(torch.full((1, 3, 64, 64), 0.35))
    torch.testing.assert_close(tokens, torch.zeros_like(tokens), rtol=0, atol=1e-3)
    torch.testing.assert_close(encoder.pos_embed[0], 0.5 * grid_waves(4, 4, 192))


def test_linear_layers_of_the_encoder_start_small_and_adapters_as_the_paper_has_them():
    torch.manual_seed(0)
    model = Masam(VIT_T)
    block = model.image_encoder.blocks[0]
    for layer in (block.attn.qkv, block.attn.proj, block.mlp.lin1, block.mlp.lin2):
        assert layer.weight.std().item() == pytest.approx(LINEAR_STD, rel=0.05)
        assert layer.bias.abs().max() == 0
    assert block.adapter_mlp.up.weight.abs().max() > 0.1  # the default bound is 1 / sqrt(8)
    assert block.attn.rel_pos_h.abs().max() == 0


def test_a_narrow_and_a_wide_encoder_start_too():
    for width, patches in ((16, 16), (768, 256)):
        size = SIZES["vit_b"] if width == 768 else SAM
        encoder = ImageEncoder(size, 32)
        weight = encoder.patch_embed.proj.weight
        assert weight.shape[0] == width
        # Beyond the waves of a patch the layer keeps its random start, whose colours differ.
        grey = (weight == weight[:, :1]).all(dim=3).all(dim=2).all(dim=1)
        assert grey.sum() == patches
        assert weight.isfinite().all()

import pytest
import torch
from tiny import SAM

from masam.model.image_encoder import ImageEncoder
from masam.model.initial_values import LINEAR_STD, grid_waves, patch_waves
from masam.model.masam import Masam
from masam.model.sam import Sam
from masam.model.sizes import SIZES
from masam.model.spec import MasamSpec
from masam.model.two_way_transformer import Attention

VIT_T = MasamSpec(SIZES["vit_t"], num_classes=2, image_size=128, adapter_channels=8)


def test_patch_waves_are_orthogonal_and_stronger_the_shorter():
    waves = patch_waves(16, 256).flatten(1).double()
    products = waves @ waves.T
    strength = products.diagonal().sqrt()
    torch.testing.assert_close(products, torch.diag(products.diagonal()), rtol=0, atol=1e-4)
    assert (strength.diff() > -1e-6).all()
    torch.testing.assert_close(waves[0], waves[0, :1].expand(256))


def test_all_waves_together_span_the_patch():
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


def test_grid_positions_are_distinct():
    table = grid_waves(16, 16, 192).flatten(0, 1)
    distances = torch.cdist(table, table) + 9 * torch.eye(256)
    assert distances.min() > 0.5


def test_a_finer_grid_keeps_the_positions():
    torch.testing.assert_close(grid_waves(16, 16, 24)[::2, ::2], grid_waves(8, 8, 24))


def test_a_patch_of_mean_grey_has_only_its_position():
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


def test_narrow_and_wide_encoders_are_initialised():
    for width, patches in ((16, 16), (768, 256)):
        size = SIZES["vit_b"] if width == 768 else SAM
        encoder = ImageEncoder(size, 32)
        weight = encoder.patch_embed.proj.weight
        assert weight.shape[0] == width
        # Rows beyond the waves of a patch keep their random initialisation, which differs between colours.
        grey = (weight == weight[:, :1]).all(dim=3).all(dim=2).all(dim=1)
        assert grey.sum() == patches
        assert weight.isfinite().all()


def test_prompts_initially_attend_to_their_own_position():
    torch.manual_seed(0)
    sam = Sam(SIZES["vit_t"], 256)
    positions = sam.prompt_encoder.dense_positions().flatten(1).T  # 256 positions of a 16 x 16 grid
    look = sam.mask_decoder.transformer.layers[0].cross_attn_token_to_image
    positions_xy = torch.tensor([[8.0, 8], [40, 104], [200, 56]])  # centres of patches
    prompts, _ = sam.prompt_encoder(3, points=positions_xy[:, None], point_labels=torch.ones(3, 1, dtype=torch.int64))
    with torch.no_grad():
        query, key = look.q_proj(prompts[:, 0]), look.k_proj(positions)
    scores = torch.einsum("phc,lhc->phl", query.unflatten(-1, (8, -1)), key.unflatten(-1, (8, -1))).mean(dim=1)
    found = torch.stack([scores.argmax(dim=1) % 16, scores.argmax(dim=1) // 16], dim=1) * 16 + 8
    assert (found - positions_xy).abs().max() <= 16  # the position itself or its neighbour


def test_only_cross_attention_is_initialised_to_match_positions():
    transformer = Sam(SIZES["vit_t"], 256).mask_decoder.transformer
    looks = {
        name: torch.equal(module.q_proj.weight, module.k_proj.weight)
        for name, module in transformer.named_modules()
        if isinstance(module, Attention)
    }
    assert len(looks) == 7
    assert all(is_tied == ("self" not in name) for name, is_tied in looks.items())

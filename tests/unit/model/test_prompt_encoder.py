import math
from dataclasses import replace

import pytest
import torch
from tiny import SAM, randomise

from masam.model.prompt_encoder import PromptEncoder, RandomFourierPositions


def encoder(image_size=64, dim=8):
    torch.manual_seed(0)
    return randomise(PromptEncoder(replace(SAM, out_channels=dim), image_size)).double()


def points(*xy):
    return torch.tensor([xy], dtype=torch.float64)


def labels(*values):
    return torch.tensor([values])


def learned(module, kind):
    return module.point_embeddings[kind].weight[0]


def test_positions_are_sines_and_cosines_of_the_centred_coordinates():
    layer = RandomFourierPositions(3).double()
    x, y = 0.25, 0.8
    matrix = layer.positional_encoding_gaussian_matrix
    phase = [2 * math.pi * ((2 * x - 1) * matrix[0, i] + (2 * y - 1) * matrix[1, i]) for i in range(3)]
    expected = [math.sin(p) for p in phase] + [math.cos(p) for p in phase]
    got = layer(torch.tensor([x, y], dtype=torch.float64))
    assert got.tolist() == pytest.approx(expected, abs=1e-12)


def test_padding_points_are_ignored():
    module = encoder()
    here, _ = module(1, points((3.0, 4.0), (9.0, 2.0)), labels(1, -1))
    there, _ = module(1, points((3.0, 4.0), (50.0, 60.0)), labels(1, -1))
    assert torch.equal(here, there)
    assert torch.equal(here[0, 1], module.not_a_point_embed.weight[0])


@pytest.mark.parametrize("label", [0, 1])
def test_points_on_and_off_the_object_have_their_own_embedding(label):
    module = encoder()
    sparse, _ = module(1, points((3.0, 4.0)), labels(label))
    position = module.pe_layer(torch.tensor([3.5, 4.5], dtype=torch.float64) / 64)
    torch.testing.assert_close(sparse[0, 0], position + learned(module, label), rtol=0, atol=1e-12)


def test_points_alone_are_padded_and_points_with_a_box_are_not():
    module = encoder()
    alone, _ = module(1, points((3.0, 4.0)), labels(1))
    assert alone.shape == (1, 2, 8)
    assert torch.equal(alone[0, 1], module.not_a_point_embed.weight[0])
    box = torch.tensor([[1.0, 2.0, 30.0, 40.0]], dtype=torch.float64)
    both, _ = module(1, points((3.0, 4.0)), labels(1), box)
    assert both.shape == (1, 3, 8)
    assert torch.equal(both[0, 0], alone[0, 0])
    for corner, (x, y), kind in ((both[0, 1], (1, 2), 2), (both[0, 2], (30, 40), 3)):
        position = module.pe_layer((torch.tensor([x, y], dtype=torch.float64) + 0.5) / 64)
        torch.testing.assert_close(corner, position + learned(module, kind), rtol=0, atol=1e-12)


def test_coordinates_are_in_pixels_of_the_image():
    small, large = encoder(64), encoder(128)
    large.load_state_dict(small.state_dict())
    # The centre of a pixel is (p + 1/2) / size: pixel p of 64 corresponds to 2 p + 1/2 of 128.
    near, _ = small(1, points((10.0, 20.0)), labels(1))
    far, _ = large(1, points((20.5, 40.5)), labels(1))
    torch.testing.assert_close(near, far, rtol=0, atol=1e-12)


def test_without_prompts_there_is_no_token_and_the_dense_embedding_is_one_vector():
    module = encoder()
    sparse, dense = module(3)
    assert sparse.shape == (3, 0, 8)
    assert dense.shape == (3, 8, 4, 4)
    assert torch.equal(dense, module.no_mask_embed.weight[0, :, None, None].expand(3, 8, 4, 4))


def test_a_mask_replaces_the_default_dense_embedding():
    module = encoder()
    masks = torch.randn(2, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sparse, dense = module(2, masks=masks)
    assert (sparse.shape, dense.shape) == ((2, 0, 8), (2, 8, 4, 4))
    assert torch.equal(dense, module.mask_downscaling(masks))
    changed = masks.clone()
    changed[0, 0, :4, :4] += 1  # the part of one patch
    _, other = module(2, masks=changed)
    assert (dense != other).any(dim=1).nonzero().tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("image_size", [16, 64, 80])
def test_the_dense_grid_encodes_the_centres_of_patches(image_size):
    module = encoder(image_size)
    grid = module.dense_positions()
    side = image_size // 16
    assert grid.shape == (8, side, side)
    for row, column in ((0, 0), (side - 1, 0), (side // 2, side - 1)):
        centre = torch.tensor([(column + 0.5) / side, (row + 0.5) / side], dtype=torch.float64)
        torch.testing.assert_close(grid[:, row, column], module.pe_layer(centre), rtol=0, atol=1e-12)


def test_a_batch_is_its_slices_one_by_one():
    module = encoder()
    generator = torch.Generator().manual_seed(0)
    xy = torch.rand(3, 2, 2, generator=generator, dtype=torch.float64) * 63
    kinds = torch.tensor([[1, 0], [-1, 1], [0, 0]])
    together, _ = module(3, xy, kinds)
    alone = torch.cat([module(1, xy[i : i + 1], kinds[i : i + 1])[0] for i in range(3)])
    assert torch.equal(together, alone)

"""What each patch is asked about itself."""

import pytest
import torch
import torch.nn.functional as F

from masam.pretraining.patches import PatchHead, borders_of, regions_of, unexplained


@pytest.fixture
def visible():
    """Two rows of three patches: object 1 above row 20, object 2 right of column 30 below it."""
    found = torch.zeros(1, 32, 48, dtype=torch.int16)
    found[0, :20] = 1
    found[0, 20:, 30:] = 2
    return found


def test_borders_are_where_a_pixel_differs_from_the_one_above_or_left(visible):
    borders = borders_of(visible)
    assert borders.shape == (1, 2, 3, 64)
    assert not borders[0, 0].any()
    rows = borders[0, 1].unflatten(-1, (8, 8))
    for patch, column in ((0, None), (1, 7), (2, None)):  # column 30 lies in the last cell of the middle patch
        expected = torch.zeros(8, 8)
        expected[2] = 1  # row 20 is the fourth of the patch, in its third row of cells
        if column is not None:
            expected[2:, column] = 1
        assert torch.equal(rows[patch], expected), patch


def test_regions_are_the_surroundings_that_belong_to_the_centre(visible):
    wanted, is_inside = (found.unflatten(-1, (12, 12)) for found in regions_of(visible))
    for row in range(2):
        for column in range(3):
            own = visible[0, 16 * row + 8, 16 * column + 8]
            for i in range(12):
                for j in range(12):
                    y, x = 16 * (row - 1) + 4 * i + 2, 16 * (column - 1) + 4 * j + 2
                    is_there = 0 <= y < 32 and 0 <= x < 48
                    assert is_inside[0, row, column, i, j] == is_there
                    assert wanted[0, row, column, i, j] == (is_there and visible[0, y, x] == own)


def test_the_loss_is_the_mean_cross_entropy_of_both_and_ignores_what_lies_outside(visible):
    torch.manual_seed(0)
    head, embeddings = PatchHead(8, pixel_weight=0.0), torch.randn(1, 8, 2, 3)
    said = head.read(embeddings.permute(0, 2, 3, 1))
    wanted, is_inside = regions_of(visible)
    each = F.binary_cross_entropy_with_logits(said[..., 64:], wanted, reduction="none")
    expected = F.binary_cross_entropy_with_logits(said[..., :64], borders_of(visible))
    expected = expected + (each * is_inside).sum() / is_inside.sum()
    torch.testing.assert_close(head(embeddings, visible, torch.rand(1, 3, 32, 48)), expected)


def test_the_layer_learns_what_the_embeddings_contain(visible):
    torch.manual_seed(0)
    head, embeddings = PatchHead(8, pixel_weight=0.0), torch.randn(1, 8, 2, 3)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    losses = []
    for _ in range(150):
        loss = head(embeddings, visible, torch.rand(1, 3, 32, 48))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]


def test_the_pixel_term_is_the_unexplained_variance_between_and_within_patches(visible):
    torch.manual_seed(0)
    without, asked = PatchHead(8, pixel_weight=0.0), PatchHead(8, pixel_weight=2.0)
    with torch.no_grad():
        asked.read.weight[: 64 + 144], asked.read.bias[: 64 + 144] = without.read.weight, without.read.bias
        asked.read.weight[64 + 144 :], asked.read.bias[64 + 144 :] = 0, 0.25
    embeddings, images = torch.randn(1, 8, 2, 3), torch.rand(1, 3, 32, 48)
    grey = images.mean(dim=1)[0].numpy()
    patches = grey.reshape(2, 16, 3, 16).transpose(0, 2, 1, 3).reshape(6, 256)
    means, within = patches.mean(axis=1), patches.var(axis=1)
    unknown = ((means - 0.25) ** 2).mean() / means.var() + (within / (within + 0.1 * within.mean())).mean()
    expected = without(embeddings, visible, images) + 2 * float(unknown)
    torch.testing.assert_close(asked(embeddings, visible, images), expected, rtol=1e-4, atol=0)


def test_a_constant_prediction_leaves_all_variance_unexplained_at_any_contrast():
    torch.manual_seed(0)
    pixels = torch.rand(1, 4, 4, 256)
    pixels[:, :2] = 0.5 + 0.5 * (pixels[:, :2] - 0.5)
    means = pixels.mean(dim=-1, keepdim=True)
    flat = unexplained(means.mean().expand_as(pixels), pixels)
    assert 1.8 < flat < 2
    half_known = means + 0.5 * (pixels - means)
    assert 0.2 < unexplained(half_known, pixels) < 0.25
    only_strong, only_weak = pixels.clone(), pixels.clone()
    only_strong[:, :2], only_weak[:, 2:] = half_known[:, :2], half_known[:, 2:]
    assert 0.7 < unexplained(only_strong, pixels) / unexplained(only_weak, pixels) < 1


def test_pixels_are_predicted_in_their_order(visible):
    torch.manual_seed(0)
    head, images = PatchHead(6, pixel_weight=1.0), torch.rand(1, 3, 32, 48)
    embeddings = torch.eye(6).reshape(1, 6, 2, 3)  # each patch by itself
    with torch.no_grad():
        head.read.bias.zero_()
        for patch in range(6):
            row, column = 16 * (patch // 3), 16 * (patch % 3)
            head.read.weight[64 + 144 :, patch] = images[0].mean(dim=0)[row : row + 16, column : column + 16].flatten()
        without = PatchHead(6, pixel_weight=0.0)
        without.read.weight.copy_(head.read.weight[: 64 + 144])
        without.read.bias.zero_()
    torch.testing.assert_close(head(embeddings, visible, images), without(embeddings, visible, images))

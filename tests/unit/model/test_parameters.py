from dataclasses import replace

import pytest
from tiny import SPEC, random_model

from masam.model.parameters import count_parameters
from masam.model.sizes import SIZES
from masam.model.spec import MasamSpec


@pytest.mark.parametrize(
    ("size", "total", "trainable", "adapters_millions"),
    [
        ("vit_b", 117_421_209, 30_142_361, 24.82),
        ("vit_l", 369_563_545, 64_463_769, 59.10),
        ("vit_h", 729_864_857, 96_811_929, 91.41),
    ],
)
def test_full_sizes_with_twelve_classes(size, total, trainable, adapters_millions):
    count = count_parameters(MasamSpec(SIZES[size], num_classes=12))
    assert (count.total, count.trainable) == (total, trainable)
    assert round(count.adapters / 1e6, 2) == adapters_millions
    assert count.mask_decoder == 5_243_725
    assert count.trainable == count.fact + count.adapters + count.prompt_encoder + count.mask_decoder


def test_one_class():
    assert count_parameters(MasamSpec(SIZES["vit_b"], num_classes=1)).trainable == 28_666_678


def test_counts_equal_those_of_a_real_model():
    model = random_model()
    count = count_parameters(SPEC)
    assert count.total == sum(p.numel() for p in model.parameters())
    assert count.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    depth, width, rank = SPEC.sam.depth, SPEC.sam.embed_dim, SPEC.fact_rank
    assert count.fact == 2 * rank * width + 2 * depth * rank**2
    c = SPEC.adapter_channels
    assert count.adapters == 2 * depth * (2 * width + 2 * width * c + 3 * c * c + c)


def test_image_size_changes_only_the_frozen_part():
    small, large = count_parameters(SPEC), count_parameters(replace(SPEC, image_size=64))
    assert large.trainable == small.trainable
    assert large.total - small.total == (16 - 4) * 16 + 2 * (7 - 3) * 8  # positions, and relative ones of one block

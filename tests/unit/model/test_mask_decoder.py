import pytest
import torch
from tiny import SAM, randomise

from masam.model.image_encoder import LayerNorm2d
from masam.model.mask_decoder import (
    MLP,
    PROGRESSIVE_UPSCALING,
    SAM_UPSCALING,
    MaskDecoder,
    unfold_pixels,
    upscale,
    upscaling_stages,
)


def decoder(num_masks=3, upscaling=PROGRESSIVE_UPSCALING):
    return randomise(MaskDecoder(SAM, num_masks, upscaling)).double().eval()


def inputs(n=2, side=2, tokens=2):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((n, 32, side, side), (32, side, side), (n, tokens, 32), (n, 32, side, side))
    ]


@pytest.mark.parametrize(("upscaling", "factor"), [(SAM_UPSCALING, 4), (PROGRESSIVE_UPSCALING, 16)])
@pytest.mark.parametrize(("num_masks", "tokens"), [(1, 0), (4, 3)])
def test_one_logit_map_and_one_iou_per_mask_token(upscaling, factor, num_masks, tokens):
    logits, iou = decoder(num_masks, upscaling)(*inputs(3, 2, tokens))
    assert logits.shape == (3, num_masks, 2 * factor, 2 * factor)
    assert iou.shape == (3, num_masks)


def test_upsampling_as_in_the_paper():
    stages = upscaling_stages(256, PROGRESSIVE_UPSCALING)
    convolutions = {i: tuple(s.weight.shape) for i, s in enumerate(stages) if isinstance(s, torch.nn.ConvTranspose2d)}
    assert convolutions == {0: (256, 64, 2, 2), 3: (64, 32, 2, 2), 6: (32, 16, 2, 2), 9: (16, 8, 2, 2)}
    assert [i for i, s in enumerate(stages) if isinstance(s, LayerNorm2d)] == [1, 4, 7]
    assert [i for i, s in enumerate(stages) if isinstance(s, torch.nn.GELU)] == [2, 5, 8, 10]


@pytest.mark.parametrize("upscaling", [SAM_UPSCALING, PROGRESSIVE_UPSCALING, (2,)])
def test_upsampling_tokens_is_upsampling_the_map(upscaling):
    stages = randomise(upscaling_stages(32, upscaling)).double()
    tokens = torch.randn(2, 6, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = stages(tokens.transpose(1, 2).unflatten(2, (2, 3)))
    got = unfold_pixels(upscale(stages, tokens), 2, 3)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_each_hyper_network_affects_its_own_map_only():
    module, given = decoder(), inputs()
    with torch.no_grad():
        before, iou = module(*given)
        module.output_hypernetworks_mlps[1].layers[2].bias += 1
        after, same_iou = module(*given)
    assert [not torch.equal(before[:, k], after[:, k]) for k in range(3)] == [False, True, False]
    assert torch.equal(iou, same_iou)


def test_the_iou_head_reads_the_first_token_alone():
    module, given = decoder(), inputs()
    with torch.no_grad():
        logits, iou = module(*given)
        module.iou_prediction_head.layers[2].bias += 1
        same_logits, other_iou = module(*given)
    assert torch.equal(logits, same_logits)
    torch.testing.assert_close(other_iou, iou + 1, rtol=0, atol=1e-12)


def test_prompts_reach_the_masks():
    module, (embeddings, positions, sparse, dense) = decoder(), inputs()
    logits, _ = module(embeddings, positions, sparse, dense)
    other_sparse, _ = module(embeddings, positions, sparse + 1, dense)
    other_dense, _ = module(embeddings, positions, sparse, dense + 1)
    assert not torch.equal(logits, other_sparse)
    assert not torch.equal(logits, other_dense)


def test_a_batch_is_its_slices_one_by_one():
    module, (embeddings, positions, sparse, dense) = decoder(), inputs(3)
    together = module(embeddings, positions, sparse, dense)
    for i in range(3):
        one = slice(i, i + 1)
        for all_of_them, alone in zip(
            together, module(embeddings[one], positions, sparse[one], dense[one]), strict=True
        ):
            torch.testing.assert_close(all_of_them[one], alone, rtol=0, atol=1e-12)


def test_the_order_of_prompts_does_not_matter():
    module, (embeddings, positions, sparse, dense) = decoder(), inputs(tokens=4)
    expected, _ = module(embeddings, positions, sparse, dense)
    got, _ = module(embeddings, positions, sparse.flip(1), dense)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_mlp_has_relus_between_its_layers_and_none_after():
    mlp = randomise(MLP(3, 4, 2)).double()
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, second, third = mlp.layers
    torch.testing.assert_close(mlp(x), third(second(first(x).clamp(min=0)).clamp(min=0)), rtol=0, atol=1e-14)
    assert (mlp(x) < 0).any()

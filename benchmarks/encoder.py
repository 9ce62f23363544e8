"""Compare the attention of the image encoder with its textbook form, on one window of five slices.

The textbook form pads the grid before the projections and materialises the attention matrix, as SAM's code does. Both
use the same weights. Prints the median time of each, their ratio, and the largest relative difference.

    python benchmarks/encoder.py [--size vit_b] [--image-size 512] [--repeats 3]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from masam.model.image_encoder import Attention, join_windows, split_windows
from masam.model.masam import Masam
from masam.model.sizes import SIZES
from masam.model.spec import MasamSpec


def textbook(self: Attention, x: torch.Tensor, increment=None) -> torch.Tensor:
    h, w = x.shape[1:3]
    side, heads = self.side, self.num_heads
    x = F.pad(x, (0, 0, 0, -w % side, 0, -h % side))
    qkv = self.qkv(x)
    if increment is not None:
        dq, dv = increment(x)
        qkv = qkv + torch.cat([dq, torch.zeros_like(dq), dv], dim=-1)
    windows = split_windows(qkv, side)
    n = len(windows)
    q, k, v = windows.reshape(n, side * side, 3, heads, -1).permute(2, 0, 3, 1, 4)
    d = q.shape[-1]
    index = torch.arange(side)[:, None] - torch.arange(side)[None] + side - 1
    grid = q.reshape(n, heads, side, side, d)
    bias_h = torch.einsum("mnhwd,hkd->mnhwk", grid, self.rel_pos_h[index])
    bias_w = torch.einsum("mnhwd,wkd->mnhwk", grid, self.rel_pos_w[index])
    weights = (q * d**-0.5) @ k.transpose(-2, -1)
    bias = bias_h[..., :, None] + bias_w[..., None, :]
    weights = (weights.reshape(n, heads, side, side, side, side) + bias).reshape(weights.shape).softmax(-1)
    out = (weights @ v).transpose(1, 2).reshape(n, side, side, heads * d)
    return self.proj(join_windows(out, side, qkv.shape[1], qkv.shape[2]))[:, :h, :w]


def timed(model: Masam, windows: torch.Tensor, repeats: int) -> tuple[float, torch.Tensor]:
    seconds = []
    with torch.inference_mode():
        model.encode(windows)
        for _ in range(repeats):
            started = time.perf_counter()
            out = model.encode(windows)
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="vit_b")
    parser.add_argument("--image-size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = Masam(MasamSpec(SIZES[arguments.size], 12, arguments.image_size)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "rel_pos" in name or name.endswith(("pos_embed", "fact.v")):
                parameter.normal_(0, 0.02)
    windows = torch.rand(1, 5, 3, arguments.image_size, arguments.image_size)
    ours, out = timed(model, windows, arguments.repeats)
    kept = Attention.forward
    Attention.forward = textbook
    plain, expected = timed(model, windows, arguments.repeats)
    Attention.forward = kept
    difference = float((out - expected).abs().max() / expected.abs().max())
    print(f"{arguments.size}, 5 x {arguments.image_size}^2, {torch.get_num_threads()} threads, float32")
    print(f"textbook {plain:.2f} s, masam {ours:.2f} s: {plain / ours:.2f} times as fast")
    print(f"largest relative difference {difference:.1e}")


main()

"""Intensity transforms, identical for all slices and channels of a window.

All of them work in place on an array that the caller owns, since their cost is memory traffic (a window of 5 x 512 x
512 has 5 MiB). Arithmetic is in float32, whereas the reference rounds to 8 bits at every step.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage

from masam.augment.geometry import pixel_generator, smooth_fields
from masam.augment.variation import Erase, Variation

Images = NDArray[np.float32]


def changes_intensity(variation: Variation) -> bool:
    """Return whether :func:`vary_intensity` would change any pixel."""
    neutral = Variation()
    names = ("shading", "gamma", "erase", "posterize_bits", "contrast", "brightness", "brightness_shift", "sharpness",
             "blur_pixels", "low_resolution", "noise")  # fmt: skip
    return any(getattr(variation, name) != getattr(neutral, name) for name in names)


def vary_intensity(images: Images, variation: Variation) -> None:
    """Apply the intensity transforms of a variation to images [S, C, H, W] in place, clipping to 0..1 after each."""
    if variation.shading:
        shade(images, variation.shading, pixel_generator(variation, purpose=3))
    if variation.gamma != 1:
        np.power(images, np.float32(1 / variation.gamma), out=images)
    if variation.erase is not None:
        erase(images, variation.erase, pixel_generator(variation, purpose=1))
    if variation.posterize_bits is not None:
        posterize(images, variation.posterize_bits)
    if variation.contrast != 1:
        grey = float(images.mean(dtype=np.float64)) if variation.contrast_grey is None else variation.contrast_grey
        scale_and_shift(images, variation.contrast, (1 - variation.contrast) * grey)
    if variation.brightness != 1 or variation.brightness_shift:
        scale_and_shift(images, variation.brightness, variation.brightness_shift)
    _vary_detail(images, variation)


def _vary_detail(images: Images, variation: Variation) -> None:
    """Apply the transforms that depend on a pixel's neighbours, and the noise."""
    if variation.sharpness != 1:
        sharpen(images, variation.sharpness)
    if variation.blur_pixels:
        blur(images, variation.blur_pixels)
    if variation.low_resolution != 1:
        lower_resolution(images, variation.low_resolution)
    if variation.noise:
        add_noise(images, variation.noise, pixel_generator(variation, purpose=2))


def shade(images: Images, strength: float, generator: np.random.Generator) -> None:
    """Multiply images [S, C, H, W] in place by a smooth bias field from exp(-strength) to 1, as of a receive coil.

    The maximum is 1, since a plan's intensity limits follow the brightest voxels of a scan. The field is bicubic
    between 4 x 4 normally distributed values.
    """
    points = generator.standard_normal((1, 1, 4, 4), np.float32)
    (field,) = smooth_fields(points, (images.shape[2], images.shape[3]))
    span = field.max() - field.min()
    if span > 0:
        images *= np.exp(np.float32(strength) * (field - field.max()) / span)


def erase(images: Images, box: Erase, generator: np.random.Generator) -> None:
    """Fill a box with uniform noise that is identical on all slices and channels."""
    rows, columns = erased_box(box, (images.shape[2], images.shape[3]))
    images[:, :, rows, columns] = generator.random((rows.stop - rows.start, columns.stop - columns.start), np.float32)


def erased_box(erase: Erase, size: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of the box, clipped to the image."""
    height, width = size
    pixels = erase.area * height * width
    rows = min(height, max(1, round(math.sqrt(pixels / erase.aspect))))
    columns = min(width, max(1, round(math.sqrt(pixels * erase.aspect))))
    top = int(erase.place[0] * (height - rows + 1))
    left = int(erase.place[1] * (width - columns + 1))
    return slice(top, top + rows), slice(left, left + columns)


def posterize(images: Images, bits: int) -> None:
    """Quantise to 2 to the power of ``bits`` levels from 0 to 1, rounding down; 0 and 1 are preserved."""
    levels = 2**bits
    images *= np.float32(levels)
    np.floor(images, out=images)
    np.minimum(images, np.float32(levels - 1), out=images)
    images /= np.float32(levels - 1)


def scale_and_shift(images: Images, factor: float, shift: float) -> None:
    """Multiply, add, and clip to 0..1."""
    images *= np.float32(factor)
    images += np.float32(shift)
    np.clip(images, 0, 1, out=images)


def sharpen(images: Images, factor: float) -> None:
    """Blend with a smoothed copy (weight 5 for the pixel, 1 for each of 8 neighbours); border pixels are unchanged.

    Source: the kernel of Pillow's ``ImageEnhance.Sharpness``, which the reference uses (paper.md 1.7).
    """
    if min(images.shape[2:]) < 3:
        return
    for image in images.reshape(-1, *images.shape[2:]):  # one slice fits into the processor's cache
        rows = image[:-2] + image[1:-1]
        rows += image[2:]
        smooth = rows[:, :-2] + rows[:, 1:-1]
        smooth += rows[:, 2:]
        inner = image[1:-1, 1:-1]
        # smooth = (sum of 9 + 4 x) / 13; result = smooth + factor (x - smooth).
        smooth *= np.float32((1 - factor) / 13)
        inner *= np.float32(factor + (1 - factor) * 4 / 13)
        inner += smooth
        np.clip(inner, 0, 1, out=inner)


def blur(images: Images, pixels: float) -> None:
    """Blur each slice with a Gaussian; the border is replicated."""
    for image in images.reshape(-1, *images.shape[2:]):
        ndimage.gaussian_filter(image, pixels, output=image, mode="nearest", truncate=3.0)
    np.clip(images, 0, 1, out=images)


def lower_resolution(images: Images, factor: float) -> None:
    """Downsample by a factor and upsample again, to simulate a scan of lower resolution."""
    height, width = images.shape[2:]
    coarse = (max(1, round(height / factor)), max(1, round(width / factor)))
    small = F.interpolate(torch.from_numpy(images), size=coarse, mode="bilinear", antialias=True)
    images[...] = F.interpolate(small, size=(height, width), mode="bilinear").numpy()
    np.clip(images, 0, 1, out=images)


def add_noise(images: Images, deviation: float, generator: np.random.Generator) -> None:
    """Add Gaussian noise, independent for each slice and channel."""
    drawn = generator.standard_normal(images.shape, np.float32)
    drawn *= np.float32(deviation)
    images += drawn
    np.clip(images, 0, 1, out=images)

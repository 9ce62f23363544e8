"""Spatial transforms of a window, composed into one so that the image is interpolated only once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from masam.augment.variation import Variation

Voxel = TypeVar("Voxel", bound=np.generic)

NO_LABEL = -100
"""Label of pixels without a class, which the loss ignores."""


@dataclass(frozen=True, eq=False)
class Warp:
    """A spatial transform, as the source position of each output pixel.

    Coordinates are x to the right and y down, in pixels relative to the image centre.

    Attributes:
        inverse: [3, 3] float64, maps output to source coordinates.
        size: Height and width.
        deformation: [2, H, W] float32, added to the output's x and y before ``inverse``, or None.
    """

    inverse: NDArray[np.float64]
    size: tuple[int, int]
    deformation: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, variation: Variation, size: tuple[int, int]) -> Warp:
        """Compose the transforms of a variation in order: quarter turns, flip, rotation, shear, scale, shift.

        The shape is preserved, so odd quarter turns of images that are not square are rounded down to half turns.
        """
        height, width = size
        turns = variation.quarter_turns if height == width else variation.quarter_turns - variation.quarter_turns % 2
        quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
        linear = np.linalg.matrix_power(quarter, turns)
        if variation.flip is not None:
            linear = np.diag([1.0, -1.0] if variation.flip == "rows" else [-1.0, 1.0]) @ linear
        angle = math.radians(variation.rotation_degrees)
        linear = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) @ linear
        linear = np.array([[1.0, variation.shear[0]], [0.0, 1.0]]) @ linear
        linear = variation.scale * np.array([[1.0, 0.0], [variation.shear[1], 1.0]]) @ linear
        forward = np.eye(3)
        forward[:2, :2] = linear
        # Rounded to pixels, so that a shift alone needs no interpolation.
        forward[:2, 2] = round(variation.translate[0] * width), round(variation.translate[1] * height)
        deformation = _deformation(variation, size) if variation.elastic else None
        inverse: NDArray[np.float64] = np.linalg.inv(forward).astype(np.float64)
        return cls(inverse, size, deformation)

    @property
    def is_identity(self) -> bool:
        """Whether the transform is the identity."""
        return self.deformation is None and np.array_equal(self.inverse, np.eye(3))

    @property
    def is_exact(self) -> bool:
        """Whether the transform maps pixels to pixels (quarter turns, flips and shifts)."""
        is_integer = np.array_equal(self.inverse, np.rint(self.inverse))
        return self.deformation is None and is_integer and bool((np.abs(self.inverse[:2, :2]).sum(axis=0) == 1).all())

    def move(
        self,
        images: NDArray[np.float32],
        labels: NDArray[np.signedinteger],
        interpolation: Literal["linear", "cubic"] = "linear",
        outside: int = NO_LABEL,
    ) -> tuple[NDArray[np.float32], NDArray[np.signedinteger]]:
        """Transform a window.

        Args:
            images: [S, C, H, W].
            labels: [S, H, W].
            interpolation: Interpolation of images; labels use nearest neighbour.
            outside: Label of pixels from outside the source, where images are 0.

        Returns:
            New arrays of the same types.
        """
        if self.is_exact:
            return self._shift(images, 0), self._shift(labels, outside)
        grid = self._grid()
        mode = "bilinear" if interpolation == "linear" else "bicubic"
        # [1, S * C, H, W]: sampling positions are computed once for all slices and channels.
        source = _tensor(images).reshape(1, -1, *self.size)
        moved = F.grid_sample(source, grid, mode=mode, padding_mode="zeros", align_corners=False)
        if interpolation == "cubic":
            moved.clamp_(0, 1)  # bicubic interpolation overshoots
        # The sampler pads with 0, so labels are shifted; float32 represents every channel number exactly.
        classes = _tensor(labels)
        shifted = classes.float().sub_(outside)[None]
        nearest = F.grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        moved_labels = nearest[0].add_(outside).to(classes.dtype)
        return moved.reshape(images.shape).numpy(), moved_labels.numpy()

    def points(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the output positions of source points [..., 2], x and y in pixels; the first pixel's centre is 0.

        They are not clipped to the image; NaN stays NaN.
        """
        height, width = self.size
        centre = np.array([(width - 1) / 2, (height - 1) / 2])
        forward = np.linalg.inv(self.inverse)
        straight = (points.astype(np.float64) - centre) @ forward[:2, :2].T + forward[:2, 2]
        moved = straight
        if self.deformation is not None:
            # The slope of the field is below 1, so this fixed-point iteration converges; 40 rounds reach precision.
            for _ in range(40):
                moved = straight - _sampled(self.deformation, moved + centre)
        return moved + centre

    def _grid(self) -> Tensor:
        """Return the sampling grid [1, H, W, 2], in which -1 and 1 are the outer edges of the image."""
        height, width = self.size
        x = (np.arange(width) - (width - 1) / 2).astype(np.float32)
        y = (np.arange(height) - (height - 1) / 2).astype(np.float32)
        grid = np.empty((height, width, 2), np.float32)
        for axis, side in enumerate((width, height)):
            along_x, along_y, offset = (self.inverse[axis] * 2 / side).astype(np.float32)
            np.add(along_x * x, (along_y * y + offset)[:, None], out=grid[..., axis])
            if self.deformation is not None:
                grid[..., axis] += along_x * self.deformation[0] + along_y * self.deformation[1]
        return torch.from_numpy(grid)[None]

    def _shift(self, array: NDArray[Voxel], fill: int) -> NDArray[Voxel]:
        """Apply quarter turns, flips and shifts by whole pixels, without arithmetic on values."""
        linear, offset = self.inverse[:2, :2], self.inverse[:2, 2]
        is_odd_turn = linear[0, 0] == 0
        source = array.swapaxes(-1, -2) if is_odd_turn else array
        # Row (or column) of the source is sign * row (or column) of the result + offset.
        signs = (linear[0, 1], linear[1, 0]) if is_odd_turn else (linear[1, 1], linear[0, 0])
        offsets = (offset[0], offset[1]) if is_odd_turn else (offset[1], offset[0])
        result = np.full(array.shape, fill, array.dtype)
        targets, sources = [], []
        for sign, shift, length in zip(signs, offsets, self.size, strict=True):
            # A mirrored axis is read backwards, so its shift changes sign.
            step = int(sign * shift)
            targets.append(slice(max(0, -step), min(length, length - step)))
            sources.append(slice(max(0, step), min(length, length + step)))
        flipped = source[..., :: int(signs[0]), :: int(signs[1])]
        result[..., targets[0], targets[1]] = flipped[..., sources[0], sources[1]]
        return result


def _sampled(deformation: NDArray[np.float32], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate a field [2, H, W] linearly at points [..., 2]; positions outside are clamped to the border."""
    rows_columns = np.nan_to_num(points[..., ::-1]).reshape(-1, 2).T
    read = partial(ndimage.map_coordinates, coordinates=rows_columns, order=1, mode="nearest", output=np.float64)
    return np.stack([read(field) for field in deformation], axis=-1).reshape(points.shape)


def _tensor(array: NDArray[np.generic]) -> Tensor:
    """Return a tensor that shares memory with a contiguous writable array, or a copy of another array."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _deformation(variation: Variation, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return a random displacement field [2, H, W] in pixels, interpolated from control points."""
    points = variation.elastic_points
    generator = pixel_generator(variation, purpose=0)
    drawn = generator.uniform(-1, 1, (1, 2, points, points)).astype(np.float32)
    # Relative to the shorter side, along which control points are closest, so that the field does not fold.
    drawn *= np.float32(variation.elastic * min(size))
    return smooth_fields(drawn, size)


def smooth_fields(points: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return fields [C, H, W], bicubic between control points [1, C, rows, columns] from corner to corner."""
    fields: NDArray[np.float32] = F.interpolate(
        torch.from_numpy(points), size=size, mode="bicubic", align_corners=True
    )[0].numpy()
    return fields


def pixel_generator(variation: Variation, purpose: int) -> np.random.Generator:
    """Return the generator for the per-pixel randomness of one operation, independent of other operations."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((variation.seed, purpose))))

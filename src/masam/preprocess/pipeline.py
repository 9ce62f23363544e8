"""The preprocessing as a whole: a volume becomes slices for the model, and the answer returns to the volume's grid.

Slices are made when they are asked for, so nothing but the source array is held, whatever the depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from masam.errors import ConfigError, InputError
from masam.preprocess.crop import Crop, CropRule, crop_to_content
from masam.preprocess.intensity import IntensityRule, Scaling
from masam.preprocess.orientation import Orientation, SliceView
from masam.preprocess.resize import resize_image, resize_labels, resize_probabilities
from masam.volume import Geometry, Volume


@dataclass(frozen=True)
class InPlaneResize:
    """The change of a slice's size.

    Attributes:
        native_size: Rows and columns of a slice of the volume, as cropped.
        image_size: Rows and columns of the model's input.
    """

    native_size: tuple[int, int]
    image_size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Trace:
    """What was done to a volume, in order, and the way back.

    Attributes:
        source: Grid of the volume.
        orientation: First step: array axes to slices, rows, columns.
        scalings: Second step: intensities to 0..1, for each channel. It has no part in the way back, as labels carry no
            intensity.
        crop: Third step: the box that the model sees.
        resize: Fourth step: slices to the model's square.
    """

    source: Geometry
    orientation: Orientation
    scalings: tuple[Scaling, ...]
    crop: Crop
    resize: InPlaneResize

    def probabilities_to_native(self, probabilities: Float[Tensor, "K h w"]) -> Float[Tensor, "K H W"]:
        """Undo the resize for the class probabilities of one slice.

        Args:
            probabilities: [K, h, w] at the model's size.

        Returns:
            [K, H, W] float32 at the cropped slice's own size, on the same device.
        """
        return resize_probabilities(probabilities, self.resize.native_size)

    @property
    def source_shape(self) -> tuple[int, int, int]:
        """Voxels of the volume along each of its own axes."""
        order, whole = self.orientation.order, self.crop.whole
        i, j, k = (whole[order.index(axis)] for axis in range(3))
        return i, j, k

    def positions(self, index_ijk: NDArray[np.float64]) -> NDArray[np.float64]:
        """Follow positions in the volume to the cropped slices.

        Args:
            index_ijk: [..., 3] positions in voxels of the volume; voxel k's centre is k.

        Returns:
            [..., 3] slice, row and column in the crop, at the slices' own size; below 0 or beyond what the crop left.
        """
        return self.orientation.positions(index_ijk, self.crop.whole) - np.array(self.crop.start)

    def edges_to_pixels(self, edges_yx: NDArray[np.float64]) -> NDArray[np.float64]:
        """Follow places in a cropped slice to the model's image.

        Args:
            edges_yx: [..., 2] y and x at the slice's own size, 0 at the outer edge of the first pixel.

        Returns:
            [..., 2] x and y in pixels of the model's image, 0 at the outer edge of the first.
        """
        scaled = edges_yx * (np.array(self.resize.image_size) / np.array(self.resize.native_size))
        return scaled[..., ::-1]

    def labels_to_volume(self, labels: NDArray[np.integer]) -> Volume:
        """Undo crop and orientation for a stack of label slices.

        Args:
            labels: [D, H, W] label values, each slice at its own size.

        Returns:
            The labels on the input volume's own grid, 0 outside the crop.

        Raises:
            InputError: The stack does not have the size of the crop.
        """
        return Volume(self.orientation.invert(self.crop.invert(labels)), self.source)


@dataclass(frozen=True, eq=False)
class PreparedLabels:
    """The reference labels of a prepared volume, slice by slice.

    Attributes:
        array: [D, rows, columns] whole numbers, a view of the cropped label volume.
        resize: The change of a slice's size.
    """

    array: NDArray[np.integer]
    resize: InPlaneResize

    @property
    def depth(self) -> int:
        """Number of slices D."""
        return int(self.array.shape[0])

    def slice(self, index: int) -> NDArray[np.integer]:
        """Return slice ``index`` [H, W] at the model's size, values as in the label volume."""
        return resize_labels(self.array[index], self.resize.image_size)


@dataclass(frozen=True, eq=False)
class PreparedVolume:
    """A volume seen as slices for the model.

    Attributes:
        array: [D, rows, columns, C] intensities, a view of the volume's array, cropped.
        trace: What was done, and the way back.
    """

    array: NDArray[np.generic]
    trace: Trace

    @property
    def depth(self) -> int:
        """Number of slices D."""
        return int(self.array.shape[0])

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return int(self.array.shape[3])

    @property
    def native_size(self) -> tuple[int, int]:
        """Rows and columns of a slice before the resize."""
        return self.trace.resize.native_size

    def slice(self, index: int) -> NDArray[np.float32]:
        """Return slice ``index`` [C, H, W] at the model's size, 0 to 1."""
        native = (scaling.apply(self.array[index, ..., c]) for c, scaling in enumerate(self.trace.scalings))
        return np.stack([resize_image(channel, self.trace.resize.image_size) for channel in native])

    def labels(self, volume: Volume) -> PreparedLabels:
        """Bring the volume's reference labels into the same order.

        Args:
            volume: Whole numbers on the grid of the prepared volume.

        Raises:
            InputError: The labels lie on another grid, or are not whole numbers.
        """
        if volume.array.dtype.kind not in "iu" or volume.array.ndim != 3:
            raise InputError(
                f"expected one whole number a voxel as label, got type {volume.array.dtype}, shape {volume.array.shape}"
            )
        expected = self.trace.source_shape
        if volume.shape != expected:
            raise InputError(f"expected labels of shape {expected} like the image, got {volume.shape}")
        if not self.trace.source.matches(volume.geometry, expected):
            raise InputError(
                "the labels lie elsewhere than the image (their affines differ)",
                fix="resample the labels to the image's grid",
            )
        labels = cast(NDArray[np.integer], volume.array)
        return PreparedLabels(self.trace.crop.apply(self.trace.orientation.apply(labels)), self.trace.resize)


@dataclass(frozen=True)
class Preprocessing:
    """How volumes of a data set are prepared.

    Attributes:
        slice_axis: Anatomical direction along which a volume is cut into slices, or ``stored``.
        intensity: From the scanner's numbers to 0..1.
        image_size: Rows and columns of the model's square input.
        crop: What is cut away before slices are resized.

    Raises:
        ConfigError: The image size is less than one pixel.
    """

    slice_axis: SliceView
    intensity: IntensityRule
    image_size: int
    crop: CropRule = "none"

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ConfigError(f"expected an image size of 1 pixel or more, got {self.image_size}")

    @property
    def facts(self) -> dict[str, Any]:
        """Return all that decides the prepared slices."""
        facts: dict[str, Any] = {
            "slice_axis": self.slice_axis,
            "intensity": self.intensity.model_dump(mode="json"),
            "image_size": self.image_size,
        }
        # Left out without a crop, so that cases that were cached, and runs that began, before there was one go on.
        return facts if self.crop == "none" else facts | {"crop": self.crop}

    def prepare(self, volume: Volume) -> PreparedVolume:
        """Orient a volume, fit the intensity rule to it and crop it; the slices follow on demand.

        Raises:
            InputError: The volume does not hold finite real numbers.
        """
        orientation = Orientation.of(volume.geometry, self.slice_axis)
        array = orientation.apply(volume.array if volume.array.ndim == 4 else volume.array[..., None])
        depth, rows, columns, channels = array.shape
        # Fitted in canonical order: what is sampled then does not depend on how the file stores its axes.
        # Channels have units of their own, so each is fitted by itself.
        scalings = tuple(self.intensity.fit(array[..., channel]) for channel in range(channels))
        if self.crop == "content":
            crop = crop_to_content(_shown(one, scalings) for one in array)
        else:
            crop = Crop.nothing((depth, rows, columns))
        resize = InPlaneResize(crop.size[1:], (self.image_size, self.image_size))
        return PreparedVolume(crop.apply(array), Trace(volume.geometry, orientation, scalings, crop, resize))


def _shown(slice_: NDArray[np.generic], scalings: Sequence[Scaling]) -> NDArray[np.bool_]:
    """Say which pixels of a slice [rows, columns, C] become more than 0 in any channel."""
    shown: NDArray[np.bool_] = np.any([scaling.shows(slice_[..., c]) for c, scaling in enumerate(scalings)], axis=0)
    return shown

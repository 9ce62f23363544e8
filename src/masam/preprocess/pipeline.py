"""Prepare a volume as slices for the model, and return predictions to the grid of the volume.

Slices are computed on access, so that only the source array is held in memory.
"""

from __future__ import annotations

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
from masam.preprocess.resize import ResizedLabels, resize_image, resize_probabilities
from masam.volume import Geometry, Volume


@dataclass(frozen=True, eq=False)
class Trace:
    """The steps applied to a volume, in order, and their inverse.

    Attributes:
        source: Geometry of the volume.
        orientation: First step: array axes to slices, rows, columns.
        scalings: Second step: intensities to 0..1, per channel. Not inverted, as labels have no intensity.
        crop: Third step: the box that is shown to the model.
        image_size: Fourth step: rows and columns of the model's input, to which slices are resized.
    """

    source: Geometry
    orientation: Orientation
    scalings: tuple[Scaling, ...]
    crop: Crop
    image_size: tuple[int, int]

    @property
    def native_size(self) -> tuple[int, int]:
        """Rows and columns of a cropped slice before the resize."""
        return self.crop.size[1:]

    def probabilities_to_native(self, probabilities: Float[Tensor, "K h w"]) -> Float[Tensor, "K H W"]:
        """Resize class probabilities of one slice from the model's size to the native size of the cropped slice."""
        return resize_probabilities(probabilities, self.native_size)

    @property
    def source_shape(self) -> tuple[int, int, int]:
        """Number of voxels of the volume along each of its axes."""
        order, size = self.orientation.order, self.crop.full_size
        i, j, k = (size[order.index(axis)] for axis in range(3))
        return i, j, k

    def positions(self, index_ijk: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert voxel positions [..., 3] of the volume to slice, row and column in the crop at native size.

        The centre of voxel k is at k. Positions outside the crop are negative or too large.
        """
        return self.orientation.positions(index_ijk, self.crop.full_size) - np.array(self.crop.start)

    def edges_to_pixels(self, edges_yx: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert coordinates [..., 2] (y, x) in a cropped slice at native size to (x, y) in the model's input.

        Coordinates are 0 at the outer edge of the first pixel.
        """
        scaled = edges_yx * (np.array(self.image_size) / np.array(self.native_size))
        return scaled[..., ::-1]

    def labels_to_volume(self, labels: NDArray[np.integer]) -> Volume:
        """Invert crop and orientation for label slices [D, H, W] at native size; labels are 0 outside the crop."""
        return Volume(self.orientation.invert(self.crop.invert(labels)), self.source)


@dataclass(frozen=True, eq=False)
class PreparedVolume:
    """A volume as slices for the model.

    Attributes:
        array: [D, rows, columns, C] intensities, a cropped view of the volume's array.
        trace: The steps that prepare it, and their inverse.
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
        return self.trace.native_size

    def slice(self, index: int) -> NDArray[np.float32]:
        """Return slice ``index`` [C, H, W] at the model's size, 0 to 1."""
        native = (scaling.apply(self.array[index, ..., c]) for c, scaling in enumerate(self.trace.scalings))
        return np.stack([resize_image(channel, self.trace.image_size) for channel in native])

    def labels(self, volume: Volume) -> ResizedLabels:
        """Return integer labels on the grid of the prepared volume as slices at the model's size."""
        if volume.array.dtype.kind not in "iu" or volume.array.ndim != 3:
            raise InputError(
                f"expected integer labels with three axes, got type {volume.array.dtype}, shape {volume.array.shape}"
            )
        expected = self.trace.source_shape
        if volume.shape != expected:
            raise InputError(f"expected labels of shape {expected} like the image, got {volume.shape}")
        if not self.trace.source.matches(volume.geometry, expected):
            raise InputError(
                "the affines of labels and image differ", fix="resample the labels to the grid of the image"
            )
        labels = cast(NDArray[np.integer], volume.array)
        return ResizedLabels(self.trace.crop.apply(self.trace.orientation.apply(labels)), self.trace.image_size)


@dataclass(frozen=True)
class Preprocessing:
    """How the volumes of a data set are prepared.

    Attributes:
        slice_axis: Anatomical direction across which a volume is cut into slices, or ``stored``.
        intensity: Intensity rule.
        image_size: Rows and columns of the model's square input.
        crop: Crop rule, applied before slices are resized.
    """

    slice_axis: SliceView
    intensity: IntensityRule
    image_size: int
    crop: CropRule = "none"

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ConfigError(f"expected an image size of 1 pixel or more, got {self.image_size}")

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that affect the prepared slices, as JSON values."""
        settings: dict[str, Any] = {
            "slice_axis": self.slice_axis,
            "intensity": self.intensity.model_dump(mode="json"),
            "image_size": self.image_size,
        }
        # Omitted without a crop, so that cases cached and runs started by earlier versions remain valid.
        return settings if self.crop == "none" else settings | {"crop": self.crop}

    def prepare(self, volume: Volume) -> PreparedVolume:
        """Orient a volume, fit the intensity rule to it and crop it; slices are computed on access."""
        orientation = Orientation.of(volume.geometry, self.slice_axis)
        array = orientation.apply(volume.array if volume.array.ndim == 4 else volume.array[..., None])
        depth, rows, columns, channels = array.shape
        # Fitted in canonical order, so that the sample does not depend on the stored order of axes; per channel, since
        # channels have different units.
        scalings = tuple(self.intensity.fit(array[..., channel]) for channel in range(channels))
        if self.crop == "content":
            crop = crop_to_content(
                np.any([scaling.is_nonzero(one[..., c]) for c, scaling in enumerate(scalings)], axis=0) for one in array
            )
        else:
            crop = Crop.full((depth, rows, columns))
        trace = Trace(volume.geometry, orientation, scalings, crop, (self.image_size, self.image_size))
        return PreparedVolume(crop.apply(array), trace)

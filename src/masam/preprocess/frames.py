"""Prepare the frames of a video and their labels for the model, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam.errors import ConfigError
from masam.preprocess.intensity import Rgb
from masam.preprocess.resize import ResizedLabels, resize_image


@dataclass(frozen=True)
class FramePreparation:
    """How the frames of a video are prepared. ``resize_probabilities`` is the inverse for probabilities.

    Attributes:
        intensity: Scaling of the colours.
        image_size: Rows and columns of the model's square input; the aspect ratio is not kept (paper.md 1.5).
    """

    intensity: Rgb
    image_size: int

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ConfigError(f"expected an image size of 1 pixel or more, got {self.image_size}")

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that affect the cached frames, as JSON values; SAM's normalisation is applied after the cache."""
        return {"frames": "rgb", "image_size": self.image_size}

    def prepare(self, frames: NDArray[np.uint8]) -> PreparedFrames:
        """Return the frames [T, H, W, 3] of a video as training slices, 0 to 1."""
        return PreparedFrames(frames, FramePreparation(Rgb(), self.image_size))

    def image(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return a frame [H, W, 3] of uint8 as channels [3, h, w] at the model's size."""
        colours = self.intensity.apply(pixels)
        return np.stack([resize_image(colours[..., n], (self.image_size, self.image_size)) for n in range(3)])


@dataclass(frozen=True, eq=False)
class PreparedFrames:
    """A video as slices for training.

    Attributes:
        array: [T, H, W, 3] frames.
        preparation: Scales colours to 0..1, as augmentation and the cache expect.
    """

    array: NDArray[np.uint8]
    preparation: FramePreparation

    @property
    def depth(self) -> int:
        """Number of frames T."""
        return len(self.array)

    @property
    def channels(self) -> int:
        """Number of colours."""
        return self.array.shape[3]

    def slice(self, index: int) -> NDArray[np.float32]:
        """Return frame ``index`` as [3, H, W] at the model's size, 0 to 1."""
        return self.preparation.image(self.array[index])

    def labels(self, reference: NDArray[np.integer]) -> ResizedLabels:
        """Return label values [T, H, W] as slices."""
        return ResizedLabels(reference, (self.preparation.image_size, self.preparation.image_size))

"""From a video's frames to the images that the model sees, and the same for their labels; frame by frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam.errors import ConfigError
from masam.preprocess.intensity import Rgb
from masam.preprocess.resize import resize_image, resize_labels


@dataclass(frozen=True)
class FramePreparation:
    """How the frames of a video are prepared. The way back for probabilities is ``resize_probabilities``.

    Attributes:
        intensity: From 0..255 to the model's numbers.
        image_size: Rows and columns of the model's square input; the aspect ratio is not kept (paper.md 1.5).

    Raises:
        ConfigError: The image size is less than one pixel.
    """

    intensity: Rgb
    image_size: int

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ConfigError(f"expected an image size of 1 pixel or more, got {self.image_size}")

    @property
    def facts(self) -> dict[str, Any]:
        """Return all that decides the prepared frames; SAM's normalisation comes after the cache."""
        return {"frames": "rgb", "image_size": self.image_size}

    def prepare(self, frames: NDArray[np.uint8]) -> PreparedFrames:
        """See the frames [T, H, W, 3] of a video as slices to train on, 0 to 1."""
        return PreparedFrames(frames, FramePreparation(Rgb(), self.image_size))

    def image(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return a frame [H, W, 3] as channels [3, h, w] at the model's size.

        Raises:
            InputError: It is not a frame of three colours in uint8.
        """
        colours = self.intensity.apply(pixels)
        return np.stack([resize_image(colours[..., n], (self.image_size, self.image_size)) for n in range(3)])

    def labels(self, labels: NDArray[np.integer]) -> NDArray[np.integer]:
        """Return a frame's labels [H, W] at the model's size [h, w], values as they were."""
        return resize_labels(labels, (self.image_size, self.image_size))


@dataclass(frozen=True, eq=False)
class PreparedFrames:
    """A video as slices for training.

    Attributes:
        array: [T, H, W, 3] frames.
        preparation: How each is prepared; it leaves colours at 0 to 1, as augmentation and the cache expect.
    """

    array: NDArray[np.uint8]
    preparation: FramePreparation

    @property
    def depth(self) -> int:
        """Number of frames."""
        return len(self.array)

    @property
    def channels(self) -> int:
        """Three colours."""
        return self.array.shape[3]

    def slice(self, index: int) -> NDArray[np.float32]:
        """Return frame ``index`` as [3, H, W] at the model's size, 0 to 1."""
        return self.preparation.image(self.array[index])

    def labels(self, reference: NDArray[np.integer]) -> PreparedFrameLabels:
        """See label values [T, H, W] as slices."""
        return PreparedFrameLabels(reference, self.preparation)


@dataclass(frozen=True, eq=False)
class PreparedFrameLabels:
    """The labels of a video as slices for training.

    Attributes:
        array: [T, H, W] label values.
        preparation: How each is prepared.
    """

    array: NDArray[np.integer]
    preparation: FramePreparation

    @property
    def depth(self) -> int:
        """Number of frames."""
        return len(self.array)

    def slice(self, index: int) -> NDArray[np.integer]:
        """Return the label values [H, W] of frame ``index`` at the model's size."""
        return self.preparation.labels(self.array[index])

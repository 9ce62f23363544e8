"""The embeddings of a volume's windows: computed when they are needed, or kept for many prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masam.axes import Embeddings
from masam.predict.ensemble import Ensemble
from masam.preprocess.intensity import minmax_per_window
from masam.preprocess.pipeline import PreparedVolume
from masam.windows import SliceWindow


class VolumeEncoder:
    """A prepared volume whose windows are encoded when they are needed.

    If ``window_minmax``, each window is scaled to its minimum and maximum. The last ``cached_slices`` slices are kept
    for the next windows.
    """

    automatic = None

    def __init__(
        self, prepared: PreparedVolume, ensemble: Ensemble, *, window_minmax: bool, cached_slices: int
    ) -> None:
        self.prepared = prepared
        self._ensemble = ensemble
        self._window_minmax = window_minmax
        self._slice = lru_cache(cached_slices)(prepared.slice)

    def embeddings(self, windows: Sequence[SliceWindow]) -> list[Embeddings]:
        """Return the embeddings [B * S, D, h, w] of B windows, of each model."""
        images = [np.stack([self._slice(index) for index in window.slices]) for window in windows]
        if self._window_minmax:
            images = [minmax_per_window(image) for image in images]
        return self._ensemble.encode(torch.from_numpy(np.stack(images)))


@dataclass(frozen=True, eq=False)
class EncodedVolume:
    """A prepared volume whose windows have been encoded, so that each prompt runs only the decoder.

    It keeps the embeddings of all windows in memory: slices times window size over stride, each a few hundred channels
    at a sixteenth of the model's image size (ViT, 512 pixels, float32: 1 MB).
    """

    prepared: PreparedVolume  # the slices of the volume
    by_start: Mapping[int, Sequence[Tensor]]  # embeddings [S, D, h, w] of each model, by the first slice of the window
    automatic: NDArray[np.integer] | None = None  # [D, H, W] channels without prompts, before cleaning

    def embeddings(self, windows: Sequence[SliceWindow]) -> list[Embeddings]:
        """Return the embeddings [B * S, D, h, w] of B windows, of each model."""
        of_models = zip(*(self.by_start[window.start] for window in windows), strict=True)
        return [torch.cat(of_model) for of_model in of_models]

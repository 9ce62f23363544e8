"""One model, or several whose class probabilities are averaged (the folds of a cross-validation)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from masam.axes import Embeddings
from masam.device import Precision, autocast, choose_device
from masam.model.masam import Masam
from masam.predict.prompted import prompted_probabilities
from masam.prompts.projection import VolumePrompts


class Ensemble:
    """Models that share a plan, on one device; calls set evaluation mode, which training may have changed."""

    def __init__(self, models: Sequence[Masam], device: str, precision: Precision) -> None:
        self.device = choose_device(device)
        self.precision: Precision = precision
        self.models = [model.to(self.device) for model in models]

    @property
    def num_channels(self) -> int:
        """Number of classes K, including the background."""
        return self.models[0].spec.num_channels

    @torch.inference_mode()
    def encode(self, windows: Float[Tensor, "B S C H W"]) -> list[Embeddings]:
        """Return the embeddings [B * S, D, h, w] of each model for windows of intensities in 0..1."""
        windows = windows.to(self.device)
        with autocast(self.device, self.precision):
            return [model.eval().encode(model.as_input(windows)) for model in self.models]

    @torch.inference_mode()
    def decode(
        self,
        embeddings: Sequence[Embeddings],
        slices: Sequence[int] = (),
        prompts: VolumePrompts | None = None,
        within: range = range(0),
    ) -> Float[Tensor, "N K H W"]:
        """Run the decoder of each model on its embeddings [N, D, h, w] and average the class probabilities.

        With prompts, ``slices`` are the indices of the N slices in the volume, and those outside ``within`` become
        background. The embeddings may be on any device.
        """

        def share(model: Masam, encoded: Embeddings) -> Tensor:
            encoded = encoded.to(self.device)
            with autocast(self.device, self.precision):
                if prompts is None:
                    probabilities = model.eval().decode(encoded)[0].float().softmax(dim=1)
                else:
                    probabilities = prompted_probabilities(model.eval(), encoded, slices, prompts, within)
            return probabilities.div_(len(self.models))

        # Added up model by model, so that at most two sets of probabilities are in memory.
        return reduce(Tensor.add_, map(share, self.models, embeddings))

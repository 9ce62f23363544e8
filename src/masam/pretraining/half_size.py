"""A SAM for pictures of half the side, with shared weights."""

from __future__ import annotations

import torch
from torch.func import functional_call

from masam.axes import Embeddings, Images
from masam.model.sam import Sam
from masam.model.sizes import SamSize
from masam.weights.state_dict import resize_positions

_ENCODER = "image_encoder."


class HalfSize:
    """A view of a model for pictures of half the side.

    The position tables of the model are interpolated as when weights are loaded for another size. Gradients pass
    through the interpolation, so the model is trained for both sizes.

    Attributes:
        sam: The decoder for half the side; its encoder provides only shapes.
    """

    def __init__(self, sam: Sam, size: SamSize) -> None:
        self._full_size_sam, self._size = sam, size
        with torch.device("meta"):
            self.sam = Sam(size, sam.image_encoder.image_size // 2)
        self.sam.mask_decoder = sam.mask_decoder
        for name, module in sam.prompt_encoder.named_children():
            setattr(self.sam.prompt_encoder, name, module)

    def encode(self, images: Images) -> Embeddings:
        """Encode normalised pictures."""
        encoder = self.sam.image_encoder
        parameters = {_ENCODER + name: value for name, value in self._full_size_sam.image_encoder.named_parameters()}
        resized = resize_positions(parameters, self._size, encoder.image_size)
        tensors = {name.removeprefix(_ENCODER): value for name, value in resized.items()}
        return functional_call(encoder, tensors, (images,))

"""A SAM on pictures of half the side, by the same weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from masam.axes import Embeddings, Images
from masam.model.sam import Sam
from masam.model.sizes import SamSize
from masam.weights.state_dict import resize_positions

_ENCODER = "image_encoder."


class HalfSize:
    """Another view of a model, for pictures of half the side.

    Its position tables are the model's, interpolated as they are when weights are loaded for another size. Gradients
    reach them through that, so that a model trained on both sizes is good at both.

    Args:
        sam: The model, which stays the owner of all weights.
        size: Its architecture.

    Attributes:
        sam: What decodes; of its encoder only the shapes are used.
    """

    def __init__(self, sam: Sam, size: SamSize) -> None:
        self._whole, self._size = sam, size
        with torch.device("meta"):
            self.sam = Sam(size, sam.image_encoder.image_size // 2)
        self.sam.mask_decoder = sam.mask_decoder
        for name, part in sam.prompt_encoder.named_children():
            setattr(self.sam.prompt_encoder, name, part)

    def encode(self, images: Images) -> Embeddings:
        """Encode pictures that are normalised already."""
        encoder = self.sam.image_encoder
        own = {_ENCODER + name: value for name, value in self._whole.image_encoder.named_parameters()}
        resized = resize_positions(own, self._size, encoder.image_size)
        tensors = {name.removeprefix(_ENCODER): value for name, value in resized.items()}
        embeddings: Tensor = functional_call(encoder, tensors, (images,))
        return embeddings

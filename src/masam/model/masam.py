"""MA-SAM: the paper's figure as code.

windows [B, S, 3, H, W]
| slices as a batch: N = B * S
v
image encoder, frozen:  block = [adapter3d] attention(q + FacT, k, v + FacT) [adapter3d] MLP
                        (options: LoRA instead of FacT, selected blocks, other adapters)
v
embeddings [N, D, H/16, W/16]
|<-- prompt encoder: optional boxes, points, masks
v
mask decoder, one token per class, four 2 x upsamplings
v
logits [B, S, K, H, W]
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from masam.axes import Embeddings, WindowLogits, Windows
from masam.errors import ConfigError
from masam.model.adapter3d import Adapter3D
from masam.model.fact import FacT, LoRA
from masam.model.image_encoder import ImageEncoder
from masam.model.mask_decoder import PROGRESSIVE_UPSCALING, SAM_UPSCALING, MaskDecoder
from masam.model.prompt_encoder import PromptEncoder
from masam.model.sizes import SAM_CHANNELS
from masam.model.spec import MasamSpec

INCREMENT_PREFIXES = ("image_encoder.fact.", "image_encoder.lora.")
DECODER_PREFIXES = ("prompt_encoder.", "mask_decoder.", "input_projection.")
TRAINED_PREFIXES = (*INCREMENT_PREFIXES, *DECODER_PREFIXES)
TRAINED_PARTS = (".adapter_attention.", ".adapter_mlp.")
"""Trained tensors: increments, adapters, prompt encoder, mask decoder, projection. SAM's encoder is frozen."""


class MasamOutput(NamedTuple):
    """Prediction of MA-SAM for a batch of windows."""

    logits: WindowLogits
    """[B, S, K, H, W] at the input's resolution; channel 0 is the background."""
    iou: Float[Tensor, "B S K"]
    """Prediction of the IoU head, which MA-SAM does not train (paper.md 1.3)."""


class Masam(nn.Module):
    """SAM adapted to windows of slices, with or without prompts.

    In a new model, only the tensors that MA-SAM trains (``TRAINED_PREFIXES``, ``TRAINED_PARTS``) require gradients.

    Args:
        spec: Specification of the model.

    Attributes:
        spec: Specification of the model.
        card: Information stored with the weights (``masam.weights.card.ModelCard``); not used by the model itself.
    """

    def __init__(self, spec: MasamSpec) -> None:
        super().__init__()
        self.spec = spec
        self.card: Any = None
        sam = spec.sam
        self.input_projection = channel_projection(spec.image_channels) if spec.has_projection else None
        self.image_encoder = ImageEncoder(sam, spec.image_size)
        self.prompt_encoder = PromptEncoder(sam, spec.image_size)
        upscaling = PROGRESSIVE_UPSCALING if spec.decoder == "progressive" else SAM_UPSCALING
        self.mask_decoder = MaskDecoder(sam, spec.num_channels, upscaling, spec.class_groups)
        self._add_increments(spec)
        self._add_adapters(spec)
        self.train_only_adaptation()

    def _add_increments(self, spec: MasamSpec) -> None:
        options = (spec.sam.embed_dim, spec.increment_blocks, spec.fact_rank, spec.fact_scale, spec.fact_dropout)
        if spec.increment_blocks and spec.increments == "fact":
            self.image_encoder.fact = FacT(*options)
        elif spec.increment_blocks:
            self.image_encoder.lora = LoRA(*options)

    def _add_adapters(self, spec: MasamSpec) -> None:
        options = (spec.sam.embed_dim, spec.adapter_channels, spec.adapter_depth_kernel, spec.adapter_dilation)
        for index in spec.adapted_blocks:
            block = self.image_encoder.blocks[index]
            if spec.adapter_places != "mlp":
                block.adapter_attention = Adapter3D(*options)
            if spec.adapter_places != "attention":
                block.adapter_mlp = Adapter3D(*options)

    def trained_names(self) -> frozenset[str]:
        """Return the names of the tensors that adaptation adds or trains, including buffers."""
        return frozenset(
            name
            for name in self.state_dict()
            if name.startswith(TRAINED_PREFIXES) or any(part in name for part in TRAINED_PARTS)
        )

    def train_only_adaptation(self) -> None:
        """Freeze SAM's encoder; train increments, adapters, prompt encoder and decoder."""
        trained = self.trained_names()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trained)

    def train_only_decoder(self) -> None:
        """Freeze the encoder with its increments and adapters; train prompt encoder and decoder."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(DECODER_PREFIXES))

    def train_everything(self) -> None:
        """Train the encoder as well: for an encoder without pre-trained weights, or full fine-tuning."""
        self.requires_grad_(True)

    @torch.no_grad()
    def halve_frozen(self) -> None:
        """Convert the weights of the encoder's frozen linear and convolution layers to bf16.

        They make up nearly all of its memory. A forward pass in bf16 gives the same bits as before, because it rounds
        these weights anyway; other types are no longer possible. Norms, biases and positions stay in float32.
        """
        for module in self.image_encoder.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and not module.weight.requires_grad:
                module.weight.data = module.weight.to(torch.bfloat16)

    @torch.no_grad()
    def zero_adapters(self) -> None:
        """Initialise the adapters as the identity; the paper's default initialisation perturbs SAM from the start."""
        for module in self.modules():
            if isinstance(module, Adapter3D):
                module.up.weight.zero_()

    def as_input(self, images: Float[Tensor, "B S channels H W"]) -> Windows:
        """Expand images [B, S, C, H, W] with the specification's ``image_channels`` to the model's input channels."""
        return images.expand(-1, -1, self.spec.input_channels, -1, -1)

    def encode(self, windows: Windows) -> Embeddings:
        """Encode windows [B, S, C, H, W] in 0..1 to [B * S, D, h, w], window by window.

        C is the specification's ``input_channels``: 3, except for images whose number of channels is not 1 or 3.

        Raises:
            ConfigError: The shape of the windows is not that of the model's input.
        """
        side, channels = self.spec.image_size, self.spec.input_channels
        if windows.ndim != 5 or windows.shape[2:] != (channels, side, side):
            raise ConfigError(
                f"expected windows of shape [B, S, {channels}, {side}, {side}], got {list(windows.shape)}",
                where="windows",
            )
        images = windows.flatten(0, 1)
        if self.input_projection is not None:
            images = self.input_projection(images)
        return self.image_encoder(images, windows.shape[1])

    def decode(
        self,
        embeddings: Embeddings,
        points: Float[Tensor, "N P 2"] | None = None,
        point_labels: Int[Tensor, "N P"] | None = None,
        boxes: Float[Tensor, "N 4"] | None = None,
        masks: Float[Tensor, "N 1 mh mw"] | None = None,
    ) -> tuple[Float[Tensor, "N K H W"], Float[Tensor, "N K"]]:
        """Decode embeddings of ``encode``, which can be reused for new prompts.

        Args:
            embeddings: [N, D, h, w].
            points: [N, P, 2] (x, y) in pixels of the input.
            point_labels: [N, P] 1 on the object, 0 off it, -1 for padding.
            boxes: [N, 4] (x0, y0, x1, y1) in pixels of the input.
            masks: [N, 1, 4h, 4w] mask logits.

        Returns:
            Logits [N, K, H, W] and predicted IoU [N, K].
        """
        # Not len(), which an exported program would replace by the traced number of slices.
        sparse, dense = self.prompt_encoder(embeddings.shape[0], points, point_labels, boxes, masks)
        logits, iou = self.mask_decoder(embeddings, self.prompt_encoder.dense_positions(), sparse, dense)
        if self.spec.decoder == "sam":
            side = self.spec.image_size
            logits = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
        return logits, iou

    def decode_each(
        self,
        embeddings: Embeddings,
        boxes: Float[Tensor, "N 4"],
        points: Float[Tensor, "N P 2"],
        point_labels: Int[Tensor, "N P"],
        masks: Float[Tensor, "N 1 mh mw"] | None = None,
    ) -> tuple[Float[Tensor, "N K H W"], Float[Tensor, "N K"]]:
        """Decode slices with different kinds of prompts.

        Each slice is decoded with its own prompts, as by ``decode`` alone: missing prompts add no tokens. Arguments
        and results are those of ``decode``, except that the box or mask of a slice without one is NaN, and the points
        of a slice are followed by points with label -1. ``masks`` is None if no slice has one.
        """
        groups: dict[tuple[bool, int, bool], list[int]] = {}
        for index, kind in enumerate(_prompt_kinds(boxes, point_labels, masks)):
            groups.setdefault(kind, []).append(index)
        parts = []
        for (has_box, count, has_mask), indices in groups.items():
            rows = torch.tensor(indices, device=embeddings.device)
            prompts = {
                "points": points[rows, :count] if count else None,
                "point_labels": point_labels[rows, :count] if count else None,
                "boxes": boxes[rows] if has_box else None,
                "masks": masks[rows] if has_mask and masks is not None else None,
            }
            parts.append(self.decode(embeddings[rows], **prompts))
        order = torch.tensor([index for indices in groups.values() for index in indices], device=embeddings.device)
        logits, iou = (torch.cat(outputs)[order.argsort()] for outputs in zip(*parts, strict=True))
        return logits, iou

    def forward(
        self,
        windows: Windows,
        boxes: Float[Tensor, "B S 4"] | None = None,
        points: Float[Tensor, "B S P 2"] | None = None,
        point_labels: Int[Tensor, "B S P"] | None = None,
        masks: Float[Tensor, "B S 1 mh mw"] | None = None,
        *,
        apart: bool = False,
    ) -> MasamOutput:
        """Segment windows, automatically or with prompts for each slice.

        Args:
            windows: [B, S, C, H, W] in 0..1 with the specification's image size and ``input_channels``.
            boxes: [B, S, 4] (x0, y0, x1, y1) in pixels.
            points: [B, S, P, 2] (x, y) in pixels.
            point_labels: [B, S, P] 1 on the object, 0 off it, -1 for padding.
            masks: [B, S, 1, H/4, W/4] mask logits.
            apart: Slices have different kinds of prompts, marked as in ``decode_each``; requires boxes and points.

        Raises:
            ConfigError: A shape is wrong, or points, labels or boxes are missing.
        """
        if (points is None) != (point_labels is None):
            raise ConfigError("points and point_labels require each other; one of them is missing", where="points")
        if apart and (points is None or boxes is None):
            raise ConfigError("slices with different prompts require boxes and points; one is missing", where="apart")
        embeddings = self.encode(windows)
        batch, quarter = tuple(windows.shape[:2]), self.spec.image_size // 4
        count = points.shape[2] if points is not None and points.ndim == 4 else None
        _require_shape("boxes", boxes, (*batch, 4))
        _require_shape("points", points, (*batch, None, 2))
        _require_shape("point_labels", point_labels, (*batch, count))
        _require_shape("masks", masks, (*batch, 1, quarter, quarter))
        given = {"points": points, "point_labels": point_labels, "boxes": boxes, "masks": masks}
        prompts: dict[str, Any] = {name: None if x is None else x.flatten(0, 1) for name, x in given.items()}
        if apart:
            logits, iou = self.decode_each(embeddings, **prompts)
            # All processes of a run must have gradients for the same tensors, whatever prompts their windows have.
            logits = logits + sum(parameter.sum() * 0 for parameter in self.prompt_encoder.parameters())
        else:
            logits, iou = self.decode(embeddings, **prompts)
        return MasamOutput(logits.unflatten(0, batch), iou.unflatten(0, batch))


def channel_projection(channels: int) -> nn.Conv2d:
    """Return the projection of image channels to SAM's three, initialised so that each is a mean of image channels."""
    projection = nn.Conv2d(channels, SAM_CHANNELS, 1)
    with torch.no_grad():
        # Channel c is added to c mod 3. With two channels, the third is the mean of both.
        weight = torch.stack([torch.eye(SAM_CHANNELS)[channel % SAM_CHANNELS] for channel in range(channels)], dim=1)
        weight[weight.sum(dim=1) == 0] = 1
        projection.weight.copy_((weight / weight.sum(dim=1, keepdim=True))[..., None, None])
        projection.get_parameter("bias").zero_()
    return projection


def empty_model(spec: MasamSpec) -> Masam:
    """Return a model on the meta device: shapes only, without random initialisation."""
    with torch.device("meta"):
        return Masam(spec)


@torch.no_grad()
def merged(model: Masam) -> Masam:
    """Return a copy of a model with its increments added to the query and value weights, in evaluation mode.

    The copy has rank 0, and the type and device of the model. Its encoder differs from every SAM file, so its card
    names none, and ``save`` writes the full encoder.
    """
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    increments = model.image_encoder.increments
    if increments is not None:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(INCREMENT_PREFIXES)}
        for layer in increments.blocks:
            name = f"image_encoder.blocks.{layer}.attn.qkv.weight"
            state[name] = increments.merged(layer, state[name])
    copy = empty_model(replace(model.spec, fact_rank=0, increments="fact", fact_blocks="all"))
    copy.load_state_dict(state, assign=True)
    copy.card = model.card and replace(model.card, base=None)
    return copy.eval()


def _prompt_kinds(boxes: Tensor, point_labels: Tensor, masks: Tensor | None) -> list[tuple[bool, int, bool]]:
    """Return for each slice whether it has a box, its number of points, and whether it has a mask."""
    has_box = (~boxes.isnan().any(dim=1)).tolist()
    counts = (point_labels >= 0).sum(dim=1).tolist()
    has_mask = [False] * len(boxes) if masks is None else (~masks.flatten(1).isnan().any(dim=1)).tolist()
    return list(zip(has_box, counts, has_mask, strict=True))


def _require_shape(name: str, prompt: Tensor | None, expected: tuple[int | None, ...]) -> None:
    """Compare the shape of a prompt with the expected one, in which None stands for any length."""
    if prompt is None:
        return
    pairs = zip(prompt.shape, expected, strict=False)
    if prompt.ndim != len(expected) or any(length not in (actual, None) for actual, length in pairs):
        shape = ", ".join("P" if length is None else str(length) for length in expected)
        raise ConfigError(f"expected the shape [{shape}], got {list(prompt.shape)}", where=name)

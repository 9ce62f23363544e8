"""MA-SAM: the paper's figure as code.

windows [B, S, 3, H, W]
| slices side by side: N = B * S
v
image encoder, frozen:  block = [adapter3d] attention(q + FacT, k, v + FacT) [adapter3d] MLP
                        (the spec can choose LoRA in FacT's place, some of the blocks, other adapters)
v
embeddings [N, D, H/16, W/16]
|<-- prompt encoder: boxes, points, masks; or none
v
mask decoder, one token a class, four 2 x upsamplings
v
logits [B, S, K, H, W]
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from masam.axes import Embeddings, WindowLogits, Windows
from masam.errors import ConfigError
from masam.model.adapter3d import Adapter3D
from masam.model.fact import FacT
from masam.model.image_encoder import ImageEncoder
from masam.model.lora import LoRA
from masam.model.mask_decoder import PROGRESSIVE_UPSCALING, SAM_UPSCALING
from masam.model.sam import build_mask_decoder, build_prompt_encoder
from masam.model.sizes import SAM_CHANNELS
from masam.model.spec import MasamSpec

INCREMENT_PREFIXES = ("image_encoder.fact.", "image_encoder.lora.")
DECODER_PREFIXES = ("prompt_encoder.", "mask_decoder.", "input_projection.")
TRAINED_PREFIXES = (*INCREMENT_PREFIXES, *DECODER_PREFIXES)
TRAINED_PARTS = (".adapter_attention.", ".adapter_mlp.")
"""What trains: increments, adapters, prompt encoder, mask decoder, projection. The rest is SAM's and stays frozen."""


class MasamOutput(NamedTuple):
    """What MA-SAM predicts for a batch of windows."""

    logits: WindowLogits
    """[B, S, K, H, W] at the input's resolution; channel 0 is the background."""
    iou: Float[Tensor, "B S K"]
    """IoU head's prediction; MA-SAM's loss does not train it (paper.md 1.3)."""


class Masam(nn.Module):
    """SAM adapted to windows of slices, automatic and prompted in one.

    A fresh model is trainable in what MA-SAM trains (``TRAINED_PREFIXES``, ``TRAINED_PARTS``) and frozen in the rest.

    Args:
        spec: All numbers of the model.

    Attributes:
        spec: All numbers of the model.
        card: What travels with the weights (``masam.weights.card.ModelCard``); the model itself makes no use of it.
    """

    def __init__(self, spec: MasamSpec) -> None:
        super().__init__()
        self.spec = spec
        self.card: Any = None
        sam = spec.sam
        self.input_projection = channel_projection(spec.image_channels) if spec.has_projection else None
        self.image_encoder = ImageEncoder(sam, spec.image_size)
        self.prompt_encoder = build_prompt_encoder(sam, spec.image_size)
        upscaling = PROGRESSIVE_UPSCALING if spec.decoder == "progressive" else SAM_UPSCALING
        self.mask_decoder = build_mask_decoder(sam, spec.num_channels, upscaling, spec.class_groups)
        self._add_increments(spec)
        self._add_adapters(spec)
        self.train_only_adaptation()

    def _add_increments(self, spec: MasamSpec) -> None:
        blocks, encoder = spec.increment_blocks, self.image_encoder
        if not blocks:
            return
        numbers = (spec.sam.embed_dim, blocks, spec.fact_rank, spec.fact_scale, spec.fact_dropout)
        if spec.increments == "fact":
            encoder.fact = FacT(*numbers)
        else:
            encoder.lora = LoRA(*numbers)

    def _add_adapters(self, spec: MasamSpec) -> None:
        numbers = (spec.sam.embed_dim, spec.adapter_channels, spec.adapter_depth_kernel, spec.adapter_dilation)
        for index in spec.adapted_blocks:
            block = self.image_encoder.blocks[index]
            if spec.adapter_places != "mlp":
                block.adapter_attention = Adapter3D(*numbers)
            if spec.adapter_places != "attention":
                block.adapter_mlp = Adapter3D(*numbers)

    def trained_names(self) -> frozenset[str]:
        """Return the names of the tensors that adaptation makes or changes, buffers included."""
        return frozenset(
            name
            for name in self.state_dict()
            if name.startswith(TRAINED_PREFIXES) or any(part in name for part in TRAINED_PARTS)
        )

    def train_only_adaptation(self) -> None:
        """Freeze SAM's encoder; increments, adapters, prompt encoder and decoder stay trainable."""
        trained = self.trained_names()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trained)

    def train_only_decoder(self) -> None:
        """Freeze the encoder with its increments and adapters; prompt encoder and decoder stay trainable."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(DECODER_PREFIXES))

    def train_everything(self) -> None:
        """Unfreeze the encoder too: for an encoder without pre-trained weights, or full fine-tuning."""
        self.requires_grad_(True)

    @torch.no_grad()
    def halve_frozen(self) -> None:
        """Keep the weights of the encoder's frozen linear and convolution layers in bf16.

        These are nearly all of its memory. A forward pass in bf16 computes with the same bits as before, as it rounds
        these weights anyway; no other pass is possible. Norms, biases and position tables stay in float32.
        """
        for module in self.image_encoder.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and not module.weight.requires_grad:
                module.weight.data = module.weight.to(torch.bfloat16)

    @torch.no_grad()
    def zero_adapters(self) -> None:
        """Let the adapters start as the identity; the paper's start at default values, which perturb SAM at once."""
        for module in self.modules():
            if isinstance(module, Adapter3D):
                module.up.weight.zero_()

    def as_input(self, images: Float[Tensor, "B S channels H W"]) -> Windows:
        """Bring images [B, S, C, H, W] of the spec's ``image_channels`` into the form of the model's input."""
        return images.expand(-1, -1, self.spec.input_channels, -1, -1)

    def encode(self, windows: Windows) -> Embeddings:
        """Encode windows [B, S, C, H, W] in 0..1; returns [B * S, D, h, w], window by window.

        C is the spec's ``input_channels``: 3, but for images with another number of channels than 1 and 3.

        Raises:
            ConfigError: The windows have another shape than the model's input.
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
        """Decode embeddings of ``encode``; a viewer encodes once and decodes at each click.

        Args:
            embeddings: [N, D, h, w].
            points: [N, P, 2] (x, y) in pixels of the input.
            point_labels: [N, P] 1 on the object, 0 off it, -1 for a place to be ignored.
            boxes: [N, 4] (x0, y0, x1, y1) in pixels of the input.
            masks: [N, 1, 4h, 4w] mask logits.

        Returns:
            Logits [N, K, H, W] and predicted IoU [N, K].
        """
        # Not len(): an exported program would keep the number of slices that it was traced with.
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
        """Decode slices of which each has prompts of its own, or none.

        A slice is decoded with what it has, as ``decode`` would alone: absent prompts leave no token behind.

        Args:
            embeddings: [N, D, h, w].
            boxes: [N, 4]; NaN where a slice has none.
            points: [N, P, 2]; a slice's own come first.
            point_labels: [N, P]; -1 after a slice's own.
            masks: [N, 1, 4h, 4w]; NaN where a slice has none. None where no slice has one.

        Returns:
            Logits [N, K, H, W] and predicted IoU [N, K].
        """
        groups: dict[tuple[bool, int, bool], list[int]] = {}
        for index, kind in enumerate(_kinds(boxes, point_labels, masks)):
            groups.setdefault(kind, []).append(index)
        parts = []
        for (has_box, count, has_mask), indices in groups.items():
            some = torch.tensor(indices, device=embeddings.device)
            own = {
                "points": points[some, :count] if count else None,
                "point_labels": point_labels[some, :count] if count else None,
                "boxes": boxes[some] if has_box else None,
                "masks": masks[some] if has_mask and masks is not None else None,
            }
            parts.append(self.decode(embeddings[some], **own))
        back = torch.tensor([index for indices in groups.values() for index in indices], device=embeddings.device)
        order = back.argsort()
        logits, iou = (torch.cat(outputs)[order] for outputs in zip(*parts, strict=True))
        return logits, iou

    def _decode_apart(
        self,
        embeddings: Embeddings,
        points: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None,
        masks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        if points is None or point_labels is None or boxes is None:
            raise ConfigError("slices with prompts of their own need boxes and points; one is missing", where="apart")
        logits, iou = self.decode_each(embeddings, boxes, points, point_labels, masks)
        # Every process of a run must have a gradient for the same tensors, whichever prompts its windows have.
        touched = sum(parameter.sum() * 0 for parameter in self.prompt_encoder.parameters())
        return logits + touched, iou

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
        """Segment windows, automatically or with one prompt a slice.

        Args:
            windows: [B, S, C, H, W] in 0..1, with H = W = the spec's image size, and C = its ``input_channels``.
            boxes: [B, S, 4] (x0, y0, x1, y1) in pixels.
            points: [B, S, P, 2] (x, y) in pixels.
            point_labels: [B, S, P] 1 on the object, 0 off it, -1 for a place to be ignored.
            masks: [B, S, 1, H/4, W/4] mask logits.
            apart: Slices have prompts of their own or none, as ``decode_each`` takes them; boxes and points are given.

        Raises:
            ConfigError: A shape does not fit, or points come without labels; or apart, without boxes and points.
        """
        embeddings = self.encode(windows)
        if (points is None) != (point_labels is None):
            raise ConfigError("points and point_labels go together; one of them is missing", where="points")
        quarter = self.spec.image_size // 4
        expected = {"boxes": (boxes, (4,)), "points": (points, (None, 2)), "masks": (masks, (1, quarter, quarter))}
        if points is not None:
            expected["point_labels"] = (point_labels, (points.shape[2],) if points.ndim == 4 else (None,))
        for name, (prompt, tail) in expected.items():
            if prompt is not None and not _fits(prompt, (*windows.shape[:2], *tail)):
                shape = ", ".join("P" if side is None else str(side) for side in (*windows.shape[:2], *tail))
                raise ConfigError(f"expected the shape [{shape}], got {list(prompt.shape)}", where=name)
        flat = [None if x is None else x.flatten(0, 1) for x in (points, point_labels, boxes, masks)]
        logits, iou = self._decode_apart(embeddings, *flat) if apart else self.decode(embeddings, *flat)
        batch = tuple(windows.shape[:2])
        return MasamOutput(logits.unflatten(0, batch), iou.unflatten(0, batch))


def channel_projection(channels: int) -> nn.Conv2d:
    """Return the projection of image channels to SAM's three; before training each of the three is a mean of some.

    Args:
        channels: Number of image channels C.
    """
    projection = nn.Conv2d(channels, SAM_CHANNELS, 1)
    with torch.no_grad():
        # Channel c goes to c mod 3. Where there are but two, the third gets the mean of both.
        weight = torch.stack([torch.eye(SAM_CHANNELS)[channel % SAM_CHANNELS] for channel in range(channels)], dim=1)
        weight[weight.sum(dim=1) == 0] = 1
        projection.weight.copy_((weight / weight.sum(dim=1, keepdim=True))[..., None, None])
        projection.get_parameter("bias").zero_()
    return projection


def empty_model(spec: MasamSpec) -> Masam:
    """Return a model of shapes only, on the meta device: nothing is drawn at random that is then replaced."""
    with torch.device("meta"):
        return Masam(spec)


def _kinds(boxes: Tensor, point_labels: Tensor, masks: Tensor | None) -> list[tuple[bool, int, bool]]:
    """Say of each slice whether it has a box, how many points, and whether it has a mask."""
    has_box = (~boxes.isnan().any(dim=1)).tolist()
    counts = (point_labels >= 0).sum(dim=1).tolist()
    has_mask = [False] * len(boxes) if masks is None else (~masks.flatten(1).isnan().any(dim=1)).tolist()
    return list(zip(has_box, counts, has_mask, strict=True))


def _fits(tensor: Tensor, shape: tuple[int | None, ...]) -> bool:
    return tensor.ndim == len(shape) and all(
        expected is None or got == expected for got, expected in zip(tensor.shape, shape, strict=True)
    )

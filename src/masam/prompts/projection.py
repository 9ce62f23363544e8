"""From prompts in a scan to what the model gets on each slice, along the way that the slices themselves took."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from masam.errors import ConfigError, InputError, some_of
from masam.labels import LabelScheme
from masam.preprocess.pipeline import Trace
from masam.preprocess.resize import resize_labels
from masam.prompts.records import Box3D, Click, MaskOnSlice, Prompt, Unit

MASK_LOGIT = 10.0
"""Logit of a drawn mask on the object; minus that beside it. SAM was trained with masks of its own, in logits."""

# Millimetres go through the inverse of an affine; a millionth of a voxel is no difference.
_DECIMALS = 6


@dataclass(frozen=True, eq=False)
class SlicePrompt:
    """What the model gets for one class on one slice, in pixels of its input, x before y; the first centre is 0.

    Attributes:
        box: [4] x0, y0, x1, y1, the first and the last pixel that belong to it; None without a box.
        points: [P, 2] x and y.
        point_labels: [P] 1 on the object, 0 beside it.
        mask: [H, W] true on the object, at the size of the model's mask prompts; None without a mask.
    """

    box: NDArray[np.float32] | None
    points: NDArray[np.float32]
    point_labels: NDArray[np.int64]
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class ClassPrompts:
    """The prompts of one class.

    Attributes:
        span: Slices from the box's first to its last; None without a box, where no slice is ruled out.
        box: [4] as in ``SlicePrompt``, the same on every slice of the span.
        clicks: Slice to its points [P, 3], x, y and label.
        masks: Slice to its mask.
    """

    span: range | None = None
    box: NDArray[np.float32] | None = None
    clicks: Mapping[int, NDArray[np.float64]] = field(default_factory=dict)
    masks: Mapping[int, NDArray[np.bool_]] = field(default_factory=dict)

    def at(self, index: int) -> SlicePrompt | None:
        """Return what the model gets on a slice; None where no prompt touches it."""
        box = self.box if self.span is not None and index in self.span else None
        clicks, mask = self.clicks.get(index), self.masks.get(index)
        if box is None and clicks is None and mask is None:
            return None
        points = np.zeros((0, 3)) if clicks is None else clicks
        return SlicePrompt(box, points[:, :2].astype(np.float32), points[:, 2].astype(np.int64), mask)

    def rules_out(self, index: int) -> bool:
        """Say whether the class is not on a slice: it lies outside the range of the box."""
        return self.span is not None and index not in self.span


@dataclass(frozen=True)
class VolumePrompts:
    """The prompts of a prepared volume.

    Attributes:
        classes: Channel to its prompts.
        num_channels: Channels of the model, the background among them.
    """

    classes: Mapping[int, ClassPrompts]
    num_channels: int

    def at(self, index: int) -> dict[int, SlicePrompt]:
        """Return what touches a slice, by channel."""
        found = {channel: prompts.at(index) for channel, prompts in self.classes.items()}
        return {channel: prompt for channel, prompt in found.items() if prompt is not None}

    def ruled_out(self, index: int) -> tuple[int, ...]:
        """Return the channels that are not on a slice, as it lies outside their boxes."""
        return tuple(channel for channel, prompts in self.classes.items() if prompts.rules_out(index))

    def is_decided(self, index: int) -> bool:
        """Say whether prompts alone decide a slice: every class has one there, or is ruled out."""
        return len(self.at(index)) + len(self.ruled_out(index)) == self.num_channels - 1

    def needed(self, depth: int) -> range:
        """Return the slices that the model has to see; all others are background.

        Args:
            depth: Slices of the volume.
        """
        if len(self.classes) < self.num_channels - 1:
            return range(depth)
        spans = [prompts.span for prompts in self.classes.values() if prompts.span is not None]
        if len(spans) < len(self.classes):
            return range(depth)
        return range(min(span.start for span in spans), max(span.stop for span in spans))

    def changed(self, depth: int) -> list[range]:
        """Return the slices, run by run, whose answer may differ from the automatic one, of those that are needed.

        Args:
            depth: Slices of the volume.
        """
        changed = (index for index in self.needed(depth) if self.at(index) or self.ruled_out(index))
        runs: list[range] = []
        for index in changed:
            if runs and runs[-1].stop == index:
                runs[-1] = range(runs[-1].start, index + 1)
            else:
                runs.append(range(index, index + 1))
        return runs


def channels_of(prompts: Sequence[Prompt], scheme: LabelScheme, where: object = None) -> list[int]:
    """Find the channel that each prompt is for.

    Args:
        prompts: Prompts, at least one.
        scheme: Classes of the model.
        where: Scan to name in an error.

    Raises:
        ConfigError: There is no prompt, a class is unknown, or it is not said which of several.
    """
    if not prompts:
        raise ConfigError(
            "expected at least one prompt, got none", where=where or "prompts", fix="leave them out altogether"
        )
    names = [label.name for label in scheme.foreground]
    channels = []
    for prompt in prompts:
        name = prompt.class_name
        if name is None and len(names) > 1:
            raise ConfigError(
                f"the model has {len(names)} classes ({some_of(names)}), so a prompt must say which it means",
                where=where or "prompts",
                fix="name its class",
            )
        if name is not None and name not in names:
            raise ConfigError(f"expected a class out of {', '.join(names)}, got {name!r}", where=where or "prompts")
        channels.append(1 if name is None else names.index(name) + 1)
    return channels


def project(prompts: Sequence[Prompt], trace: Trace, scheme: LabelScheme, where: object = None) -> VolumePrompts:
    """Bring prompts to the slices that they touch.

    A box touches the slices that it reaches into, and is the same rectangle on each; a click touches the slice that it
    lies in. A box in mm on an oblique scan becomes the smallest box of voxels about it.

    Args:
        prompts: Prompts of the volume.
        trace: What was done to the volume.
        scheme: Classes of the model.
        where: Scan to name in an error.

    Raises:
        ConfigError: See ``channels_of``.
        InputError: A prompt lies outside the volume or where it is cropped away, a class has two boxes, a click or mask
            contradicts its box, or a mask does not fit the slices.
    """
    by_channel: dict[int, list[Prompt]] = {}
    for channel, prompt in zip(channels_of(prompts, scheme, where), prompts, strict=True):
        by_channel.setdefault(channel, []).append(prompt)
    classes = {
        channel: _project_class(some, trace, f"{where}, {scheme.labels[channel].name}" if where else None)
        for channel, some in sorted(by_channel.items())
    }
    return VolumePrompts(classes, len(scheme.labels))


def _project_class(prompts: Sequence[Prompt], trace: Trace, where: object) -> ClassPrompts:
    boxes = [prompt for prompt in prompts if isinstance(prompt, Box3D)]
    if len(boxes) > 1:
        raise InputError(f"expected one box a class, got {len(boxes)}", where=where, fix="predict once for each object")
    region = _box_region(boxes[0], trace, where) if boxes else None
    clicks: dict[int, list[tuple[float, float, int]]] = {}
    for click in (prompt for prompt in prompts if isinstance(prompt, Click)):
        position = _click_position(click, trace, where)
        if region is not None:
            _require_consistent(click, position, region, where)
        x, y = trace.edges_to_pixels(position[1:] + 0.5) - 0.5
        clicks.setdefault(_nearest(position[0]), []).append((x, y, int(click.positive)))
    masks: dict[int, NDArray[np.bool_]] = {}
    for mask in (prompt for prompt in prompts if isinstance(prompt, MaskOnSlice)):
        index, image = _mask_image(mask, trace, where)
        if region is not None and not region[0][0] <= index <= region[1][0]:
            raise InputError("the mask lies on a slice outside the box of its class", where=where)
        if index in masks:
            raise InputError(f"there are two masks of one class on voxel {mask.index}", where=where)
        masks[index] = image
    span = None if region is None else range(int(region[0][0]), int(region[1][0]) + 1)
    box = None if region is None else _pixel_box(region, trace)
    # In one order, whatever the user's: prompts of the same meaning give the same answer.
    ordered = {index: np.array(sorted(points)) for index, points in clicks.items()}
    return ClassPrompts(span, box, ordered, masks)


Region = tuple[NDArray[np.float64], NDArray[np.float64]]
"""First and last slice, row and column of a box."""


def _box_region(box: Box3D, trace: Trace, where: object) -> Region:
    """Return the box's whole voxels in the cropped slices' order."""
    corners = np.array(list(itertools.product(*zip(box.corners[:3], box.corners[3:], strict=True))))
    index = _to_voxels(corners, box.unit, trace)
    low, high, last = index.min(axis=0), index.max(axis=0), np.array(trace.source_shape) - 1
    is_outside = (high <= -0.5) | (low >= last + 0.5)
    if box.unit == "voxel":
        is_outside |= (low < -0.5) | (high > last + 0.5)
    if is_outside.any():
        raise _outside("box", box.corners, box.unit, trace, where)
    moved = trace.positions(np.stack([low, high]))
    low, high = moved.min(axis=0), moved.max(axis=0)
    # A voxel that the box only borders on is not in it; half numbers in voxels lie on such a border.
    first, final = np.floor(low + 0.5), np.ceil(high - 0.5)
    first, final = np.minimum(first, final), np.maximum(first, final)
    end = np.array(trace.crop.size) - 1
    if (final < 0).any() or (first > end).any():
        raise InputError(
            "the box lies where the scan is empty and the plan crops it away", where=where, fix="check its corners"
        )
    return np.clip(first, 0, end), np.clip(final, 0, end)


def _pixel_box(region: Region, trace: Trace) -> NDArray[np.float32]:
    (x0, y0), (x1, y1) = trace.edges_to_pixels(np.stack([region[0][1:], region[1][1:] + 1]))
    box = np.array([x0, y0, x1 - 1, y1 - 1])
    # Less than a pixel of the model's image: its middle stands for it.
    thin = np.maximum(0, box[:2] - box[2:]) / 2
    box[:2], box[2:] = box[:2] - thin, box[2:] + thin
    return box.astype(np.float32)


def _click_position(click: Click, trace: Trace, where: object) -> NDArray[np.float64]:
    """Return slice, row and column of a click in the cropped slices."""
    index = _to_voxels(np.array(click.position), click.unit, trace)
    if ((index < -0.5) | (index > np.array(trace.source_shape) - 0.5)).any():
        raise _outside("click", click.position, click.unit, trace, where)
    position = trace.positions(index)
    size = np.array(trace.crop.size)
    if ((position < -0.5) | (position > size - 0.5)).any():
        raise InputError(
            "the click lies where the scan is empty and the plan crops it away", where=where, fix="click on the scan"
        )
    # On the outer edge, the nearest voxel is still the last.
    return np.clip(position, [0, -0.5, -0.5], [size[0] - 1, *(size[1:] - 0.5)])


def _require_consistent(click: Click, position: NDArray[np.float64], region: Region, where: object) -> None:
    slices = _nearest(position[0])
    if not region[0][0] <= slices <= region[1][0]:
        raise InputError(
            f"the click at {_shown(click.position)} lies on a slice outside the box of its class, where there is "
            "nothing of the class",
            where=where,
            fix="enlarge the box or leave the click out",
        )
    if click.positive and not ((region[0] - 0.5 <= position) & (position <= region[1] + 0.5))[1:].all():
        raise InputError(
            f"the click at {_shown(click.position)} says that the object is outside its box",
            where=where,
            fix="enlarge the box or leave the click out",
        )


def _mask_image(prompt: MaskOnSlice, trace: Trace, where: object) -> tuple[int, NDArray[np.bool_]]:
    """Return a mask's slice and itself at the size of the model's mask prompts, a quarter of the image's."""
    order, shape = trace.orientation.order, trace.source_shape
    if prompt.axis != order[0]:
        raise InputError(
            f"the model cuts the scan across axis {order[0]} of its array, the mask was drawn across {prompt.axis}",
            where=where,
        )
    expected = tuple(length for axis, length in enumerate(shape) if axis != prompt.axis)
    if prompt.mask.shape != expected or not 0 <= prompt.index < shape[prompt.axis]:
        raise InputError(
            f"expected a mask of shape {expected} on one of {shape[prompt.axis]} slices, "
            f"got {prompt.mask.shape} on number {prompt.index}",
            where=where,
        )
    # The mask as a volume of one slice goes the same way as the scan.
    one = trace.orientation.apply(np.expand_dims(prompt.mask, prompt.axis))
    centre = np.zeros(3)
    centre[prompt.axis] = prompt.index
    index = int(trace.positions(centre)[0])
    (_, top, left), (depth, height, width) = trace.crop.start, trace.crop.size
    native = one[0, top : top + height, left : left + width]
    if not 0 <= index < depth or not native.any():
        raise InputError("the mask lies where the scan is empty and the plan crops it away", where=where)
    rows, columns = (side // 4 for side in trace.resize.image_size)
    return index, as_mask_prompt(native, (rows, columns))


def as_mask_prompt(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Bring a mask to the size of the model's mask prompts; of one that is not empty something is left.

    Args:
        mask: [H, W].
        size: Rows and columns.
    """
    image = resize_labels(mask.astype(np.uint8), size).astype(np.bool_)
    if not image.any():
        # Thinner than what is left of a pixel: the pixels that hold a part of it stand for it.
        y, x = np.nonzero(mask)
        image[y * size[0] // mask.shape[0], x * size[1] // mask.shape[1]] = True
    return image


def _to_voxels(points: NDArray[np.float64], unit: Unit, trace: Trace) -> NDArray[np.float64]:
    """Return points [..., 3] as positions in voxels of the volume's own array."""
    if unit == "voxel":
        return points
    inverse = np.linalg.inv(trace.source.affine)
    return (points @ inverse[:3, :3].T + inverse[:3, 3]).round(_DECIMALS)


def _nearest(position: float) -> int:
    """Return the slice that a position lies in; on a border the later one."""
    return int(np.floor(position + 0.5))


def _outside(kind: str, values: Sequence[float], unit: Unit, trace: Trace, where: object) -> InputError:
    last = np.array(trace.source_shape) - 1
    if unit == "voxel":
        extent = f"0,0,0 to {_shown(last)}"
    else:
        ends = np.array(list(itertools.product(*zip([-0.5] * 3, last + 0.5, strict=True))))
        corners = ends @ trace.source.affine[:3, :3].T + trace.source.affine[:3, 3]
        extent = f"{_shown(corners.min(axis=0).round(1))} to {_shown(corners.max(axis=0).round(1))}"
    return InputError(
        f"the {kind} {_shown(values)} ({unit}) lies outside the scan, which reaches from {extent}",
        where=where,
        fix="check order, unit and sign of its numbers",
    )


def _shown(values: Sequence[float] | NDArray[np.generic]) -> str:
    return ",".join(f"{value:g}" for value in np.asarray(values).tolist())

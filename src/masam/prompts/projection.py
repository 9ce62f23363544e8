"""Project 3D prompts onto the slices that the model sees, through the preprocessing of the volume."""

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
"""Logit of a mask prompt on the object, negated elsewhere; SAM was trained with its own mask logits."""

# Positions in mm pass through an inverse affine; rounding to a millionth of a voxel removes its numerical error.
_DECIMALS = 6


@dataclass(frozen=True, eq=False)
class SlicePrompt:
    """Prompts for one class on one slice, in pixels of the model's input (x before y; the first pixel's centre is 0).

    Attributes:
        box: [4] x0, y0, x1, y1, its first and last pixel, or None.
        points: [P, 2] x and y.
        point_labels: [P] 1 on the object, 0 outside.
        mask: [H, W] true on the object, at the resolution of mask prompts, or None.
    """

    box: NDArray[np.float32] | None
    points: NDArray[np.float32]
    point_labels: NDArray[np.int64]
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class ClassPrompts:
    """Prompts of one class.

    Attributes:
        span: Slices of the box; None without a box, in which case no slice is excluded.
        box: [4] as in ``SlicePrompt``, the same on every slice of the span.
        clicks: Slice index to points [P, 3]: x, y and label.
        masks: Slice index to mask.
    """

    span: range | None = None
    box: NDArray[np.float32] | None = None
    clicks: Mapping[int, NDArray[np.float64]] = field(default_factory=dict)
    masks: Mapping[int, NDArray[np.bool_]] = field(default_factory=dict)

    def at(self, index: int) -> SlicePrompt | None:
        """Return the prompts on a slice, or None."""
        box = self.box if self.span is not None and index in self.span else None
        clicks, mask = self.clicks.get(index), self.masks.get(index)
        if box is None and clicks is None and mask is None:
            return None
        points = np.zeros((0, 3)) if clicks is None else clicks
        return SlicePrompt(box, points[:, :2].astype(np.float32), points[:, 2].astype(np.int64), mask)


@dataclass(frozen=True)
class VolumePrompts:
    """Prompts of a preprocessed volume.

    Attributes:
        classes: Channel to the prompts of its class.
        num_channels: Channels of the model, including the background.
    """

    classes: Mapping[int, ClassPrompts]
    num_channels: int

    def at(self, index: int) -> dict[int, SlicePrompt]:
        """Return the prompts on a slice, by channel."""
        on_slice = {channel: prompts.at(index) for channel, prompts in self.classes.items()}
        return {channel: prompt for channel, prompt in on_slice.items() if prompt is not None}

    def ruled_out(self, index: int) -> tuple[int, ...]:
        """Return the channels whose boxes exclude a slice."""
        spans = {channel: prompts.span for channel, prompts in self.classes.items()}
        return tuple(channel for channel, span in spans.items() if span is not None and index not in span)

    def is_decided(self, index: int) -> bool:
        """Return whether every class has a prompt on a slice or is excluded from it."""
        return len(self.at(index)) + len(self.ruled_out(index)) == self.num_channels - 1

    def needed(self, depth: int) -> range:
        """Return the slices, of ``depth``, that can contain a class; all others are background."""
        spans = [prompts.span for prompts in self.classes.values() if prompts.span is not None]
        if len(spans) < self.num_channels - 1:
            return range(depth)
        return range(min(span.start for span in spans), max(span.stop for span in spans))

    def changed(self, depth: int) -> list[range]:
        """Return runs of needed slices on which prompts may change the automatic prediction."""
        runs: list[range] = []
        for index in self.needed(depth):
            if not (self.at(index) or self.ruled_out(index)):
                continue
            if runs and runs[-1].stop == index:
                runs[-1] = range(runs[-1].start, index + 1)
            else:
                runs.append(range(index, index + 1))
        return runs


def channels_of(prompts: Sequence[Prompt], scheme: LabelScheme, where: object = None) -> list[int]:
    """Return the channel of each prompt; ``where`` is the scan, for error messages.

    Raises:
        ConfigError: There are no prompts, a class is unknown, or a prompt for a model with several classes has none.
    """
    where = where or "prompts"
    if not prompts:
        raise ConfigError("expected at least one prompt, got none", where=where, fix="omit the prompts entirely")
    names = [label.name for label in scheme.foreground]
    channels = []
    for prompt in prompts:
        name = prompt.class_name
        if name is None and len(names) > 1:
            raise ConfigError(
                f"expected a class for each prompt, as the model has {len(names)} classes ({some_of(names)})",
                where=where,
                fix="add the class name",
            )
        if name is not None and name not in names:
            raise ConfigError(f"expected one of the classes {', '.join(names)}, got {name!r}", where=where)
        channels.append(1 if name is None else names.index(name) + 1)
    return channels


def project(prompts: Sequence[Prompt], trace: Trace, scheme: LabelScheme, where: object = None) -> VolumePrompts:
    """Project prompts onto the slices of a preprocessed volume.

    A box becomes the same rectangle on each slice that it intersects. A click belongs to the slice that contains it. A
    box in mm on an oblique scan becomes its bounding box in voxels.

    Raises:
        ConfigError: See :func:`channels_of`.
        InputError: A prompt is outside the volume or the crop, a class has two boxes, a click or mask contradicts the
            box of its class, or a mask does not match the slices.
    """
    by_channel: dict[int, list[Prompt]] = {}
    for channel, prompt in zip(channels_of(prompts, scheme, where), prompts, strict=True):
        by_channel.setdefault(channel, []).append(prompt)
    classes = {
        channel: _project_class(of_class, trace, f"{where}, {scheme.labels[channel].name}" if where else None)
        for channel, of_class in sorted(by_channel.items())
    }
    return VolumePrompts(classes, len(scheme.labels))


def _project_class(prompts: Sequence[Prompt], trace: Trace, where: object) -> ClassPrompts:
    boxes = [prompt for prompt in prompts if isinstance(prompt, Box3D)]
    if len(boxes) > 1:
        raise InputError(
            f"expected one box per class, got {len(boxes)}", where=where, fix="predict each object separately"
        )
    region = _box_region(boxes[0], trace, where) if boxes else None
    clicks: dict[int, list[tuple[float, float, int]]] = {}
    masks: dict[int, NDArray[np.bool_]] = {}
    for prompt in prompts:
        if isinstance(prompt, Click):
            position = _click_position(prompt, trace, where)
            if region is not None:
                _require_consistent(prompt, position, region, where)
            x, y = trace.edges_to_pixels(position[1:] + 0.5) - 0.5
            clicks.setdefault(_nearest(position[0]), []).append((x, y, int(prompt.positive)))
        elif isinstance(prompt, MaskOnSlice):
            index, image = _mask_image(prompt, trace, where)
            if region is not None and not region[0][0] <= index <= region[1][0]:
                raise InputError("the mask is on a slice outside the box of its class", where=where)
            if index in masks:
                raise InputError(f"expected one mask per class and slice, got two on slice {prompt.index}", where=where)
            masks[index] = image
    span = None if region is None else range(int(region[0][0]), int(region[1][0]) + 1)
    box = None if region is None else _pixel_box(region, trace)
    # Sorted, so that the order of the prompts does not change the prediction.
    ordered = {index: np.array(sorted(points)) for index, points in clicks.items()}
    return ClassPrompts(span, box, ordered, masks)


Region = tuple[NDArray[np.float64], NDArray[np.float64]]
"""First and last slice, row and column of a box."""


def _box_region(box: Box3D, trace: Trace, where: object) -> Region:
    """Return the box in voxels of the cropped slices."""
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
    # A voxel that only touches the box is not part of it; half-integer corners lie on such a border.
    first, final = np.floor(low + 0.5), np.ceil(high - 0.5)
    first, final = np.minimum(first, final), np.maximum(first, final)
    end = np.array(trace.crop.size) - 1
    if (final < 0).any() or (first > end).any():
        raise _cropped_away("box", where, fix="check its corners")
    return np.clip(first, 0, end), np.clip(final, 0, end)


def _pixel_box(region: Region, trace: Trace) -> NDArray[np.float32]:
    (x0, y0), (x1, y1) = trace.edges_to_pixels(np.stack([region[0][1:], region[1][1:] + 1]))
    box = np.array([x0, y0, x1 - 1, y1 - 1])
    # A box thinner than a pixel of the model's image becomes its middle.
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
        raise _cropped_away("click", where, fix="click on the scan")
    # On the outer edge, the nearest voxel is still the last.
    return np.clip(position, [0, -0.5, -0.5], [size[0] - 1, *(size[1:] - 0.5)])


def _require_consistent(click: Click, position: NDArray[np.float64], region: Region, where: object) -> None:
    low, high = region
    if not low[0] <= _nearest(position[0]) <= high[0]:
        problem = "is on a slice outside the box of its class"
    elif click.positive and not ((low - 0.5 <= position) & (position <= high + 0.5))[1:].all():
        problem = "marks the object outside its box"
    else:
        return
    raise InputError(
        f"the click at {_shown(click.position)} {problem}", where=where, fix="enlarge the box or remove the click"
    )


def _mask_image(prompt: MaskOnSlice, trace: Trace, where: object) -> tuple[int, NDArray[np.bool_]]:
    """Return the slice of a mask, and the mask at the resolution of mask prompts, a quarter of the image's."""
    order, shape = trace.orientation.order, trace.source_shape
    if prompt.axis != order[0]:
        raise InputError(f"expected a mask across array axis {order[0]}, got one across {prompt.axis}", where=where)
    expected = tuple(length for axis, length in enumerate(shape) if axis != prompt.axis)
    if prompt.mask.shape != expected or not 0 <= prompt.index < shape[prompt.axis]:
        raise InputError(
            f"expected a mask of shape {expected} on one of {shape[prompt.axis]} slices, "
            f"got {prompt.mask.shape} on number {prompt.index}",
            where=where,
        )
    # Process the mask like a volume of one slice.
    one = trace.orientation.apply(np.expand_dims(prompt.mask, prompt.axis))
    centre = np.zeros(3)
    centre[prompt.axis] = prompt.index
    index = int(trace.positions(centre)[0])
    (_, top, left), (depth, height, width) = trace.crop.start, trace.crop.size
    native = one[0, top : top + height, left : left + width]
    if not 0 <= index < depth or not native.any():
        raise _cropped_away("mask", where)
    rows, columns = (side // 4 for side in trace.image_size)
    return index, as_mask_prompt(native, (rows, columns))


def as_mask_prompt(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Resize a mask [H, W] to the resolution of mask prompts; a mask that is not empty does not become empty."""
    image = resize_labels(mask.astype(np.uint8), size).astype(np.bool_)
    if not image.any():
        # Thinner than the sampling distance: mark the pixels that contain a part of it.
        y, x = np.nonzero(mask)
        image[y * size[0] // mask.shape[0], x * size[1] // mask.shape[1]] = True
    return image


def _to_voxels(points: NDArray[np.float64], unit: Unit, trace: Trace) -> NDArray[np.float64]:
    """Return points [..., 3] in voxels of the volume."""
    if unit == "voxel":
        return points
    inverse = np.linalg.inv(trace.source.affine)
    return (points @ inverse[:3, :3].T + inverse[:3, 3]).round(_DECIMALS)


def _nearest(position: float) -> int:
    """Return the slice that contains a position; the later one on a border."""
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
        f"the {kind} {_shown(values)} ({unit}) is outside the scan, which extends from {extent}",
        where=where,
        fix="check order, unit and sign of its numbers",
    )


def _cropped_away(kind: str, where: object, fix: str | None = None) -> InputError:
    return InputError(f"the {kind} is in an empty part of the scan that the plan crops away", where=where, fix=fix)


def _shown(values: Sequence[float] | NDArray[np.generic]) -> str:
    return ",".join(f"{value:g}" for value in np.asarray(values).tolist())

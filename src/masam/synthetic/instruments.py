"""Made video of surgery in smoke: tools that move, whose parts each frame shows in places only.

Smoke drifts past fast: what it hides in one frame, the frames beside show, a few pixels further on, since tools move
slowly. So a frame does not show where a tool is, and five do. What is hidden is labelled all the same, as by annotators
who have seen the video. The camera sways by less than a pixel a frame, and with it all that is seen.

A video is a pure function of (seed, index).
"""

from __future__ import annotations

import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from masam import atomic
from masam.labels import LabelScheme
from masam.reproducibility import sample_generator
from masam.synthetic.folder import made_names, require_numbers
from masam.synthetic.raw_folder import begin_folder

LABELS = {"background": 0, "shaft": 1, "jaws": 2}
"""Class names and label values: the parts of a tool."""

ROWS, COLUMNS = 128, 160
FRAMES = 12
_NUM_TOOLS = 3
# What the tip of a tool moves between two frames, in pixels, and how far it swings to either side.
STEP_PX = (1.0, 2.5)
_REACH_PX = (10.0, 16.0)
SMOKE_SHARE = 0.45
"""Of a frame's pixels, those that smoke hides at least in part."""

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Tool:
    """A tool of a video, and where it lies in each frame.

    Attributes:
        entry: Row and column where its shaft enters the picture.
        length: Pixels from there to the tip, [T].
        angle: Direction of the shaft, in radians from the columns' axis, [T].
        width: Width of the shaft in pixels.
        colour: Red, green and blue of its brightest line, 0 to 1.
        opening: Angle of its jaws, in radians.
    """

    entry: tuple[float, float]
    length: NDArray[np.float64]
    angle: NDArray[np.float64]
    width: float
    colour: tuple[float, float, float]
    opening: float


def make_instruments_video(seed: int, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Make one video.

    Args:
        seed: Seed of the data set, 0 or more.
        index: Number of the video, 0 or more.

    Returns:
        Frames [T, H, W, 3] (red, green, blue) and label values [T, H, W] (``LABELS``); T is ``FRAMES``, H ``ROWS`` and
        W ``COLUMNS``.

    Raises:
        ConfigError: A number is negative.
    """
    require_numbers(seed, index)
    scene, motion, noise, air = sample_generator(seed, index).spawn(4)
    tissue = _draw_tissue(scene)
    tools = draw_tools(motion)
    sway = _draw_sway(motion)
    frames = np.empty((FRAMES, ROWS, COLUMNS, 3), np.uint8)
    labels = np.zeros((FRAMES, ROWS, COLUMNS), np.uint8)
    rows, columns = np.mgrid[:ROWS, :COLUMNS].astype(np.float32)
    for t in range(FRAMES):
        dy, dx = (float(d) for d in sway[t])
        # The tissue reaches beyond the picture on all sides.
        seen = ndimage.shift(tissue, (-dy, -dx, 0), order=1, mode="nearest")[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
        for tool in tools:
            _paint_tool(seen, labels[t], tool, t, rows + dy, columns + dx)
        _blow_smoke(seen, air)
        grain = noise.standard_normal(seen.shape, dtype=np.float32) * 0.02
        frames[t] = np.clip(np.rint((seen + grain) * 255), 0, 255).astype(np.uint8)
    return frames, labels


def draw_tools(generator: np.random.Generator) -> list[Tool]:
    """Draw the tools of a video, each at a side of its own."""
    # Left, right and lower side of the picture: a place there and the direction to the inside.
    sides = [
        ((generator.uniform(20, 90), -4.0), generator.uniform(-0.5, 0.7)),
        ((generator.uniform(20, 90), COLUMNS + 3.0), math.pi + generator.uniform(-0.7, 0.5)),
        ((ROWS + 3.0, generator.uniform(50, 110)), -math.pi / 2 + generator.uniform(-0.5, 0.5)),
    ]
    tools = []
    for number in generator.permutation(_NUM_TOOLS):
        entry, direction = sides[number]
        length = generator.uniform(48, 72)
        turn = _draw_swing(generator) / length
        grey = generator.uniform(0.6, 0.9)
        tools.append(
            Tool(
                entry,
                length + _draw_swing(generator) * 0.5,
                direction + turn,
                generator.uniform(7.0, 10.0),
                (grey, grey * generator.uniform(0.95, 1.05), grey * generator.uniform(0.95, 1.1)),
                generator.uniform(0.15, 0.5),
            )
        )
    return tools


def _draw_swing(generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw the way of a tip to and fro at an even pace, in pixels, [T]."""
    reach, step = generator.uniform(*_REACH_PX), generator.uniform(*STEP_PX)
    way = generator.uniform(0, 4 * reach) + step * np.arange(FRAMES) * generator.choice((-1, 1))
    swing: NDArray[np.float64] = np.abs((way % (4 * reach)) - 2 * reach) - reach
    return swing


_MARGIN = 8


def _draw_sway(generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw the camera's motion, [T, 2] rows and columns, at most 3 pixels and 0.7 of one a frame."""
    time = np.arange(FRAMES)[:, None]
    period, phase = generator.uniform(28, 45, size=2), generator.uniform(0, 2 * math.pi, size=2)
    sway: NDArray[np.float64] = 3 * np.sin(2 * math.pi * time / period + phase)
    return sway


def _draw_tissue(generator: np.random.Generator) -> Image:
    """Draw a picture of tissue, with folds, vessels and the light of the endoscope; [H, W, 3], with a margin."""
    shape = (ROWS + 2 * _MARGIN, COLUMNS + 2 * _MARGIN)

    def noise(sigma: float) -> Image:
        field = ndimage.gaussian_filter(generator.standard_normal(shape, dtype=np.float32), sigma)
        unit: Image = (field / field.std()).astype(np.float32)
        return unit

    folds, fine = noise(14.0), noise(2.5)
    vessels = np.exp(-((noise(9.0) / 0.12) ** 2))
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    centre = (shape[0] * generator.uniform(0.4, 0.6), shape[1] * generator.uniform(0.4, 0.6))
    light = np.exp(-(((rows - centre[0]) / 110) ** 2) - ((columns - centre[1]) / 130) ** 2)
    red = (0.72 + 0.07 * folds + 0.03 * fine - 0.12 * vessels) * light
    green = (0.34 + 0.07 * folds + 0.04 * fine - 0.16 * vessels) * light
    blue = (0.30 + 0.05 * folds + 0.04 * fine - 0.12 * vessels) * light
    # Wet tissue reflects the light here and there.
    shine = np.clip(noise(2.0) - 2.4, 0, 1) * light
    tissue: Image = np.stack([red + shine, green + shine, blue + shine], axis=-1)
    return tissue


def _blow_smoke(picture: Image, generator: np.random.Generator) -> None:
    """Lay smoke over a frame; that of the next frame has nothing to do with it."""
    field = ndimage.gaussian_filter(generator.standard_normal(picture.shape[:2], dtype=np.float32), 7.0)
    thickness = np.clip((field - np.quantile(field, 1 - SMOKE_SHARE)) / (0.4 * field.std()), 0, 1)[..., None]
    picture += thickness * (np.float32(generator.uniform(0.55, 0.75)) - picture)


def _paint_tool(picture: Image, labels: NDArray[np.uint8], tool: Tool, t: int, rows: Image, columns: Image) -> None:
    """Paint a tool into a frame: a shaft with the light along it, a joint, and two jaws."""
    angle, length = float(tool.angle[t]), float(tool.length[t])
    cos, sin = math.cos(angle), math.sin(angle)
    along = (columns - tool.entry[1]) * cos + (rows - tool.entry[0]) * sin
    across = (rows - tool.entry[0]) * cos - (columns - tool.entry[1]) * sin
    half = tool.width / 2
    shaft = np.maximum(np.abs(across) - half, along - (length - 14))
    jaws = np.full_like(shaft, np.inf)
    for side in (-1, 1):
        open_cos, open_sin = math.cos(tool.opening / 2), side * math.sin(tool.opening / 2)
        jaw_along = (along - (length - 14)) * open_cos + across * open_sin
        jaw_across = across * open_cos - (along - (length - 14)) * open_sin
        # A segment of 14 pixels that gets thinner towards its tip.
        beyond = jaw_along - np.clip(jaw_along, 0, 14)
        jaws = np.minimum(jaws, np.hypot(beyond, jaw_across) - 2.6 + 0.07 * np.clip(jaw_along, 0, 14))
    solid = np.minimum(shaft, jaws)
    share = np.clip(0.5 - solid, 0, 1)[..., None]
    light = 0.35 + 0.65 * np.exp(-(((across + 0.15 * tool.width) / (0.3 * tool.width)) ** 2))
    # The joint between shaft and jaws is dark.
    light = np.where(np.abs(along - (length - 15)) < 1.5, 0.3, light)
    picture += share * (light[..., None] * np.array(tool.colour, np.float32) - picture)
    labels[solid < 0] = LABELS["shaft"]
    labels[(solid < 0) & (along > length - 14)] = LABELS["jaws"]


def write_instruments(root: Path, *, train: int, test: int, seed: int = 0) -> Path:
    """Write the data set as folders of frames, the labels of the held-out videos in ``labelsTs``.

    Args:
        root: Folder to write; made if missing.
        train: Number of training videos, 1 or more.
        test: Number of held-out videos, 0 or more.
        seed: Seed of the data set.

    Returns:
        The folder.

    Raises:
        ConfigError: A number is out of its range.
        InputError: The folder holds videos of another data set.
        ResourceError: Pillow is not installed, or a file cannot be written.
    """
    from masam.io.video.frames import require_package

    require_numbers(seed)
    names = made_names("instruments", train, test)
    require_package("PIL.Image")
    _begin(root, names, train)
    scheme = LabelScheme.from_mapping(LABELS)

    def write(index: int) -> None:
        split = "Tr" if index < train else "Ts"
        frames, labels = make_instruments_video(seed, index)
        atomic.write_aside(root / f"images{split}" / names[index], lambda to: _write_frames(to, frames), replace=True)
        atomic.write_aside(
            root / f"labels{split}" / names[index], lambda to: _write_label_frames(to, labels, scheme), replace=True
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(len(names))))
    content = {
        "name": "Instruments",
        "description": f"Video of tools in smoke, made by formula (masam, seed {seed}).",
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": LABELS,
        "numTraining": train,
        "numTest": test,
        "file_ending": ".png",
    }
    atomic.write_text(root / "dataset.json", json.dumps(content, indent=2) + "\n")
    return root


def _begin(root: Path, names: tuple[str, ...], train: int) -> None:
    """Refuse a folder that holds others' videos; take away what says that it is complete."""
    expected = {
        root / f"{kind}{'Tr' if number < train else 'Ts'}" / name
        for number, name in enumerate(names)
        for kind in ("images", "labels")
    }
    present = (path for path in root.glob("*T[rs]/*") if path.name[0] != ".")
    begin_folder(root, expected, present, "videos")


def _write_frames(folder: Path, frames: NDArray[np.uint8]) -> None:
    from masam.io.video.frames import require_package

    folder.mkdir()
    for number, pixels in enumerate(frames):
        require_package("PIL.Image").fromarray(pixels).save(folder / f"frame{number:03d}.png")


def _write_label_frames(folder: Path, labels: NDArray[np.uint8], scheme: LabelScheme) -> None:
    from masam.io.video.label_frames import write_labels

    folder.mkdir()
    for number, values in enumerate(labels):
        write_labels(folder / f"frame{number:03d}.png", values, scheme)

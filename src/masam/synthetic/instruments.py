"""Synthetic surgical video in smoke: each frame shows moving instruments only in part.

Smoke is independent between frames, and instruments move slowly: what smoke hides in one frame is visible in the next
frames, shifted by a few pixels. One frame is therefore insufficient to locate an instrument, and five are sufficient.
Hidden parts are labelled, as by annotators who have seen the video. The camera moves by less than a pixel per frame.

A video is a pure function of (seed, index).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from masam.reproducibility import sample_generator
from masam.synthetic.dataset import SyntheticDataset, require_non_negative
from masam.synthetic.scan import smooth_noise

LABELS = {"background": 0, "shaft": 1, "jaws": 2}
"""Class names and label values: the parts of an instrument."""

ROWS, COLUMNS = 128, 160
FRAMES = 12
# Motion of a tip between two frames, and its amplitude to either side, in pixels.
STEP_PX = (1.0, 2.5)
_REACH_PX = (10.0, 16.0)
_JAW_PX = 14
# The tissue image extends beyond the frame by this many pixels on each side, for the camera motion.
_MARGIN = 8
SMOKE_SHARE = 0.45
"""Share of the pixels of a frame that smoke hides at least in part."""

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Tool:
    """An instrument and its motion."""

    entry: tuple[float, float]  # row and column where the shaft enters the frame
    length: NDArray[np.float64]  # distance from there to the tip in pixels, [T]
    angle: NDArray[np.float64]  # direction of the shaft, in radians from the column axis, [T]
    width: float  # width of the shaft in pixels
    colour: tuple[float, float, float]  # red, green and blue of its brightest line, 0 to 1
    opening: float  # angle between the jaws, in radians


def make_instruments_video(seed: int, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Make the RGB frames [T, H, W, 3] and label values [T, H, W] (``LABELS``) of one video."""
    require_non_negative(seed, index)
    scene, motion, noise, air = sample_generator(seed, index).spawn(4)
    tissue = _draw_tissue(scene)
    tools = draw_tools(motion)
    camera = _draw_camera_motion(motion)
    frames = np.empty((FRAMES, ROWS, COLUMNS, 3), np.uint8)
    labels = np.zeros((FRAMES, ROWS, COLUMNS), np.uint8)
    rows, columns = np.mgrid[:ROWS, :COLUMNS].astype(np.float32)
    for t in range(FRAMES):
        dy, dx = (float(d) for d in camera[t])
        frame = ndimage.shift(tissue, (-dy, -dx, 0), order=1, mode="nearest")[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
        for tool in tools:
            _paint_tool(frame, labels[t], tool, t, rows + dy, columns + dx)
        _add_smoke(frame, air)
        grain = noise.standard_normal(frame.shape, dtype=np.float32) * 0.02
        frames[t] = np.clip(np.rint((frame + grain) * 255), 0, 255).astype(np.uint8)
    return frames, labels


INSTRUMENTS = SyntheticDataset(
    "Instruments", "Video of surgical instruments in smoke", ("R", "G", "B"), LABELS, make_instruments_video, ".png"
)
"""The data set."""


def draw_tools(generator: np.random.Generator) -> list[Tool]:
    """Draw the instruments of a video, which enter from different sides."""
    # Left, right and lower side of the frame: position there and direction inwards.
    sides = [
        ((generator.uniform(20, 90), -4.0), generator.uniform(-0.5, 0.7)),
        ((generator.uniform(20, 90), COLUMNS + 3.0), math.pi + generator.uniform(-0.7, 0.5)),
        ((ROWS + 3.0, generator.uniform(50, 110)), -math.pi / 2 + generator.uniform(-0.5, 0.5)),
    ]
    tools = []
    for number in generator.permutation(len(sides)):
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
    """Draw a back-and-forth motion of constant speed, in pixels, [T]."""
    reach, step = generator.uniform(*_REACH_PX), generator.uniform(*STEP_PX)
    way = generator.uniform(0, 4 * reach) + step * np.arange(FRAMES) * generator.choice((-1, 1))
    swing: NDArray[np.float64] = np.abs((way % (4 * reach)) - 2 * reach) - reach
    return swing


def _draw_camera_motion(generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw the camera's shift in rows and columns [T, 2], at most 3 pixels in all and 0.7 per frame."""
    time = np.arange(FRAMES)[:, None]
    period, phase = generator.uniform(28, 45, size=2), generator.uniform(0, 2 * math.pi, size=2)
    shift: NDArray[np.float64] = 3 * np.sin(2 * math.pi * time / period + phase)
    return shift


def _draw_tissue(generator: np.random.Generator) -> Image:
    """Draw tissue with folds, vessels and the light of the endoscope; [H, W, 3], with a margin."""
    shape = (ROWS + 2 * _MARGIN, COLUMNS + 2 * _MARGIN)
    folds, fine, vessel_map = (smooth_noise(generator, shape, sigma) for sigma in (14.0, 2.5, 9.0))
    vessels = np.exp(-((vessel_map / 0.12) ** 2))
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    centre = (shape[0] * generator.uniform(0.4, 0.6), shape[1] * generator.uniform(0.4, 0.6))
    light = np.exp(-(((rows - centre[0]) / 110) ** 2) - ((columns - centre[1]) / 130) ** 2)
    red = (0.72 + 0.07 * folds + 0.03 * fine - 0.12 * vessels) * light
    green = (0.34 + 0.07 * folds + 0.04 * fine - 0.16 * vessels) * light
    blue = (0.30 + 0.05 * folds + 0.04 * fine - 0.12 * vessels) * light
    # Specular highlights of wet tissue.
    shine = np.clip(smooth_noise(generator, shape, 2.0) - 2.4, 0, 1) * light
    tissue: Image = np.stack([red + shine, green + shine, blue + shine], axis=-1)
    return tissue


def _add_smoke(frame: Image, generator: np.random.Generator) -> None:
    """Add smoke to a frame, independent of that in other frames."""
    field = ndimage.gaussian_filter(generator.standard_normal(frame.shape[:2], dtype=np.float32), 7.0)
    thickness = np.clip((field - np.quantile(field, 1 - SMOKE_SHARE)) / (0.4 * field.std()), 0, 1)[..., None]
    frame += thickness * (np.float32(generator.uniform(0.55, 0.75)) - frame)


def _paint_tool(frame: Image, labels: NDArray[np.uint8], tool: Tool, t: int, rows: Image, columns: Image) -> None:
    """Paint the shaft of an instrument with a highlight along it, the joint and the two jaws."""
    angle, joint = float(tool.angle[t]), float(tool.length[t]) - _JAW_PX
    cos, sin = math.cos(angle), math.sin(angle)
    along = (columns - tool.entry[1]) * cos + (rows - tool.entry[0]) * sin
    across = (rows - tool.entry[0]) * cos - (columns - tool.entry[1]) * sin
    shaft = np.maximum(np.abs(across) - tool.width / 2, along - joint)
    jaws = np.full_like(shaft, np.inf)
    for side in (-1, 1):
        open_cos, open_sin = math.cos(tool.opening / 2), side * math.sin(tool.opening / 2)
        jaw_along = (along - joint) * open_cos + across * open_sin
        jaw_across = across * open_cos - (along - joint) * open_sin
        # A segment that tapers towards its tip.
        position = np.clip(jaw_along, 0, _JAW_PX)
        jaws = np.minimum(jaws, np.hypot(jaw_along - position, jaw_across) - 2.6 + 0.07 * position)
    solid = np.minimum(shaft, jaws)
    share = np.clip(0.5 - solid, 0, 1)[..., None]
    light = 0.35 + 0.65 * np.exp(-(((across + 0.15 * tool.width) / (0.3 * tool.width)) ** 2))
    # The joint between shaft and jaws is dark.
    light = np.where(np.abs(along - (joint - 1)) < 1.5, 0.3, light)
    frame += share * (light[..., None] * np.array(tool.colour, np.float32) - frame)
    labels[solid < 0] = LABELS["shaft"]
    labels[(solid < 0) & (along > joint)] = LABELS["jaws"]

"""Small synthetic videos with known labels for tests, as folders and files."""

import json
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
from PIL import Image
from tiny import LABELS, SPEC, random_model

from masam.preprocess.intensity import Rgb
from masam.preprocess.plan import Plan
from masam.weights.model_file import ModelCard, save

PLAN = Plan(
    name="endo", modality="video", channels=("R", "G", "B"), slice_axis="stored", intensity=Rgb(), window_minmax=True,
    window=3, image_size=32, labels=LABELS,
)  # fmt: skip
NTSC = Fraction(30000, 1001)


def frames(count=7, size=(20, 26), seed=0):
    """Coloured noise in blocks, with a square of class 1 and of class 4 that move; [T, H, W, 3] and [T, H, W]."""
    generator = np.random.default_rng(seed)
    rows, columns = size
    coarse = generator.integers(0, 256, (count, -(-rows // 4), -(-columns // 4), 3), dtype=np.uint8)
    pixels = coarse.repeat(4, 1).repeat(4, 2)[:, :rows, :columns].copy()
    labels = np.zeros((count, rows, columns), np.uint8)
    for t in range(count):
        labels[t, 2:8, t % 10 : t % 10 + 6] = 1
        labels[t, 10:16, 4:12] = 4
    pixels[labels == 1] = (220, 30, 40)
    pixels[labels == 4] = (20, 60, 230)
    return pixels, labels


def write_frames(folder, pixels, name="frame{}.png"):
    """Write frames numbered from 0 without leading zeros, so that alphabetical order is wrong."""
    folder.mkdir(parents=True)
    for t, one in enumerate(pixels):
        Image.fromarray(one).save(folder / name.format(t))
    return folder


def write_label_frames(folder, labels, name="frame{}.png"):
    """Write indexed PNG files."""
    folder.mkdir(parents=True)
    for t, one in enumerate(labels):
        image = Image.fromarray(one)
        image.putpalette([0, 0, 0, 255, 0, 0] + [9] * 762)
        image.save(folder / name.format(t))
    return folder


def write_clip(path, pixels, *, codec="libx264", pix_fmt="yuv420p", rate=NTSC, times=None, options=None):
    """Write a video file.

    Args:
        path: Its ending names the format.
        pixels: [T, H, W, 3]; lossless with codec ffv1 and pix_fmt bgr0.
        codec: Of PyAV.
        pix_fmt: Of PyAV.
        rate: Frames per second.
        times: Of each frame in ticks of 1/1000 s, for a rate that varies.
        options: Of the format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = pix_fmt
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for t, one in enumerate(pixels):
            frame = av.VideoFrame.from_ndarray(one, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[t], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_lossless(path, pixels, **changes):
    return write_clip(path, pixels, **{"codec": "ffv1", "pix_fmt": "bgr0", **changes})


def write_video_dataset(root, cases=2, count=4, as_files=False):
    """Write a data set of videos in the layout that masam reads."""
    for number in range(cases):
        pixels, labels = frames(count, seed=number)
        if as_files:
            write_clip(root / f"imagesTr/case{number}.mp4", pixels)
        else:
            write_frames(root / f"imagesTr/case{number}", pixels)
        name = "frame{:06d}.png" if as_files else "frame{}.png"
        write_label_frames(root / f"labelsTr/case{number}", labels, name)
    facts = {
        "name": "endo",
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": LABELS,
        "file_ending": ".mp4" if as_files else ".png",
    }
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


def video_model(path, plan=PLAN):
    """Write a model for videos, with weights large enough for predictions to vary between pixels."""
    model = random_model(replace(SPEC, image_channels=3), scale=0.5)
    model.card = ModelCard(plan=plan)
    save(path, model)
    return path

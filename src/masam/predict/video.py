"""Prediction of videos as streams of frames, with memory that does not depend on their length."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from masam.aggregate import WindowAggregator
from masam.errors import ConfigError
from masam.io.video.frames import Frame, FrameSource
from masam.io.video.label_frames import require_indexable
from masam.predict.postprocess import most_probable
from masam.predict.predictor import Predictor
from masam.predict.requirements import require_modality
from masam.preprocess.intensity import minmax_per_window
from masam.preprocess.resize import resize_probabilities
from masam.progress import Progress, Silent
from masam.windows import stream_windows

Sink = Callable[[Frame, NDArray[np.uint8]], None]
"""Receives each frame with its label values [H, W], in order."""


def predict_video(predictor: Predictor, source: FrameSource, sink: Sink, progress: Progress | None = None) -> int:
    """Segment a video and return the number of frames.

    The sink receives the labels of a frame, at its original size, as soon as no further window votes for it. Only the
    frames and votes of the windows in one forward pass are kept in memory.

    Raises:
        ConfigError: A cleaning is requested, or a label value is above 255.
        InputError: A frame is refused, or the file holds fewer frames than it declares; earlier frames were passed on.
        ModelError: The model is not for video, or predicts values that are not finite.
    """
    require_predictable(predictor, source.path)
    progress = progress or Silent()
    progress.start("frames", source.count or 0)
    count = 0
    for frame, probabilities in _probabilities(predictor, source):
        channels = most_probable(resize_probabilities(probabilities, source.size))
        sink(frame, predictor.plan.scheme.to_values(channels).astype(np.uint8))
        progress.advance()
        count += 1
    return count


def require_predictable(predictor: Predictor, what: object) -> None:
    """Refuse a predictor that cannot segment videos; errors name the video ``what``."""
    require_modality(predictor.plan, is_video=True, what=what)
    if predictor.keep_largest or predictor.fill_holes:
        raise ConfigError(
            "keep-largest and fill-holes need the whole volume at once, and a video is processed as a stream",
            where="postprocess",
            fix="leave them out",
        )
    require_indexable(predictor.plan.scheme)


def _probabilities(predictor: Predictor, source: FrameSource) -> Iterator[tuple[Frame, Float[Tensor, "K H W"]]]:
    """Yield each frame with its mean class probabilities [K, H, W] at the model's size."""
    plan, ensemble = predictor.plan, predictor.ensemble
    size = (plan.image_size, plan.image_size)
    aggregator = WindowAggregator(None, ensemble.num_channels, size, plan.window, device=ensemble.device)
    waiting: deque[Frame] = deque()

    def prepared() -> Iterator[NDArray[np.float32]]:
        for frame in source:
            waiting.append(frame)
            yield plan.frame_preparation.image(frame.pixels)  # 3, h, w

    windows = stream_windows(prepared(), plan.window, predictor.stride)
    while batch := list(itertools.islice(windows, predictor.batch)):
        images = [np.stack(frames) for _, frames in batch]
        if plan.window_minmax:
            images = [minmax_per_window(window, jointly=True) for window in images]
        votes = ensemble.decode(ensemble.encode(torch.from_numpy(np.stack(images))))
        for (window, _), probabilities in zip(batch, votes.split(plan.window), strict=True):
            for _, mean in aggregator.add(window, probabilities):
                yield waiting.popleft(), mean
    for _, mean in aggregator.flush():
        yield waiting.popleft(), mean

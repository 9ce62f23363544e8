from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import PLAN, frames, write_frames, write_lossless
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SPEC, random_model
from weight_files import PLAN as CT_PLAN

from masam import aggregate
from masam.errors import ConfigError, InputError, ModelError
from masam.io.video.frames import Frame, FrameSource
from masam.io.video.reader import open_frames
from masam.predict.predictor import Predictor
from masam.predict.video import predict_video
from masam.preprocess.intensity import Rgb
from masam.preprocess.resize import resize_image, resize_probabilities
from masam.volume import Volume
from masam.windows import plan_windows


@pytest.fixture(scope="module")
def model():
    # Weights this large make its predictions vary from pixel to pixel.
    return random_model(replace(SPEC, image_channels=3), scale=0.5)


def predictor(model, **changes):
    return Predictor(model, **{"device": "cpu", "plan": PLAN, **changes})


def source_of(pixels, count=None, path="clip"):
    """A source without a file."""

    def read():
        for t, one in enumerate(pixels):
            yield Frame(t, f"f{t}", one)

    return FrameSource(Path(path), pixels.shape[1:3], count, Fraction(25), True, (), read)


def run(predict, source):
    seen = []
    count = predict_video(predict, source, lambda frame, labels: seen.append((frame, labels)))
    assert [frame.index for frame, _ in seen] == list(range(count))
    return np.stack([labels for _, labels in seen])


def whole(model, pixels, stride=1, minmax=True):
    """The labels by the definition, with every frame and every probability of the video held at once."""
    images = np.stack([
        np.stack([resize_image(one[..., c].astype(np.float32) / np.float32(255), (32, 32)) for c in range(3)])
        for one in pixels
    ])  # fmt: skip
    total, votes = torch.zeros(len(pixels), 3, 32, 32), [0] * len(pixels)
    for window in plan_windows(len(pixels), 3, stride):
        seen = images[list(window.slices)]
        if minmax:
            seen = (seen - seen.min()) / (seen.max() - seen.min() + np.float32(1e-8))
        with torch.no_grad():
            out = model(torch.from_numpy(seen)[None]).logits[0].softmax(dim=1)
        for position in window.votes:
            total[window.start + position] += out[position]
            votes[window.start + position] += 1
    table = np.array([0, 1, 4], np.uint8)
    return np.stack([
        table[resize_probabilities(one / n, pixels.shape[1:3]).argmax(dim=0).numpy()]
        for one, n in zip(total, votes, strict=True)
    ])  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_streaming_equals_the_whole_video_bit_for_bit(model, count, stride):
    pixels, _ = frames(count)
    expected = whole(model, pixels, stride)
    found = run(predictor(model, stride=stride), source_of(pixels))
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)
    if count == 8:
        assert 0.1 < (found == 4).mean() < 0.9, "a prediction of one class would show nothing"


@given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 4))
@settings(deadline=None, max_examples=12)
def test_batches_change_nothing(model, count, stride, batch):
    source = source_of(frames(count)[0])
    alone = run(predictor(model, stride=stride), source)
    assert np.array_equal(run(predictor(model, stride=stride, batch=batch), source), alone)


def test_colours_reach_the_model(model):
    pixels, _ = frames(3)
    swapped = run(predictor(model), source_of(np.ascontiguousarray(pixels[..., ::-1])))
    assert not np.array_equal(run(predictor(model), source_of(pixels)), swapped)


def test_a_plan_without_stretching_and_sams_own_normalisation(model):
    pixels, _ = frames(3)
    plain = PLAN.model_copy(update={"window_minmax": False})
    assert np.array_equal(run(predictor(model, plan=plain), source_of(pixels)), whole(model, pixels, minmax=False))
    sam = plain.model_copy(update={"intensity": Rgb(normalisation="sam")})
    assert run(predictor(model, plan=sam), source_of(pixels)).shape == (3, 20, 26)


def test_files_and_folders_give_the_same_labels(model, tmp_path):
    pixels, _ = frames(4)
    expected = run(predictor(model), source_of(pixels))
    assert np.array_equal(run(predictor(model), open_frames(write_frames(tmp_path / "clip", pixels))), expected)
    assert np.array_equal(run(predictor(model), open_frames(write_lossless(tmp_path / "a.mkv", pixels))), expected)


def test_labels_are_passed_on_after_the_last_vote(model):
    pixels, _ = frames(9)
    read = []

    def counting():
        for t, one in enumerate(pixels):
            read.append(t)
            yield Frame(t, f"f{t}", one)

    source = replace(source_of(pixels), read=counting)
    ahead = []
    predict_video(predictor(model), source, lambda frame, _: ahead.append(len(read) - frame.index))
    # The window around frame t ends with t + 1, and the frame's last vote is that of the window after: t + 2.
    assert max(ahead) == 3


def test_memory_does_not_depend_on_the_length(model, monkeypatch):
    buffers, make = [], aggregate.WindowAggregator.__init__

    def count_buffer(self, *args, **kwargs):
        make(self, *args, **kwargs)
        buffers.append(self.buffer_bytes)

    monkeypatch.setattr(aggregate.WindowAggregator, "__init__", count_buffer)
    for count in (3, 30):
        run(predictor(model, stride=3), source_of(frames(count)[0]))
    assert buffers == [3 * 3 * 32 * 32 * 4] * 2


def test_errors_of_the_stream_are_raised(model, tmp_path):
    pixels, _ = frames(5, size=(40, 40))
    folder = write_frames(tmp_path / "clip", pixels)
    data = (folder / "frame4.png").read_bytes()
    (folder / "frame4.png").write_bytes(data[: len(data) // 2])
    seen = []
    with pytest.raises(InputError, match=r"frame4.png: expected a complete image"):
        predict_video(predictor(model), open_frames(folder), lambda frame, _: seen.append(frame.index))
    assert seen == [0, 1]


def test_models_and_settings_for_volumes_are_refused(model):
    source = source_of(frames(2)[0], path="clip.mp4")
    with pytest.raises(ModelError, match=r"clip.mp4: the model is for CT volumes \(tiny\), the input is video; use a"):
        run(predictor(random_model(), plan=CT_PLAN), source)
    with pytest.raises(ModelError, match=r"a volume: the model is for video \(endo\), the input is a volume"):
        predictor(model).predict(Volume(np.zeros((20, 20, 3), np.float32)))
    with pytest.raises(ConfigError, match="keep-largest and fill-holes need the whole volume at once"):
        run(predictor(model, keep_largest=["ball"]), source)
    large = PLAN.model_copy(update={"labels": {"background": 0, "ball": 1, "box": 300}})
    with pytest.raises(ConfigError, match="label values from 0 to 255"):
        run(predictor(model, plan=large), source)

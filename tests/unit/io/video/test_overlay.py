from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import NTSC, frames, write_frames, write_lossless
from PIL import Image
from tiny import LABELS

from masam.errors import ResourceError
from masam.io.video.overlay import draw_labels, overlay_folder, overlay_video
from masam.io.video.reader import open_frames
from masam.labels import LabelScheme

SCHEME = LabelScheme.from_mapping(LABELS)
PIXELS, VALUES = frames(6, size=(32, 48))


def test_classes_are_tinted_with_an_outline_and_the_background_stays():
    pixels = np.full((9, 9, 3), 100, np.uint8)
    labels = np.zeros((9, 9), np.uint8)
    labels[2:7, 2:7] = 1
    drawn = draw_labels(pixels, labels, SCHEME)
    colour = np.array(SCHEME.labels[1].colour)
    assert (drawn[labels == 0] == 100).all()
    assert (drawn[2, 2:7] == colour).all()
    assert (drawn[2:7, 6] == colour).all()
    assert np.array_equal(drawn[4, 4], np.rint(0.55 * 100 + 0.45 * colour))
    assert (pixels == 100).all()


def test_values_that_are_not_in_the_scheme_are_not_drawn():
    assert np.array_equal(draw_labels(PIXELS[0], np.full((32, 48), 9, np.uint8), SCHEME), PIXELS[0])


def test_a_folders_overlays_are_files_of_the_same_names(tmp_path):
    source = open_frames(write_frames(tmp_path / "clip", PIXELS, "f{}.bmp"))
    with overlay_folder(tmp_path / "drawn", SCHEME) as write:
        for frame, labels in zip(source, VALUES, strict=True):
            write(frame, labels)
    for t in range(6):
        with Image.open(tmp_path / f"drawn/f{t}.png") as image:
            assert np.array_equal(np.asarray(image), draw_labels(PIXELS[t], VALUES[t], SCHEME))


def write(path, source, labels):
    with overlay_video(path, source, SCHEME) as write:
        for frame, one in zip(source, labels, strict=True):
            write(frame, one)
    return open_frames(path)


@pytest.mark.parametrize("rate", [25, NTSC, Fraction(15, 2)])
@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_size_and_frame_rate_are_kept(tmp_path, rate, size):
    pixels, labels = frames(6, size)
    written = write(tmp_path / "b.mp4", open_frames(write_lossless(tmp_path / "a.avi", pixels, rate=rate)), labels)
    assert (written.size, written.frame_rate, written.count, written.is_constant) == (size, rate, 6, True)
    assert written.notes == ()
    drawn = np.stack([draw_labels(p, v, SCHEME) for p, v in zip(pixels, labels, strict=True)])
    assert np.abs(np.stack([frame.pixels for frame in written]).astype(int) - drawn).mean() < 20


def test_times_of_a_varying_rate_are_kept(tmp_path):
    times = [0, 40, 80, 300, 340, 1000]
    written = write(tmp_path / "b.mp4", open_frames(write_lossless(tmp_path / "a.mkv", PIXELS, times=times)), VALUES)
    assert [frame.time_s * 1000 for frame in written] == times


def test_unsupported_sizes_are_reported(tmp_path):
    source = replace(open_frames(write_lossless(tmp_path / "a.avi", PIXELS)), size=(0, 48))
    with pytest.raises(ResourceError, match=r"a.avi: the encoder does not support 48 x 0 pixels at .*; omit --overlay"):
        write(tmp_path / "b.mp4", source, VALUES)


def test_mpeg4_is_used_without_h264(tmp_path, monkeypatch):
    source = open_frames(write_lossless(tmp_path / "a.avi", PIXELS))
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    assert write(tmp_path / "b.mp4", source, VALUES).count == 6
    times = [0, 40, 80, 300, 340, 1000]
    uneven = write(tmp_path / "d.mp4", open_frames(write_lossless(tmp_path / "d.mkv", PIXELS, times=times)), VALUES)
    assert [frame.time_s * 1000 for frame in uneven] == times
    odd = open_frames(write_lossless(tmp_path / "e.avi", PIXELS[:, :31, :47]))
    assert write(tmp_path / "e.mp4", odd, VALUES[:, :31, :47]).size == (31, 47)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    monkeypatch.setattr(av, "codecs_available", {"vp9"})
    with pytest.raises(ResourceError, match="PyAV has none of the encoders libx264, mpeg4; install PyAV from PyPI"):
        write(tmp_path / "c.mp4", source, VALUES)

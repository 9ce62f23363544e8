"""Video files of cameras and converters, and damaged ones: frames or a typed error."""

import builtins
import os
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import NTSC, frames, write_clip, write_frames, write_lossless
from PIL import Image

from masam.errors import InputError, ResourceError
from masam.io.video import frames as frames_module
from masam.io.video.reader import is_video, open_frames, video_sha256

PIXELS, _ = frames(9, size=(32, 48))


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("a.mkv", {}, None),
        ("a.avi", {}, 9),
        ("a.mov", {"codec": "png", "pix_fmt": "rgb24"}, 9),
        ("a.MOV", {"codec": "png", "pix_fmt": "rgb24"}, 9),
    ],
)
def test_frames_of_a_lossless_file_can_be_read_repeatedly(tmp_path, name, options, count):
    source = open_frames(write_lossless(tmp_path / name, PIXELS, **options))
    assert (source.size, source.count, source.frame_rate, source.is_constant) == ((32, 48), count, NTSC, True)
    assert source.notes == ()
    for _ in range(2):
        read = list(source)
        assert np.array_equal(np.stack([frame.pixels for frame in read]), PIXELS)
        assert [frame.name for frame in read] == [f"frame{t:06d}" for t in range(9)]
        # Matroska's ticks are milliseconds.
        assert all(abs(frame.time_s - frame.index / NTSC) <= Fraction(1, 1000) for frame in read)


@pytest.mark.parametrize(
    ("name", "codec", "rate"), [("a.mp4", "libx264", 25), ("a.m4v", "mpeg4", 10), ("a.webm", "libvpx-vp9", 60)]
)
def test_frames_of_a_lossy_file_are_close_to_the_original(tmp_path, name, codec, rate):
    source = open_frames(write_clip(tmp_path / name, PIXELS, codec=codec, rate=rate))
    read = np.stack([frame.pixels for frame in source])
    assert (read.shape, source.frame_rate, source.is_constant) == (PIXELS.shape, rate, True)
    assert np.abs(read.astype(int) - PIXELS).mean() < 30


def test_one_frame_is_a_video(tmp_path):
    source = open_frames(write_lossless(tmp_path / "a.avi", PIXELS[:1], rate=25))
    assert (len(list(source)), source.frame_rate, source.notes) == (1, 25, ())


def test_a_varying_frame_rate_is_reported_and_times_are_kept(tmp_path):
    times = [0, 40, 80, 300, 340, 380, 1000, 1040, 1080]
    source = open_frames(write_lossless(tmp_path / "a.mkv", PIXELS, times=times))
    assert [frame.time_s * 1000 for frame in source] == times
    assert (source.is_constant, source.frame_rate) == (False, Fraction(8000, 1080))
    assert source.notes[0].startswith(
        "the frame rate varies and all 9 frames keep their times; the mean is 7.407 frames"
    )


def test_a_wrong_frame_rate_is_corrected_by_the_times(tmp_path):
    # Declared 30, shown every 100 ms.
    source = open_frames(write_lossless(tmp_path / "a.mkv", PIXELS, rate=30, times=range(0, 900, 100)))
    assert source.frame_rate == 10


def test_an_implausible_frame_rate_is_reported(tmp_path):
    source = open_frames(write_clip(tmp_path / "a.mov", PIXELS, codec="png", pix_fmt="rgb24", rate=5000))
    assert source.notes == ("the frame rate of 5000 frames per second is implausible; all frames are used in order",)


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"codec": "png", "pix_fmt": "rgba"}, "the alpha channel is ignored"),
        ({"codec": "libx264", "pix_fmt": "yuv420p10le"}, "10-bit colours are reduced to 8 bits"),
        ({"codec": "png", "pix_fmt": "gray"}, "the frames are grey"),
    ],
)
def test_pixel_conversions_are_reported(tmp_path, options, note):
    source = open_frames(write_clip(tmp_path / "a.mov", PIXELS, **options))
    (first, *_) = source
    assert source.notes == (note,)
    assert first.pixels.shape == (32, 48, 3)
    assert first.pixels.dtype == np.uint8


def turn(path, matrix):
    """Write a display matrix into the header of a track: a, b, c, d in whole numbers."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (int(x * 65536).to_bytes(4, "big", signed=True) for x in matrix)
    zero = bytes(4)
    data[at : at + 32] = a + b + zero + c + d + zero + zero + zero
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)], ids=["right", "over", "left"]
)
def test_the_declared_rotation_is_applied(tmp_path, matrix, turns):
    path = turn(write_lossless(tmp_path / "a.mov", PIXELS, codec="png", pix_fmt="rgb24"), matrix)
    source = open_frames(path)
    expected = np.rot90(PIXELS, turns, axes=(1, 2))
    assert source.size == expected.shape[1:3]
    assert np.array_equal(np.stack([frame.pixels for frame in source]), expected)
    assert "frames are rotated by" in source.notes[0]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ((0.6, 0.8, -0.8, 0.6), "is rotated by -?53"),
        ((-1, 0, 0, 1), "frame 0 of 9 is mirrored, only quarter"),
    ],
)
def test_unsupported_rotations_are_refused(tmp_path, matrix, message):
    with pytest.raises(InputError, match=message):
        open_frames(turn(write_lossless(tmp_path / "a.mov", PIXELS, codec="png", pix_fmt="rgb24"), matrix))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.mp4", {}, r"a.mp4: 0 frames: cannot be read as .mp4 \(Invalid data found"),
        ("fast.mp4", {"options": {"movflags": "faststart"}}, r"cut off at frame \d \(declared: 9 frames\); copy"),
        ("a.mkv", {}, r"the video is cut off: expected 0.300 s as the file declares, got \d frames of 0.\d+ s; copy"),
        ("a.avi", {"codec": "mpeg4"}, "(expected 9 frames as the file declares, got|cut off at|cannot be read as)"),
    ],
)
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_file_that_is_cut_off_is_refused_with_its_frames_counted(tmp_path, name, options, message, share):
    noise = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    path = write_clip(tmp_path / name, noise, **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=message):
        list(open_frames(path))


def test_a_file_that_lacks_its_last_frame_is_refused(tmp_path):
    path = write_lossless(tmp_path / "a.mkv", PIXELS)
    with av.open(str(path)) as container:
        last = [packet.pos for packet in container.demux(video=0) if packet.size][-1]
    path.write_bytes(path.read_bytes()[: last - 2])
    with pytest.raises(InputError, match=r"cut off: expected 0.300 s as the file declares, got 8 frames of 0.267 s"):
        open_frames(path)


def test_an_avi_that_ends_after_a_whole_frame_is_refused(tmp_path):
    path = write_lossless(tmp_path / "a.avi", PIXELS)
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size + 8 for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: ends[5] + ends[5] % 2])
    with pytest.raises(InputError, match=r"a.avi: expected 9 frames as the file declares, got \d; copy or export"):
        open_frames(path)


def test_an_unknown_codec_is_refused(tmp_path):
    path = write_lossless(tmp_path / "a.mov", PIXELS, codec="png", pix_fmt="rgb24")
    path.write_bytes(path.read_bytes().replace(b"png ", b"zzzz"))
    with pytest.raises(InputError, match=r"PyAV does not support the codec of the video; convert it to H.264"):
        open_frames(path)


def test_a_video_trimmed_without_reencoding_is_accepted(tmp_path):
    path = write_clip(tmp_path / "a.mp4", PIXELS, rate=25)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    data[at : at + 4] = (160).to_bytes(4, "big")  # of 360 ms
    path.write_bytes(data)
    source = open_frames(path)
    assert source.count == len(list(source)) == 4


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_file_without_frames_is_refused(tmp_path, name):
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(InputError, match=rf"{name}: (0 frames: cannot be read|expected a video, .* \(0 frames\)$)"):
        open_frames(tmp_path / name)


def test_a_damaged_frame_is_refused(tmp_path):
    path = write_lossless(tmp_path / "a.mov", PIXELS, codec="png", pix_fmt="rgb24")
    data = bytearray(path.read_bytes())
    at = data.index(b"IDAT", len(data) // 2)
    data[at + 8 : at + 60] = bytes(52)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a.mov: (frame \d of 9 (cannot be decoded|is damaged)|expected 9 frames)"):
        list(open_frames(path))


def test_frames_of_several_sizes_are_refused(tmp_path):
    other = av.CodecContext.create("png", "w")
    other.height, other.width, other.pix_fmt, other.time_base = 16, 24, "rgb24", 1 / NTSC
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("png", rate=NTSC)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(PIXELS[0], format="rgb24")))
        small = av.VideoFrame.from_ndarray(np.ascontiguousarray(PIXELS[1, ::2, ::2]), format="rgb24")
        small.pts, small.time_base = 1, 1 / NTSC
        for packet in other.encode(small):
            packet.stream = stream
            container.mux(packet)
    with pytest.raises(InputError, match=r"a.mov: frame 1 of 2 has 24 x 16 pixels, the first one has 48 x 32; convert"):
        list(open_frames(tmp_path / "a.mov"))


def test_a_playlist_under_a_videos_name_opens_nothing(tmp_path):
    (tmp_path / "a.mp4").write_text("#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/x.ts\n")
    (tmp_path / "b.mkv").write_text(f"ffconcat version 1.0\nfile '{tmp_path}/secret.mkv'\n")
    for name in ("a.mp4", "b.mkv"):
        with pytest.raises(InputError, match="cannot be read as"):
            open_frames(tmp_path / name)


def test_a_file_without_a_video_stream_is_refused(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="expected a video, the file has no video stream"):
        open_frames(tmp_path / "a.mkv")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected a video or a folder of frames, found nothing; check the path"):
        open_frames(tmp_path / "missing.mp4")
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    with pytest.raises(
        InputError, match=r"a folder of frames or a video file \(.mp4, .*, got a.gif; convert it to mp4"
    ):
        open_frames(tmp_path / "a.gif")
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(InputError, match="expected a regular file, got a FIFO"):
        open_frames(tmp_path / "a.mp4")


def test_frames_that_are_too_large_are_refused(tmp_path, monkeypatch):
    path = write_lossless(tmp_path / "a.mkv", PIXELS)
    monkeypatch.setattr(frames_module, "MAX_FRAME_PIXELS", 32 * 48 - 1)
    with pytest.raises(InputError, match="expected a frame of 1 to 1535 pixels, got 48 x 32"):
        open_frames(path)


@pytest.mark.parametrize(("package", "name"), [("av", "PyAV"), ("PIL", "Pillow")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, package, name):
    clip, folder = write_lossless(tmp_path / "a.mkv", PIXELS), write_frames(tmp_path / "clip", PIXELS[:2])
    real = builtins.__import__

    def without(wanted, *args, **kwargs):
        if wanted.split(".")[0] == package:
            raise ImportError(f"No module named {wanted!r}")
        return real(wanted, *args, **kwargs)

    monkeypatch.setattr("importlib.import_module", without)
    with pytest.raises(ResourceError, match=rf"video requires {name}.*; pip install 'masam\[video\]'"):
        open_frames(clip if package == "av" else folder)


def test_videos_are_recognised_by_ending_or_frames(tmp_path):
    assert not is_video(tmp_path)
    assert not is_video(tmp_path / "missing.mp4")
    (tmp_path / "a.nii.gz").touch()
    assert not is_video(tmp_path / "a.nii.gz")
    (tmp_path / "a.mp4").touch()
    assert is_video(tmp_path / "a.mp4")
    assert is_video(write_frames(tmp_path / "clip", PIXELS[:1]))


def test_the_hash_of_a_folder_depends_on_names_and_content(tmp_path):
    folder = write_frames(tmp_path / "clip", PIXELS[:3])
    before = video_sha256(folder)
    (folder / ".hidden.png").touch()
    assert video_sha256(folder) == before
    (folder / "frame2.png").rename(folder / "frame3.png")
    moved = video_sha256(folder)
    Image.fromarray(PIXELS[5]).save(folder / "frame3.png")
    assert len({before, moved, video_sha256(folder)}) == 3

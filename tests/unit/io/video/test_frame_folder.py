import io
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from clips import frames, write_frames
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from masam.errors import InputError
from masam.io.video import frames as frames_module
from masam.io.video.frame_folder import natural_key, open_folder, read_frame


def test_frames_of_a_folder_can_be_read_repeatedly_in_natural_order(tmp_path):
    pixels, _ = frames(12)
    write_frames(tmp_path / "clip", pixels)
    (tmp_path / "clip" / "._frame3.png").write_text("macOS's")
    (tmp_path / "clip" / "notes.txt").write_text("not a frame")
    (tmp_path / "clip" / "folder.png").mkdir()
    source = open_folder(tmp_path / "clip")
    assert (source.size, source.count, source.frame_rate, source.notes) == ((20, 26), 12, None, ())
    for _ in range(2):
        read = list(source)
        assert [frame.name for frame in read] == [f"frame{t}" for t in range(12)]
        assert [frame.index for frame in read] == list(range(12))
        assert {frame.time_s for frame in read} == {None}
        assert np.array_equal(np.stack([frame.pixels for frame in read]), pixels)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=12, unique=True), st.sampled_from(["f{}", "F{}x", "a{}_1"]))
def test_natural_order_is_the_order_of_numbers(numbers, name):
    names = [name.format(number) for number in numbers]
    assert sorted(names, key=natural_key) == [name.format(number) for number in sorted(numbers)]


@given(st.lists(st.text(max_size=8), max_size=8))
def test_any_names_can_be_ordered(names):
    keys = sorted(map(natural_key, names))
    assert keys == sorted(map(natural_key, reversed(names)))


@pytest.mark.parametrize(
    ("one", "other"), [("frame01.png", "frame1.png"), ("frame1.jpg", "frame1.png"), ("Frame1.png", "frame1.png")]
)
def test_two_frames_of_one_number_are_refused(tmp_path, one, other):
    for name in (one, other):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    with pytest.raises(InputError, match=rf"the order of {one} and {other} is ambiguous \(2 frames\); rename"):
        open_folder(tmp_path)


def test_a_folder_without_frames_is_refused(tmp_path):
    (tmp_path / ".frame0.png").touch()
    with pytest.raises(InputError, match=r"expected frames .*found 0 in this folder"):
        open_folder(tmp_path)


def test_frames_of_several_sizes_are_refused_with_the_frame_named(tmp_path):
    write_frames(tmp_path / "clip", [np.zeros((4, 6, 3), np.uint8)] * 3)
    Image.new("RGB", (6, 5)).save(tmp_path / "clip/frame1.png")
    with pytest.raises(InputError, match=r"frame1.png: frame 1 of 3 has 6 x 5 pixels, the first one has 6 x 4"):
        open_folder(tmp_path / "clip")


def test_a_frame_that_changes_its_size_meanwhile_is_refused(tmp_path):
    source = open_folder(write_frames(tmp_path / "clip", [np.zeros((4, 6, 3), np.uint8)] * 3))
    Image.new("RGB", (6, 5)).save(tmp_path / "clip/frame1.png")
    with pytest.raises(InputError, match=r"frame1.png: frame 1 of 3 changed while the folder was read"):
        list(source)


def _cut(data):
    return data[: len(data) * 2 // 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_cut, r"frame2.png: expected a complete image \(.*\); copy or export it again"),
        (lambda _: b"no image at all", r"frame2.png: expected a complete image \(cannot identify image file\)"),
        (lambda _: b"", "frame2.png: the file is empty"),
    ],
)
def test_an_unreadable_frame_is_named(tmp_path, change, message):
    pixels, _ = frames(3, size=(64, 64))
    file = write_frames(tmp_path / "clip", pixels) / "frame2.png"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(InputError, match=message):
        list(open_folder(tmp_path / "clip"))


RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
GREY = RGB[..., 0]
ALPHA = np.dstack([RGB, GREY])
DEEP = GREY.astype(np.uint16) * 256 + 7
REPEATED = np.repeat(GREY[..., None], 3, axis=2)
TURNED = Image.Exif()
TURNED[274] = 6


@pytest.mark.parametrize(
    ("name", "image", "options", "expected", "note"),
    [
        ("a.png", Image.fromarray(ALPHA), {}, RGB, "1 of 1 frames have an alpha channel, which is ignored"),
        ("a.png", Image.fromarray(GREY), {}, REPEATED, "1 of 1 frames are grey"),
        ("a.png", Image.fromarray(DEEP), {}, REPEATED, "1 of 1 frames have 16 bits per colour, of which the upper 8"),
        ("a.tif", Image.fromarray(RGB), {"tiffinfo": {274: 6}}, np.rot90(RGB, -1), "1 of 1 frames are rotated"),
        ("a.tif", Image.fromarray(RGB), {}, RGB, None),
        ("a.bmp", Image.fromarray(RGB), {}, RGB, None),
    ],
    ids=["alpha", "grey", "16 bits", "turned tif", "tif", "bmp"],
)
def test_pixel_conversions_are_reported(tmp_path, name, image, options, expected, note):
    image.save(tmp_path / name, **options)
    source = open_folder(tmp_path)
    (frame,) = source
    assert source.size == expected.shape[:2]
    assert np.array_equal(frame.pixels, expected)
    assert any(note in said for said in source.notes) if note else source.notes == ()


def test_the_exif_orientation_is_applied(tmp_path):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = 250
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=TURNED, quality=95)
    source = open_folder(tmp_path)
    (frame,) = source
    assert source.size == (32, 16)
    assert frame.pixels[2:14].max() < 10
    assert frame.pixels[18:30].min() > 240


def test_unsupported_images_are_refused(tmp_path, monkeypatch):
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"expected 8 bits per colour, .*got Pillow's mode F"):
        read_frame(tmp_path / "a.tif")
    one = Image.fromarray(RGB)
    one.save(tmp_path / "b.tif", save_all=True, append_images=[one])
    with pytest.raises(InputError, match="expected one image, got 2; store each frame as a file"):
        read_frame(tmp_path / "b.tif")
    one.save(tmp_path / "c.png", format="GIF")
    with pytest.raises(InputError, match="expected a complete image"):
        read_frame(tmp_path / "c.png")
    monkeypatch.setattr(frames_module, "MAX_FRAME_PIXELS", 23)
    one.save(tmp_path / "d.png")
    with pytest.raises(InputError, match="expected a frame of 1 to 23 pixels, got 6 x 4; reduce the size of the video"):
        read_frame(tmp_path / "d.png")


def test_large_declared_sizes_are_refused_before_memory_is_allocated(tmp_path):
    data = io.BytesIO()
    Image.new("L", (8, 8)).save(data, format="BMP")
    claim = bytearray(data.getvalue())
    claim[18:26] = (12_000).to_bytes(4, "little") * 2
    (tmp_path / "a.bmp").write_bytes(claim)
    with pytest.raises(InputError, match="pixels, got 12000 x 12000"):
        read_frame(tmp_path / "a.bmp")


@given(st.integers(0, 2**32 - 1), st.sampled_from(["PNG", "JPEG", "BMP", "TIFF"]))
@settings(max_examples=60, deadline=None)
def test_damaged_images_are_read_or_refused(seed, kind):
    generator = np.random.default_rng(seed)
    data = io.BytesIO()
    Image.fromarray(RGB).save(data, format=kind)
    damaged = bytearray(data.getvalue())
    for at in generator.integers(0, len(damaged), 3):
        damaged[at] ^= 1 << generator.integers(0, 8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{kind.lower()}"
        path.write_bytes(damaged[: generator.integers(1, 2 * len(damaged))])
        with suppress(InputError):
            assert read_frame(path).dtype == np.uint8

import numpy as np
import pytest
from clips import write_label_frames
from PIL import Image
from tiny import LABELS

from masam.errors import ConfigError, InputError, ResourceError
from masam.io.video import label_frames
from masam.io.video.label_frames import holds_colours, label_files, read_labels, require_indexable, write_labels
from masam.labels import LabelScheme

SCHEME = LabelScheme.from_mapping(LABELS)
VALUES = np.random.default_rng(0).choice(np.array([0, 1, 4], np.uint8), (12, 9))


def test_pixel_values_are_label_values_and_colours_are_the_classes(tmp_path):
    write_labels(tmp_path / "a.png", VALUES, SCHEME)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), VALUES)
        coloured = np.asarray(image.convert("RGB"))
    for label in SCHEME.labels:
        assert (coloured[label.value == VALUES] == label.colour).all()
    assert np.array_equal(read_labels(tmp_path / "a.png"), VALUES)


def test_files_are_found_in_natural_order(tmp_path):
    folder = write_label_frames(tmp_path / "labels", [VALUES] * 11)
    (folder / "frame3.png").rename(folder / "frame3.PNG")
    (folder / ".frame1.png").write_bytes(b"")
    (folder / "notes.txt").write_bytes(b"")
    (folder / "more.png").mkdir()
    files = label_files(folder)
    assert list(files) == [f"frame{t}" for t in range(11)]
    assert files["frame3"] == folder / "frame3.PNG"
    (folder / "frame3.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"labels: frame3.PNG and frame3.png are labels of the same frame; rename"):
        label_files(folder)


def test_colour_images_are_distinguished_from_labels(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "picture.png")
    write_labels(tmp_path / "labels.png", VALUES, SCHEME)
    Image.fromarray(VALUES).save(tmp_path / "grey.png")
    (tmp_path / "text.png").write_bytes(b"no PNG" * 9)
    (tmp_path / "short.png").write_bytes((tmp_path / "picture.png").read_bytes()[:26])
    names = ("picture", "labels", "grey", "text", "short")
    assert [name for name in names if holds_colours(tmp_path / f"{name}.png")] == ["picture"]


@pytest.mark.parametrize("values", [VALUES, VALUES * 63 + 3, np.zeros((1, 1), np.uint8), VALUES > 0])
def test_indexed_and_grey_files_are_read_as_they_are(tmp_path, values):
    values = values.astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "grey.png")
    assert np.array_equal(read_labels(tmp_path / "grey.png"), values)
    file = write_label_frames(tmp_path / "labels", [values]) / "frame0.png"
    assert np.array_equal(read_labels(file), values)


def test_an_indexed_file_of_few_bits_is_read_as_it_is(tmp_path):
    image = Image.fromarray(VALUES // 4)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "a.png", bits=1)
    assert (tmp_path / "a.png").read_bytes()[24] == 1
    assert np.array_equal(read_labels(tmp_path / "a.png"), VALUES // 4)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGB", (4, 4)), "pixel values are label values, got RGB; replace each colour by the label value"),
        (Image.new("RGBA", (4, 4)), "got RGB with alpha; replace"),
        (Image.new("LA", (4, 4)), "got grey with alpha"),
        (Image.new("I;16", (4, 4)), "an indexed or 8-bit grey PNG, got 16-bit grey"),
        (Image.new("1", (4, 4)), "got 1-bit grey"),
    ],
)
def test_other_kinds_are_refused(tmp_path, image, message):
    image.save(tmp_path / "a.png")
    with pytest.raises(InputError, match=rf"a.png: .*{message}"):
        read_labels(tmp_path / "a.png")


def test_broken_files_are_refused(tmp_path):
    write_labels(tmp_path / "a.png", np.random.default_rng(0).integers(0, 5, (40, 40), dtype=np.uint8), SCHEME)
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"b.png: expected a complete PNG \(.*\); copy or export it again"):
        read_labels(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"JFIF" + data)
    with pytest.raises(InputError, match=r"c.png: expected a PNG file; store label frames as indexed PNG"):
        read_labels(tmp_path / "c.png")


def test_a_file_that_does_not_read_back_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(label_frames, "read_labels", lambda _: VALUES + 1)
    with pytest.raises(ResourceError, match=r"a.png: the file did not read back as it was written; check the disk"):
        write_labels(tmp_path / "a.png", VALUES, SCHEME)


def test_values_above_255_are_refused():
    require_indexable(LabelScheme.from_mapping({"background": 0, "a": 255}))
    with pytest.raises(ConfigError, match=r"labels: expected label values from 0 to 255 .*got 256"):
        require_indexable(LabelScheme.from_mapping({"background": 0, "a": 256}))

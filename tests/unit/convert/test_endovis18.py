import json

import numpy as np
import pytest
from downloads import hashes, write_endovis, write_picture
from PIL import Image

from masam.convert.colour_labels import values_of
from masam.convert.conversion import convert
from masam.convert.endovis18 import COLOURS, LABELS, VALUES, survey_endovis18
from masam.errors import InputError
from masam.labels import LabelScheme

ALL_COLOURS = np.array([colours[0] for colours in COLOURS.values()] * 2, np.uint8).reshape(4, 6, 3)
EXPECTED = np.array([*range(12)] * 2, np.uint8).reshape(4, 6)
SEQUENCES = [*range(1, 8), *range(9, 17)]


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    return write_endovis(tmp_path_factory.mktemp("endovis") / "EndoVis18", ALL_COLOURS)


@pytest.fixture(scope="module")
def converted(download, tmp_path_factory):
    before = hashes(download)
    root = tmp_path_factory.mktemp("made") / "set"
    convert(survey_endovis18(download, root), link=True)
    assert hashes(download) == before
    return root


def test_one_folder_of_frames_per_case(converted):
    training = [f"train_seq_{n:02d}" for n in SEQUENCES]
    test = [f"test_seq_{n:02d}" for n in range(1, 5)]
    for split, cases in (("Tr", training), ("Ts", test)):
        for kind in ("images", "labels"):
            folder = converted / f"{kind}{split}"
            assert sorted(path.name for path in folder.iterdir()) == sorted(cases)
            for case in cases:
                assert sorted(path.name for path in (folder / case).iterdir()) == ["frame000.png", "frame001.png"]


def test_its_description(converted):
    content = json.loads((converted / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert (content["file_ending"], content["numTraining"], content["numTest"]) == (".png", 15, 4)
    assert content["labels"] == LABELS
    assert list(LABELS.values()) == list(range(12))


def test_frames_are_linked_and_colours_become_values(converted, download):
    frame = converted / "imagesTs/test_seq_03/frame001.png"
    assert frame.samefile(download / "Test/seq_3/left_frames/frame001.png")
    with Image.open(converted / "labelsTs/test_seq_03/frame001.png") as label:
        assert label.mode == "P"
        np.testing.assert_array_equal(np.asarray(label), EXPECTED)
        palette = np.array(label.convert("RGB"))
    scheme = LabelScheme.from_mapping(LABELS)
    np.testing.assert_array_equal(palette, np.array([one.colour for one in scheme.labels])[EXPECTED])


def test_both_spellings_of_thread():
    both = np.array([[[187, 155, 25], [128, 155, 25]]], np.uint8)
    np.testing.assert_array_equal(values_of(both, VALUES), [[LABELS["thread"]] * 2])
    assert len(VALUES) == 13


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "P"])
def test_pictures_with_opacity_and_with_palette(tmp_path, kind):
    colours = ALL_COLOURS
    if kind == "RGBA":
        opacity = np.arange(24, dtype=np.uint8).reshape(4, 6, 1)
        colours = np.concatenate([ALL_COLOURS, opacity], axis=2)
    download = write_endovis(tmp_path / "EndoVis18", colours, frames=1)
    if kind == "P":
        for path in download.glob("*/*/labels/*.png"):
            image = Image.fromarray(EXPECTED)
            image.putpalette(ALL_COLOURS.reshape(-1, 3)[:12].tobytes())
            image.save(path)
    convert(survey_endovis18(download, tmp_path / "set"), link=True)
    with Image.open(tmp_path / "set/labelsTr/train_seq_16/frame000.png") as label:
        np.testing.assert_array_equal(np.asarray(label), EXPECTED)


def test_unknown_colours_are_listed_with_pixels_and_file(download, tmp_path):
    download = write_endovis(tmp_path / "EndoVis18", ALL_COLOURS, frames=1)
    wrong = ALL_COLOURS.copy()
    wrong[0, :2], wrong[1, 0] = (1, 2, 3), (255, 255, 255)
    write_picture(download / "Train/seq_2/labels/frame000.png", wrong)
    write_picture(download / "Test/seq_4/labels/frame000.png", ALL_COLOURS[..., 0])
    with pytest.raises(InputError) as refusal:
        convert(survey_endovis18(download, tmp_path / "set"), link=True)
    line = str(refusal.value)
    assert line.startswith("2 of 38 files are refused: ")
    assert (
        "Train/seq_2/labels/frame000.png: 2 colours do not belong to a class: (1, 2, 3) (2 pixels), (255, 255, 255) "
        "(1 pixels); "
        "is it a photograph, or was it compressed with losses or resized with interpolation?" in line
    )
    assert "Test/seq_4/labels/frame000.png: expected a colour image, got mode L" in line


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_pictures(tmp_path, content):
    download = write_endovis(tmp_path / "EndoVis18", ALL_COLOURS, frames=1)
    (download / "Test/seq_1/labels/frame000.png").write_bytes(content)
    with pytest.raises(InputError, match=r"Test/seq_1/labels/frame000.png: "):
        convert(survey_endovis18(download, tmp_path / "set"), link=True)


def test_what_is_missing_and_surplus(tmp_path):
    download = write_endovis(tmp_path / "EndoVis18", ALL_COLOURS, frames=4)
    (download / "Train/seq_1/labels/frame002.png").unlink()
    (download / "Train/seq_3/left_frames/frame003.png").unlink()
    for kind in ("labels", "left_frames"):
        (download / f"Train/seq_5/{kind}/frame001.png").unlink()
    (download / "Test/seq_4").rename(download / "Test/seq_5")
    (one,) = survey_endovis18(download, tmp_path / "set")
    assert one.missing == (
        "Train/seq_1/labels/frame002.png",
        "Train/seq_3/left_frames/frame003.png",
        "Train/seq_5: frame 1",
        "Test/seq_4",
    )
    assert one.surplus == ("Test/seq_5",)
    (result,) = convert([one], link=True, partial=True)
    assert (result.training, result.test) == (15, 3)
    names = [path.name for path in sorted((result.root / "imagesTr/train_seq_05").iterdir())]
    assert names == ["frame000.png", "frame002.png", "frame003.png"]


def test_a_sequence_without_frames(tmp_path):
    (tmp_path / "EndoVis18/Train/seq_1").mkdir(parents=True)
    (one,) = survey_endovis18(tmp_path / "EndoVis18", tmp_path / "set")
    assert one.missing[0] == "Train/seq_1: all frames"
    with pytest.raises(InputError, match="expected EndoVis18's Train/seq_N and Test/seq_N"):
        convert([one], partial=True)

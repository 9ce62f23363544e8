"""Figures of videos: selected frames in colour, with classes and errors."""

import io

import matplotlib.image
import numpy as np
import pytest
from clips import write_frames, write_label_frames, write_lossless
from PIL import Image

from masam.errors import InputError
from masam.labels import LabelScheme
from masam.report import video as report_video
from masam.report.panels import ERRORS, Row
from masam.report.video import frame_overlay

SCHEME = LabelScheme.from_mapping({"background": 0, "organ": 1, "tool": 2, "ignore": 9})
GREEN = (40, 200, 60)


@pytest.fixture
def case(tmp_path):
    """Nine green frames 40 x 60: an organ at the left of all, missed in frame 4, and a tool that is none in frame 7."""
    truth = np.zeros((9, 40, 60), np.uint8)
    truth[:, 10:30, 5:20] = 1
    guess = truth.copy()
    guess[4] = 0
    guess[7, 10:30, 40:55] = 2
    pixels = np.full((9, 40, 60, 3), GREEN, np.uint8)
    return (
        write_frames(tmp_path / "video", pixels),
        [("reference", write_label_frames(tmp_path / "truth", truth)),
         ("prediction", write_label_frames(tmp_path / "guess", guess))],
    )  # fmt: skip


def pixels(png):
    return matplotlib.image.imread(io.BytesIO(png))[..., :3]


def share(image, colour, tolerance=0.1):
    return (np.abs(image - np.array(colour)).max(axis=-1) < tolerance).mean()


def rows_of(monkeypatch, *words, **options):
    """The rows that are drawn."""
    drawn = []
    monkeypatch.setattr(report_video, "draw_panels", lambda rows, *rest, **more: drawn.extend(rows) or b"")
    frame_overlay(*words, SCHEME, **options)
    return drawn


def test_the_frames_that_differ_are_drawn_whole_and_in_their_colours(case, monkeypatch):
    video, labels = case
    rows = rows_of(monkeypatch, video, labels)
    assert all(isinstance(row, Row) for row in rows)
    titles = [row.title for row in rows]
    assert len(titles) == 3
    assert {"frame4", "frame7"} <= set(titles)
    missed = rows[titles.index("frame4")]
    np.testing.assert_allclose(missed.image, np.full((40, 60, 3), GREEN) / 255, atol=1e-6)
    assert [np.unique(one).tolist() for one in missed.labels] == [[0, 1], [0]]
    false = rows[titles.index("frame7")]
    assert [np.unique(one).tolist() for one in false.labels] == [[0, 1], [0, 1, 2]]


def test_errors_are_painted_in_their_colours(case):
    video, labels = case
    picture = pixels(frame_overlay(video, labels, SCHEME))
    assert share(picture, np.array(GREEN) / 255, 0.03) > 0.2, "the frame itself"
    errors = picture[: int(len(picture) * 0.8), 2 * picture.shape[1] // 3 :]
    for _, colour in ERRORS[:2]:
        assert share(errors, [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)], 0.25) > 0.01
    alone = pixels(frame_overlay(video, labels[:1], SCHEME))
    assert alone.shape[1] < 0.6 * picture.shape[1]


def test_a_video_file_is_drawn_like_its_frames(case, tmp_path, monkeypatch):
    video, labels = case
    clip = write_lossless(tmp_path / "clip.mkv", np.full((9, 40, 60, 3), GREEN, np.uint8))
    named = []
    for title, folder in labels:
        values = [np.asarray(Image.open(folder / f"frame{t}.png")) for t in range(9)]
        named.append((title, write_label_frames(tmp_path / f"{title} of file", values, "frame{:06d}.png")))
    from_file, from_folder = rows_of(monkeypatch, clip, named), rows_of(monkeypatch, video, labels)
    assert [row.title for row in from_file] == [f"frame{int(row.title[5:]):06d}" for row in from_folder]
    for one, other in zip(from_file, from_folder, strict=True):
        np.testing.assert_allclose(one.image, other.image, atol=2 / 255)
        for mine, theirs in zip(one.labels, other.labels, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_ignored_pixels_and_frames_without_prediction(case, monkeypatch):
    video, labels = case
    Image.fromarray(np.full((40, 60), 9, np.uint8)).save(labels[0][1] / "frame7.png")
    for t in range(9):
        if t not in (2, 7):
            (labels[1][1] / f"frame{t}.png").unlink()
    rows = rows_of(monkeypatch, video, labels, frames=9)
    by_title = {row.title: row.labels for row in rows}
    assert "frame7" not in by_title, "nothing to see where nothing is labelled"
    assert not by_title["frame0"][1].any()
    np.testing.assert_array_equal(by_title["frame2"][0], by_title["frame2"][1])


def test_a_video_without_labels(tmp_path):
    video = write_frames(tmp_path / "video", np.zeros((3, 8, 9, 3), np.uint8))
    labels = write_label_frames(tmp_path / "labels", np.zeros((3, 8, 9), np.uint8))
    assert pixels(frame_overlay(video, [("reference", labels)], SCHEME)).std() > 0


def test_a_large_frame_is_drawn_at_twice_its_panels_size(tmp_path, monkeypatch):
    truth = np.zeros((1, 61, 1701), np.uint8)
    truth[:, :30, :900] = 1
    pixels = np.repeat(truth[..., None] * 200, 3, axis=-1)
    pixels[:, 0, 0] = 20  # one of the nine of the first block
    video, labels = write_frames(tmp_path / "video", pixels), write_label_frames(tmp_path / "labels", truth)
    (row,) = rows_of(monkeypatch, video, [("reference", labels)])
    assert row.image.shape == (20, 567, 3)
    expected = truth[0, 1:60:3, 1:1701:3]
    np.testing.assert_array_equal(row.labels[0], expected)
    image = np.repeat(expected[..., None] * np.float32(200 / 255), 3, axis=-1)
    image[0, 0] = (8 * 200 + 20) / 9 / 255
    np.testing.assert_allclose(row.image, image, atol=1e-6)


def test_a_long_name_is_cut_at_its_start(tmp_path, monkeypatch):
    name = "operation_of_a_tuesday_morning_in_november_frame0"
    video = write_frames(tmp_path / "video", np.zeros((1, 8, 9, 3), np.uint8), f"{name}.png")
    labels = write_label_frames(tmp_path / "labels", np.ones((1, 8, 9), np.uint8), f"{name}.png")
    (row,) = rows_of(monkeypatch, video, [("reference", labels)])
    assert (row.title, len(row.title)) == (f"...{name[-37:]}", 40)


def test_mismatched_files_are_refused(case, tmp_path):
    video, labels = case
    with pytest.raises(InputError, match="labels: expected at least one folder of label frames to draw"):
        frame_overlay(video, [], SCHEME)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: expected label frames"):
        frame_overlay(video, [("reference", tmp_path / "empty")], SCHEME)
    other = write_frames(tmp_path / "other", np.zeros((9, 40, 61, 3), np.uint8))
    with pytest.raises(InputError, match=r"other: frame frame\d has 61 x 40 pixels, its label 60 x 40"):
        frame_overlay(other, labels, SCHEME)
    short = write_frames(tmp_path / "short", np.zeros((2, 40, 60, 3), np.uint8))
    with pytest.raises(InputError, match=r"short: expected a frame frame7, which has a label"):
        frame_overlay(short, labels, SCHEME, frames=1)
    Image.new("L", (5, 4)).save(labels[1][1] / "frame1.png")
    with pytest.raises(InputError, match=r"guess/frame1.png: expected 60 x 40 pixels as in the reference, got 5 x 4"):
        frame_overlay(video, labels, SCHEME)

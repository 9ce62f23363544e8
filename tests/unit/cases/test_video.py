import json

import numpy as np
import pytest
from clips import frames, write_clip, write_frames, write_label_frames, write_video_dataset
from PIL import Image
from tiny import LABELS

from masam.cases.folder import Case, load_case, read_dataset
from masam.cases.video import UNLABELLED, find_videos, holds_videos, is_video_case, load_video_case
from masam.errors import InputError, ResourceError
from masam.labels import LabelScheme


class Listener:
    def __init__(self):
        self.said = []

    def start(self, task, total):
        pass

    def advance(self, note=""):
        pass

    def log(self, line):
        self.said.append(line)


@pytest.mark.parametrize("as_files", [False, True], ids=["folders", "files"])
def test_a_data_set_of_videos_is_read(tmp_path, as_files):
    root = write_video_dataset(tmp_path, as_files=as_files)
    found = read_dataset(root)
    assert (found.name, found.channel_names, found.labels.to_mapping()) == ("endo", ("R", "G", "B"), LABELS)
    assert [case.id for case in found.training] == ["case0", "case1"]
    assert all(is_video_case(case) for case in found.training)
    for number, case in enumerate(found.training):
        pixels, labels = load_video_case(case)
        expected = frames(4, seed=number)
        assert np.array_equal(labels, expected[1])
        assert labels.dtype == np.int16
        assert pixels.dtype == np.uint8
        if not as_files:
            assert np.array_equal(pixels, expected[0])


def test_test_cases_need_no_labels(tmp_path):
    root = write_video_dataset(tmp_path, cases=1)
    write_frames(root / "imagesTs/held.out", frames(2)[0])
    (case,) = read_dataset(root).test
    assert case == Case("held.out", (root / "imagesTs/held.out",))
    assert load_video_case(case)[1] is None


def test_a_video_is_not_a_volume(tmp_path):
    (case,) = read_dataset(write_video_dataset(tmp_path, cases=1)).training
    with pytest.raises(InputError, match="case0: expected a volume, got a video; use load_video_case"):
        load_case(case)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: (root / "labelsTr/case1").rename(root / "aside"),
            "labelsTr: no label for image case1",
        ),
        (
            lambda root: (root / "imagesTr/case1").rename(root / "aside"),
            "labelsTr/case1: no image for this label; add .*imagesTr/case1$",
        ),
        (
            lambda root: (root / "imagesTr/case1").rename(root / "imagesTr/CASE0"),
            "imagesTr: CASE0 and case0 have the same case id",
        ),
    ],
)
def test_what_does_not_pair_up_is_refused(tmp_path, change, message):
    root = write_video_dataset(tmp_path)
    change(root)
    with pytest.raises(InputError, match=message):
        read_dataset(root)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"channel_names": {"0": "RGB"}}, r"channel_names: file_ending .png requires the channels .*, got \['RGB'\]"),
        ({"numTraining": 3}, "dataset.json: numTraining is 3, found 2 training cases"),
        ({"file_ending": ".mov"}, r"labelsTr/case0: no image for this label; add .*imagesTr/case0\.mov"),
    ],
)
def test_a_wrong_dataset_json_is_refused(tmp_path, facts, message):
    root = write_video_dataset(tmp_path)
    content = json.loads((root / "dataset.json").read_text()) | facts
    (root / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_dataset(root)


def one_case(root, count=4, as_files=False):
    (case,) = read_dataset(write_video_dataset(root, cases=1, count=count, as_files=as_files)).training
    return case


def test_frames_without_labels_are_refused_unless_they_may_be_ignored(tmp_path):
    case = one_case(tmp_path)
    for t in (0, 2):
        (case.label / f"frame{t}.png").unlink()
    with pytest.raises(InputError, match=r"case0: no label for 2 of 4 frames \(frame0, frame2\); add the lab"):
        load_video_case(case)
    listener = Listener()
    _, labels = load_video_case(case, unlabelled="ignore", progress=listener)
    assert listener.said == ["case0: 2 of 4 frames have no label and are ignored"]
    assert (labels[[0, 2]] == UNLABELLED).all()
    assert np.array_equal(labels[[1, 3]], frames(4)[1][[1, 3]])
    channels = LabelScheme.from_mapping(LABELS).to_channels(labels)
    assert (channels[0] == -100).all()
    assert set(np.unique(channels[1])) == {0, 1, 2}


def test_a_case_without_any_label_is_refused(tmp_path):
    case = one_case(tmp_path)
    for file in case.label.iterdir():
        file.unlink()
    with pytest.raises(InputError, match="no label for 4 of 4 frames"):
        load_video_case(case, unlabelled="ignore")


def test_labels_without_a_frame_are_refused(tmp_path):
    case = one_case(tmp_path)
    write_label_frames(tmp_path / "more", frames(1)[1], "frame7.png")
    (tmp_path / "more/frame7.png").rename(case.label / "frame7.png")
    with pytest.raises(InputError, match=r"case0: no frame for label frame7 \(4 frames\)"):
        load_video_case(case, unlabelled="ignore")


def test_labels_of_another_size_or_kind_are_refused(tmp_path):
    case = one_case(tmp_path)
    Image.new("L", (5, 4)).save(case.label / "frame1.png")
    with pytest.raises(InputError, match=r"frame1.png: expected 26 x 20 pixels like the frames, got 5 x 4"):
        load_video_case(case)
    Image.new("RGB", (26, 20)).save(case.label / "frame1.png")
    with pytest.raises(InputError, match=r"frame1.png: .*got RGB; replace each colour"):
        load_video_case(case)


def test_memory_is_checked_before_it_is_allocated(tmp_path):
    case = one_case(tmp_path)
    need = 4 * 20 * 26 * 5
    load_video_case(case, max_bytes=need)
    message = f"case0: 4 frames of 26 x 20 pixels require {need} bytes, the limit is {need - 1}; split the"
    with pytest.raises(ResourceError, match=message):
        load_video_case(case, max_bytes=need - 1)


def test_a_file_that_declares_no_number_of_frames_is_counted(tmp_path):
    pixels, _ = frames(5)
    video = write_clip(tmp_path / "a.mkv", pixels)
    assert load_video_case(Case("a", (video,)))[0].shape == pixels.shape


def test_videos_to_predict_on_are_found(tmp_path):
    pixels, _ = frames(2)
    clip = write_clip(tmp_path / "in/b.mp4", pixels)
    folder = write_frames(tmp_path / "in/a", pixels)
    (tmp_path / "in/notes").mkdir()
    (tmp_path / "in/.hidden.mp4").touch()
    assert find_videos(tmp_path / "in") == (Case("a", (folder,)), Case("b", (clip,)))
    assert find_videos(clip) == (Case("b", (clip,)),)
    assert find_videos(folder) == (Case("a", (folder,)),)
    write_clip(tmp_path / "in/B.mkv", pixels)
    with pytest.raises(InputError, match=r"B.mkv and b.mp4 have the same case id"):
        find_videos(tmp_path / "in")
    with pytest.raises(InputError, match="expected a video, a folder of frames or a folder of these, found no video"):
        find_videos(tmp_path / "in/notes")


def test_a_folder_of_volumes_holds_no_videos(tmp_path):
    pixels, _ = frames(1)
    folder = write_frames(tmp_path / "in/a", pixels)
    assert holds_videos(tmp_path / "in")
    assert holds_videos(folder)
    (tmp_path / "in/scan.nii.gz").touch()
    (folder / "scan.nii").touch()
    assert not holds_videos(tmp_path / "in")
    assert not holds_videos(folder)

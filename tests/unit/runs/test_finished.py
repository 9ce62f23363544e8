import json

import pytest

from masam.io.video.reader import video_sha256
from masam.runs.finished import is_finished, values_sha256

SOURCES = {"scan_sha256": "a", "settings_sha256": "b"}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames/frame0.png").write_bytes(b"frame")
    (tmp_path / "labels.nii.gz").write_bytes(b"labels")
    return {"labels_sha256": tmp_path / "labels.nii.gz", "frames_sha256": tmp_path / "frames"}


@pytest.fixture
def entry(files):
    return {**SOURCES, **{key: video_sha256(path) for key, path in files.items()}, "note": "kept"}


def test_same_sources_and_intact_files(entry, files):
    assert is_finished(entry, SOURCES, files)
    assert is_finished(json.loads(json.dumps(entry)), SOURCES, files)
    assert is_finished(entry, SOURCES, {})


@pytest.mark.parametrize("sources", [{**SOURCES, "scan_sha256": "c"}, {**SOURCES, "prompts": []}])
def test_other_sources(entry, files, sources):
    assert not is_finished(entry, sources, files)


def test_no_entry(files):
    assert not is_finished(None, SOURCES, files)


@pytest.mark.parametrize("content", [None, b"", b"changed"])
@pytest.mark.parametrize("name", ["labels.nii.gz", "frames/frame0.png"])
def test_a_file_that_is_missing_empty_or_changed(entry, files, tmp_path, name, content):
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    assert not is_finished(entry, SOURCES, files)


def test_a_file_without_a_recorded_hash(entry, files):
    del entry["labels_sha256"]
    assert not is_finished(entry, SOURCES, files)


def test_values_are_hashed_regardless_of_the_order_of_keys():
    assert values_sha256({"a": 1, "b": [2]}) == values_sha256({"b": [2], "a": 1})
    assert values_sha256({"a": 1}) != values_sha256({"a": 2})

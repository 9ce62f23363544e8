import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from downloads import hashes, image_of, labels_of, write_nifti

from masam import __version__
from masam.cases.folder import read_dataset
from masam.convert import products as products_module
from masam.convert.conversion import Contents, Conversion, convert, nifti_names, within
from masam.convert.products import COPY, RECORD, Product, Rule
from masam.convert.relabel import relabelling
from masam.errors import InputError, ResourceError
from masam.io.nifti.file import read_labels


@pytest.fixture
def download(tmp_path):
    for number in range(4):
        write_nifti(tmp_path / f"download/i{number}.nii.gz", image_of(number))
        write_nifti(tmp_path / f"download/l{number}.nii.gz", labels_of([0, 1, 2]))
    return tmp_path / "download"


@pytest.fixture
def conversion(download, tmp_path):
    """Three cases to train on, the third to validate on, and one held out; classes 1 and 2 become one."""
    rule = relabelling({0: 0, 1: 1, 2: 1})
    contents = Contents()
    for number, split in enumerate(["Tr", "Tr", "Tr", "Ts"]):
        files = download / f"i{number}.nii.gz", download / f"l{number}.nii.gz"
        contents.add_case(f"c{number}", split, *files, rule)
    return Conversion(
        source=download,
        root=tmp_path / "set",
        layout="files i and l",
        name="Made",
        description="Made cases.",
        reference="nowhere",
        licence="none",
        channel_names=("CT",),
        labels={"background": 0, "organ": 1},
        **contents.fields(),
        validation=("c2",),
        options={"data_set": "made"},
    )


def inode(path):
    return path.stat().st_ino


def test_a_data_set_that_masam_reads(conversion, download):
    before = hashes(download)
    (result,) = convert([conversion])
    assert hashes(download) == before
    assert result.record() == {
        "dataset": str(conversion.root),
        "training": 3,
        "validation": 1,
        "test": 1,
        "made": 8,
        "kept": 0,
        "missing": [],
        "surplus": [],
    }
    found = read_dataset(conversion.root)
    assert [case.id for case in found.training] == ["c0", "c1", "c2"]
    assert [case.id for case in found.test] == ["c3"]
    assert found.test[0].label == conversion.root / "labelsTs/c3.nii.gz"
    assert found.labels.to_mapping() == {"background": 0, "organ": 1}
    content = json.loads((conversion.root / "dataset.json").read_text())
    assert content["masam_convert"] == {"version": __version__, "data_set": "made"}
    assert (content["reference"], content["licence"], content["numTest"]) == ("nowhere", "none", 1)
    splits = json.loads((conversion.root / "splits_final.json").read_text())
    assert splits == [{"train": ["c0", "c1"], "val": ["c2"]}]


def test_copies_are_the_same_bytes_and_rewritten_labels_keep_their_place(conversion, download):
    convert([conversion])
    copy = conversion.root / "imagesTr/c1_0000.nii.gz"
    assert copy.read_bytes() == (download / "i1.nii.gz").read_bytes()
    old, new = read_labels(download / "l1.nii.gz"), read_labels(conversion.root / "labelsTr/c1.nii.gz")
    np.testing.assert_array_equal(new.array, old.array > 0)
    np.testing.assert_array_equal(new.geometry.affine, old.geometry.affine)
    assert (new.geometry.sform_code, new.geometry.qform_code) == (1, 2)


def test_a_second_run_keeps_what_is_finished(conversion):
    convert([conversion])
    files = {path: inode(path) for path in conversion.root.glob("*T[rs]/*")}
    (again,) = convert([conversion])
    assert (again.made, again.kept) == (0, 8)
    assert {path: inode(path) for path in conversion.root.glob("*T[rs]/*")} == files


@pytest.mark.parametrize(
    ("spoil", "target"),
    [
        (lambda one: (one.root / "imagesTr/c0_0000.nii.gz").write_bytes(b"flipped"), "imagesTr/c0_0000.nii.gz"),
        (lambda one: (one.root / "labelsTr/c0.nii.gz").unlink(), "labelsTr/c0.nii.gz"),
        (lambda one: os.utime(one.source / "l0.nii.gz", (1, 1)), "labelsTr/c0.nii.gz"),
    ],
)
def test_what_has_changed_is_made_again(conversion, spoil, target):
    convert([conversion])
    whole = (conversion.root / target).read_bytes()
    spoil(conversion)
    (again,) = convert([conversion])
    assert (again.made, again.kept) == (1, 7)
    assert (conversion.root / target).read_bytes() == whole


def test_another_rule_makes_labels_again(conversion):
    convert([conversion])
    rule = relabelling({0: 0, 1: 0, 2: 1})
    products = tuple(one if one.rule == COPY else replace(one, rule=rule) for one in conversion.products)
    (again,) = convert([replace(conversion, products=products)])
    assert (again.made, again.kept) == (4, 4)
    assert read_labels(conversion.root / "labelsTs/c3.nii.gz").array.sum() == (labels_of([0, 1, 2]) == 2).sum()


def test_a_truncated_record_is_resumed(conversion):
    convert([conversion])
    record = conversion.root / RECORD
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(lines[:3]) + lines[3][:20])
    (again,) = convert([conversion])
    assert (again.made, again.kept) == (5, 3)
    assert sorted(record.read_text().splitlines()) == sorted(line.strip() for line in lines)


@pytest.mark.parametrize("line", ["3", "[]", '{"target": []}', '{"target": "imagesTr/c0_0000.nii.gz"}', "\0\xff"])
def test_an_invalid_record_is_ignored(conversion, line):
    conversion.root.mkdir()
    (conversion.root / RECORD).write_text(line + "\n")
    assert convert([conversion])[0].made == 8


def test_unchanged_files_are_linked(conversion, download):
    before = hashes(download)
    convert([conversion], link=True)
    image = conversion.root / "imagesTr/c0_0000.nii.gz"
    assert image.samefile(download / "i0.nii.gz")
    assert not image.is_symlink()
    assert not (conversion.root / "labelsTr/c0.nii.gz").samefile(download / "l0.nii.gz")
    assert len(read_dataset(conversion.root).training) == 3
    assert convert([conversion], link=True)[0].kept == 8
    copied = convert([conversion])[0]
    assert (copied.made, copied.kept) == (4, 4)
    assert not image.samefile(download / "i0.nii.gz")
    linked = convert([conversion], link=True)[0]
    assert (linked.made, linked.kept) == (4, 4)
    assert hashes(download) == before


def test_symbolic_links_to_another_disk(conversion, download, monkeypatch):
    def other_disk(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(products_module.os, "link", other_disk)
    convert([conversion], link=True)
    image = conversion.root / "imagesTr/c0_0000.nii.gz"
    assert image.is_symlink()
    assert image.read_bytes() == (download / "i0.nii.gz").read_bytes()
    assert len(read_dataset(conversion.root).training) == 3
    assert convert([conversion], link=True)[0].kept == 8
    convert([conversion])
    assert not image.is_symlink()
    assert (download / "i0.nii.gz").is_file()


def test_missing_and_surplus_are_refused_in_one_line_and_noted_with_partial(conversion):
    faulty = replace(conversion, missing=("a/b.nii.gz", "2 of 5 scans"), surplus=("c",))
    with pytest.raises(InputError) as refusal:
        convert([faulty])
    assert str(refusal.value) == (
        f"{conversion.source}: this is not the published data set: 2 missing (a/b.nii.gz, 2 of 5 scans); 1 surplus "
        "(c); download what is missing and move away what is surplus, or convert what is there with --partial"
    )
    assert not conversion.root.exists()
    (result,) = convert([faulty], partial=True)
    assert (result.missing, result.surplus) == (faulty.missing, faulty.surplus)
    description = json.loads((conversion.root / "dataset.json").read_text())["description"]
    assert description == (
        "Made cases. Not the whole published data set: 2 missing (a/b.nii.gz, 2 of 5 scans); 1 surplus (c)."
    )


def test_a_download_without_a_case_names_the_layout(conversion):
    with pytest.raises(InputError, match=r"download: expected files i and l; found no complete case"):
        convert([replace(conversion, products=())], partial=True)


def test_of_several_only_those_with_cases_are_made(conversion, tmp_path):
    empty = replace(conversion, root=tmp_path / "none", products=(), training=(), test=(), missing=("all",))
    assert [one.root for one in convert([conversion, empty], partial=True)] == [conversion.root]
    assert not empty.root.exists()


@pytest.mark.parametrize("place", [".", "download", "download/inside"])
def test_writing_into_the_download_is_refused(conversion, tmp_path, place):
    with pytest.raises(InputError, match=r"expected a folder apart from the download .*; name another folder"):
        convert([replace(conversion, root=tmp_path / place)])


def test_a_link_into_the_download_is_refused(conversion, download):
    conversion.root.mkdir()
    (conversion.root / "imagesTr").symlink_to(download)
    with pytest.raises(InputError, match="expected a folder apart from the download"):
        convert([conversion])


def test_a_folder_of_another_data_set_is_refused(conversion):
    write_nifti(conversion.root / "labelsTr/other.nii.gz", labels_of([0]))
    with pytest.raises(InputError, match=r"set: expected a new folder or this data set's own, found 1 other files"):
        convert([conversion])


def test_files_that_are_refused_are_named_together_and_the_others_made(conversion, download):
    write_nifti(download / "l1.nii.gz", labels_of([0, 7]))
    (download / "l3.nii.gz").write_bytes(b"no NIfTI")
    with pytest.raises(InputError) as refusal:
        convert([conversion])
    line = str(refusal.value)
    assert line.startswith("2 of 8 files are refused: ")
    assert "l1.nii.gz: expected the label values 0, 1, 2, got 7 (30 voxels)" in line
    assert "l3.nii.gz: " in line
    assert not (conversion.root / "dataset.json").exists()
    for number in (1, 3):
        write_nifti(download / f"l{number}.nii.gz", labels_of([0, 1, 2]))
    (again,) = convert([conversion])
    assert (again.made, again.kept) == (2, 6)


def test_an_empty_file_is_refused_by_copy_and_link(conversion, download):
    (download / "i0.nii.gz").write_bytes(b"")
    for link in (False, True):
        with pytest.raises(InputError, match=r"i0.nii.gz: the file is empty"):
            convert([conversion], link=link)


def test_a_copy_that_does_not_read_back(conversion, monkeypatch):
    monkeypatch.setattr(products_module.gate, "sha256", lambda path: "0" * 64)
    with pytest.raises(ResourceError, match=r"did not read back as it was written \(the copy's bytes differ\)"):
        convert([conversion])
    assert not list(conversion.root.glob("imagesTr/*"))


def test_a_place_that_cannot_be_written_to(conversion):
    conversion.root.write_text("a file")
    with pytest.raises(ResourceError, match="cannot write the file"):
        convert([conversion])


def test_a_conversion_that_is_cut_short_does_not_look_complete(conversion):
    convert([conversion])

    def stop(source, target):
        raise KeyboardInterrupt

    products = [one if one.rule == COPY else replace(one, rule=Rule("another", stop)) for one in conversion.products]
    with pytest.raises(KeyboardInterrupt):
        convert([replace(conversion, products=tuple(products))])
    assert not (conversion.root / "dataset.json").exists()
    assert not (conversion.root / "splits_final.json").exists()


def test_within_finds_the_first_folder(tmp_path):
    (tmp_path / "b").mkdir()
    assert within(tmp_path, "a", "b") == tmp_path / "b"
    assert within(tmp_path, "a") == tmp_path
    with pytest.raises(InputError, match="expected the folder of the download, got none; check the path"):
        within(tmp_path / "c", "b")


def test_hidden_files_are_ignored(tmp_path):
    for name in ("._a.nii.gz", "a.nii.gz", "b.nii", "c.txt"):
        (tmp_path / name).touch()
    assert nifti_names(tmp_path) == {"a.nii.gz"}
    assert nifti_names(tmp_path / "nowhere") == set()


def test_progress_receives_every_file(conversion):
    heard = []

    class Listener:
        def start(self, task: str, total: int) -> None:
            heard.append((task, total))

        def advance(self, note: str = "") -> None:
            heard.append(note)

        def log(self, line: str) -> None:
            raise NotImplementedError

    convert([conversion], progress=Listener())
    assert heard == [("Made", 8), *(one.target for one in conversion.products)]


def test_a_product_is_copied_unless_it_is_rewritten():
    contents, rule = Contents(), Rule("printed", partial(print))
    contents.add_case("c", "Ts", Path("i"), None)
    contents.add_case("d", "Tr", Path("i"), Path("l"), rule)
    assert contents.products[0] == Product(Path("i"), "imagesTs/c_0000.nii.gz")
    assert contents.products[2] == Product(Path("l"), "labelsTr/d.nii.gz", rule)
    assert (contents.training, contents.test) == (["d"], ["c"])

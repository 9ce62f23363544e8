import shutil

import numpy as np
import pytest
from downloads import BTCV_IDS, hashes, write_btcv

from masam.cases.folder import read_dataset
from masam.convert.btcv import MERGED, MERGING, SEPARATE, survey_btcv
from masam.convert.conversion import convert
from masam.errors import InputError
from masam.io.nifti.file import read_labels
from masam.weights.official import LABELS

TEST = [f"btcv_{n:04d}" for n in range(35, 41)]


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    return write_btcv(tmp_path_factory.mktemp("btcv") / "RawData")


@pytest.fixture(scope="module")
def converted(download, tmp_path_factory):
    before = hashes(download)
    root = tmp_path_factory.mktemp("made") / "Dataset101_BTCV"
    convert(survey_btcv(download, root))
    assert hashes(download) == before
    return root


def test_names_are_those_of_the_official_model():
    _, names = LABELS["btcv"]
    assert {"background": 0} | {name: value for value, name in enumerate(names, start=1)} == MERGED


def test_the_papers_split_and_classes(converted):
    found = read_dataset(converted)
    assert [case.id for case in found.test] == TEST
    assert [case.id for case in found.training] == [f"btcv_{n}" for n in BTCV_IDS if f"btcv_{n}" not in TEST]
    assert len(found.training) == 24
    assert all(case.label for case in found.test)
    assert found.labels.to_mapping() == MERGED
    assert found.channel_names == ("CT",)
    assert not (converted / "splits_final.json").exists(), "there is no validation set"


def test_the_adrenal_glands_are_one_class(converted, download):
    old = read_labels(download / "Training/label/label0035.nii.gz").array
    new = read_labels(converted / "labelsTs/btcv_0035.nii.gz").array
    np.testing.assert_array_equal(new, np.where(old == 13, 12, old))
    assert {old: new for old, new in MERGING.items() if old != new} == {13: 12}


def test_the_adrenal_glands_are_two_classes(download, tmp_path):
    (one,) = survey_btcv(download, tmp_path / "set", "separate")
    assert all(product.rule.rewrite is None for product in one.products)
    assert (one.labels["right_adrenal_gland"], one.labels["left_adrenal_gland"]) == (12, 13)
    assert "adrenal_glands" not in SEPARATE
    assert {k: v for k, v in SEPARATE.items() if v < 12} == {k: v for k, v in MERGED.items() if v < 12}


@pytest.mark.parametrize("inside", ["", "Training"])
def test_any_folder_of_the_download_is_accepted(download, tmp_path, inside):
    (one,) = survey_btcv(download / inside, tmp_path / "set")
    assert (len(one.training), len(one.test), one.missing, one.surplus) == (24, 6, (), ())
    (above,) = survey_btcv(download.parent, tmp_path / "set")
    assert [file.source.name for file in above.products] == [file.source.name for file in one.products]


def test_everything_missing_and_surplus_is_listed_at_once(download, tmp_path):
    copy = shutil.copytree(download, tmp_path / "copy")
    (copy / "Training/img/img0003.nii.gz").unlink()
    (copy / "Training/label/label0040.nii.gz").rename(copy / "Training/label/label0041.nii.gz")
    with pytest.raises(InputError) as refusal:
        convert(survey_btcv(copy, tmp_path / "set"))
    assert (
        "2 missing (img/img0003.nii.gz, label/label0040.nii.gz); 1 surplus (label/label0041.nii.gz); download what is "
        "missing and move away what is surplus, or convert what is there with --partial" in str(refusal.value)
    )
    (one,) = survey_btcv(copy, tmp_path / "set")
    assert (len(one.training), len(one.test)) == (23, 5)


def test_the_error_for_another_folder_describes_the_layout(tmp_path):
    with pytest.raises(InputError, match=r"expected BTCV's Training/img/imgNNNN\.nii\.gz .*; found no complete case"):
        convert(survey_btcv(tmp_path, tmp_path / "set"))

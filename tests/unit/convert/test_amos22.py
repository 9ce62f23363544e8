import numpy as np
import pytest
from downloads import hashes, image_of, labels_of, write_amos, write_nifti

from masam.cases.folder import read_dataset
from masam.convert.amos22 import AMOS_LABELS, COUNTS, LABELS_AS_BTCV, TO_BTCV, survey_amos22
from masam.convert.btcv import MERGED
from masam.convert.conversion import convert
from masam.convert.relabel import relabel_folder
from masam.errors import InputError
from masam.evaluation import evaluate
from masam.io.nifti.file import read_labels


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    return write_amos(tmp_path_factory.mktemp("amos") / "amos22")


def ids(cases):
    return [int(case.removeprefix("amos_")) for case in cases]


@pytest.mark.parametrize(
    ("modality", "training", "test"),
    [
        ("ct", [1, 4, 5, 410], [8, 500]),
        ("mr", [507, 600], [501]),
        ("both", [1, 4, 5, 410, 507, 600], [8, 500, 501]),
    ],
)
def test_scans_by_modality(download, tmp_path, modality, training, test):
    (one,) = survey_amos22(download, tmp_path / "set", modality)
    assert (ids(one.training), ids(one.test), one.missing, one.surplus) == (training, test, (), ())
    assert one.channel_names == ({"ct": "CT", "mr": "MR", "both": "CT or MR"}[modality],)


def test_its_own_classes_byte_for_byte(download, tmp_path):
    before = hashes(download)
    (result,) = convert(survey_amos22(download, tmp_path / "set", "mr"), link=True)
    assert hashes(download) == before
    found = read_dataset(result.root)
    assert found.labels.to_mapping() == AMOS_LABELS
    assert [case.id for case in found.test] == ["amos_0501"]
    assert found.test[0].label.samefile(download / "labelsVa/amos_0501.nii.gz")
    assert len(AMOS_LABELS) == 16


def test_the_mapping_to_btcv_is_the_papers():
    """paper.md 5.5: 1 to 9 are the same; pancreas and adrenal glands have other values; three organs have none."""
    assert {old: new for old, new in TO_BTCV.items() if old != new} == {10: 11, 11: 12, 13: 0, 14: 0, 15: 0}
    same = {"inferior_vena_cava": "postcava"}
    for name, value in MERGED.items():
        if 0 < value < 10:
            assert AMOS_LABELS[same.get(name, name)] == value
    assert set(MERGED) - set(LABELS_AS_BTCV) == {"veins"}
    assert len(LABELS_AS_BTCV) == 12
    assert set(LABELS_AS_BTCV.values()) == set(TO_BTCV.values())


def test_predictions_of_a_btcv_model_are_scored(download, tmp_path):
    """Its veins become background; then a prediction that is right scores 1 in all 11 organs."""
    (result,) = convert(survey_amos22(download, tmp_path / "set", "ct", "btcv"))
    references = result.root / "labelsTs"
    old = read_labels(download / "labelsVa/amos_0008.nii.gz").array
    new = read_labels(references / "amos_0008.nii.gz").array
    np.testing.assert_array_equal(new, np.array([TO_BTCV[v] for v in range(16)])[old])
    for path in references.iterdir():
        truth = read_labels(path).array
        # Where AMOS has nothing, the model finds veins.
        write_nifti(tmp_path / "masks" / path.name, np.where(truth == 0, MERGED["veins"], truth).astype(np.uint8))
    with pytest.raises(InputError, match=r"expected label values of the label scheme, .*, got 10; correct"):
        evaluate(tmp_path / "masks", references, result.root / "dataset.json")
    relabel_folder(tmp_path / "masks", tmp_path / "masks_of_11", {MERGED["veins"]: 0})
    scores = evaluate(tmp_path / "masks_of_11", references, result.root / "dataset.json")
    assert [one.label for one in scores.summary] == [name for name in LABELS_AS_BTCV if name != "background"]
    assert [one.dice.mean for one in scores.summary] == [1.0] * 11


def test_the_test_set_held_out(download, tmp_path):
    (one,) = survey_amos22(download, tmp_path / "set", "ct", held_out="test")
    assert (ids(one.training), ids(one.validation), ids(one.test)) == ([1, 4, 5, 8, 410, 500], [8, 500], [2])
    (result,) = convert([one], link=True)
    found = read_dataset(result.root)
    assert [(case.id, case.label) for case in found.test] == [("amos_0002", None)]
    splits = (result.root / "splits_final.json").read_text()
    assert splits.index("amos_0410") < splits.index("val") < splits.index("amos_0500")


def test_missing_and_surplus_files_according_to_dataset_json(tmp_path):
    download = write_amos(tmp_path / "amos22")
    (download / "imagesTr/amos_0004.nii.gz").unlink()
    (download / "labelsVa/amos_0500.nii.gz").unlink()
    write_nifti(download / "imagesTr/amos_0009.nii.gz", image_of(9))
    write_nifti(download / "labelsTr/amos_0009.nii.gz", labels_of([0]))
    write_nifti(download / "imagesTr/other.nii.gz", image_of(9))
    (one,) = survey_amos22(download, tmp_path / "set")
    assert one.missing == ("imagesTr/amos_0004.nii.gz", "labelsVa/amos_0500.nii.gz")
    assert one.surplus == ("imagesTr/other.nii.gz", "imagesTr/amos_0009.nii.gz")
    assert (ids(one.training), ids(one.test)) == ([1, 5, 410], [8])


def test_missing_and_surplus_files_according_to_published_numbers(tmp_path):
    download = write_amos(tmp_path / "amos22", named=False)
    (one,) = survey_amos22(download, tmp_path / "set", "both")
    assert one.missing == (
        *("196 of 200 CT scans in imagesTr", "38 of 40 MR scans in imagesTr"),
        *("98 of 100 CT scans in imagesVa", "19 of 20 MR scans in imagesVa"),
    )
    assert {sum(COUNTS[folder].values()) for folder in ("imagesTr", "imagesTs")} == {240}
    numbers = {"Tr": [*range(1, 401, 2), *range(501, 541)], "Va": [*range(2, 202, 2), *range(541, 561)]}
    for part, wanted in numbers.items():
        for folder in (f"images{part}", f"labels{part}"):
            for path in (download / folder).iterdir():
                path.unlink()
            for number in wanted:
                (download / folder / f"amos_{number:04d}.nii.gz").touch()
    (whole,) = survey_amos22(download, tmp_path / "set", "both")
    assert (len(whole.training), len(whole.test), whole.missing, whole.surplus) == (240, 120, (), ())
    for folder in ("imagesTr", "labelsTr"):
        (download / folder / "amos_0400.nii.gz").touch()
    (more,) = survey_amos22(download, tmp_path / "set", "ct")
    assert more.surplus == ("1 CT scans more than the 200 of imagesTr",)

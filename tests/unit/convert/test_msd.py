import json

import numpy as np
import pytest
from downloads import AFFINE, SHAPE, hashes, write_msd, write_nifti

from masam.cases.folder import load_case, read_dataset, read_splits
from masam.convert.conversion import convert
from masam.convert.msd import FOLD_0_TEST, FOLD_0_VALIDATION, survey_msd
from masam.errors import ConfigError, InputError
from masam.io.nifti.file import read_geometry, read_labels

OTHERS = sorted(set(range(1, 422)) - set(FOLD_0_TEST) - set(FOLD_0_VALIDATION))[:196]
PANCREAS = ["background", "pancreas", "cancer"]


def case(number):
    return f"pancreas_{number:03d}"


@pytest.fixture(scope="module")
def pancreas(tmp_path_factory):
    """Fold 0 with three cases in the place of the other 196."""
    labelled = sorted([*OTHERS[:3], *FOLD_0_TEST, *FOLD_0_VALIDATION])
    root = tmp_path_factory.mktemp("msd") / "Task07_Pancreas"
    return write_msd(root, "pancreas", labelled, [420, 421], PANCREAS)


@pytest.fixture(scope="module")
def spleen(tmp_path_factory):
    root = tmp_path_factory.mktemp("msd") / "Task09_Spleen"
    return write_msd(root, "spleen", [2, 3], [1, 7], ["background", "spleen"])


def test_fold_0_of_the_published_split():
    assert (len(FOLD_0_TEST), len(FOLD_0_VALIDATION)) == (57, 28)
    assert not set(FOLD_0_TEST) & set(FOLD_0_VALIDATION)
    assert list(FOLD_0_TEST) == sorted(FOLD_0_TEST)
    assert (FOLD_0_TEST[0], FOLD_0_TEST[-1], FOLD_0_VALIDATION[0], FOLD_0_VALIDATION[-1]) == (6, 419, 56, 395)


def test_the_pancreas_with_the_papers_split(pancreas, tmp_path):
    before = hashes(pancreas)
    (result,) = convert(survey_msd(pancreas, tmp_path / "set"), link=True, partial=True)
    assert hashes(pancreas) == before
    assert result.missing == ("193 of 281 labelled cases in dataset.json",)
    found = read_dataset(result.root)
    assert [one.id for one in found.test] == [case(number) for number in FOLD_0_TEST]
    (split,) = read_splits(result.root / "splits_final.json", [one.id for one in found.training])
    assert split["val"] == [case(number) for number in FOLD_0_VALIDATION]
    assert split["train"] == [case(number) for number in OTHERS[:3]]
    assert found.labels.to_mapping() == {"background": 0, "tumour": 1}
    old = read_labels(pancreas / "labelsTr/pancreas_006.nii.gz").array
    np.testing.assert_array_equal(read_labels(result.root / "labelsTs/pancreas_006.nii.gz").array, old == 2)


def test_the_whole_pancreas_is_196_and_28_and_57(tmp_path):
    root = tmp_path / "Task07_Pancreas"
    write_msd(root, "pancreas", [1], [], PANCREAS)
    content = json.loads((root / "dataset.json").read_text())
    names = [f"{case(n)}.nii.gz" for n in [*OTHERS, *FOLD_0_TEST, *FOLD_0_VALIDATION]]
    content["training"] = [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names]
    (root / "dataset.json").write_text(json.dumps(content))
    for name in names:
        (root / "imagesTr" / name).touch()
        (root / "labelsTr" / name).touch()
    (one,) = survey_msd(root, tmp_path / "set", "pancreas-and-tumour")
    assert (len(one.training), len(one.validation), len(one.test), one.missing) == (196 + 28, 28, 57, ())
    assert one.labels == {"background": 0, "pancreas": 1, "tumour": 2}
    assert all(product.rule.rewrite is None for product in one.products)


def test_other_tasks_are_copied_unchanged(spleen, tmp_path):
    before = hashes(spleen)
    (result,) = convert(survey_msd(spleen, tmp_path / "set"))
    assert hashes(spleen) == before
    found = read_dataset(result.root)
    assert found.name == "Spleen"
    assert [one.id for one in found.training] == ["spleen_002", "spleen_003"]
    assert [(one.id, one.label) for one in found.test] == [("spleen_001", None), ("spleen_007", None)]
    assert found.labels.to_mapping() == {"background": 0, "spleen": 1}
    for kind in ("images", "labels"):
        name = "spleen_002_0000.nii.gz" if kind == "images" else "spleen_002.nii.gz"
        assert (result.root / f"{kind}Tr" / name).read_bytes() == (spleen / f"{kind}Tr/spleen_002.nii.gz").read_bytes()


def test_sequences_in_one_file_become_one_file_each(tmp_path):
    root = write_msd(tmp_path / "Task05_Prostate", "prostate", [0, 2], [1], ["background", "PZ", "TZ"])
    content = json.loads((root / "dataset.json").read_text()) | {"modality": {"0": "T2", "1": "ADC"}}
    (root / "dataset.json").write_text(json.dumps(content))
    stored = {}
    for path in root.glob("images*/prostate*"):
        stored[path.name] = np.random.default_rng(len(stored)).integers(0, 3000, (*SHAPE, 2)).astype(np.int16)
        write_nifti(path, stored[path.name])
    (result,) = convert(survey_msd(root, tmp_path / "set"), link=True)
    assert (result.training, result.test, result.made) == (2, 1, 8)
    found = read_dataset(result.root)
    assert found.channel_names == ("T2", "ADC")
    for case in (*found.training, *found.test):
        assert [path.name for path in case.images] == [f"{case.id}_0000.nii.gz", f"{case.id}_0001.nii.gz"]
        image, _ = load_case(case)
        np.testing.assert_array_equal(image.array, stored[f"{case.id}.nii.gz"])
        np.testing.assert_allclose(image.geometry.affine, AFFINE, atol=1e-6)
        assert read_geometry(case.images[1]).dtype == np.dtype("<i2")
    (again,) = convert(survey_msd(root, tmp_path / "set"), link=True)
    assert (again.made, again.kept) == (0, 8)
    write_nifti(root / "imagesTr/prostate_002.nii.gz", np.zeros((*SHAPE, 3), np.int16))
    with pytest.raises(InputError, match=r"2 of 8 files are refused: .*prostate_002.nii.gz: expected 2 channels along"):
        convert(survey_msd(root, tmp_path / "set"))


def test_files_named_in_dataset_json_that_are_missing(tmp_path):
    root = write_msd(tmp_path / "Task09_Spleen", "spleen", [2, 3], [1], ["background", "spleen"])
    for name in ("imagesTr/spleen_002.nii.gz", "imagesTs/spleen_001.nii.gz"):
        (root / name).unlink()
    (one,) = survey_msd(root, tmp_path / "set")
    assert one.missing == ("imagesTr/spleen_002.nii.gz", "imagesTs/spleen_001.nii.gz")
    assert (one.training, one.test) == (("spleen_003",), ())


def test_other_tasks_have_no_choice_of_classes(spleen, tmp_path):
    with pytest.raises(ConfigError, match="--labels: only Task07_Pancreas has a choice of classes, this is Spleen"):
        survey_msd(spleen, tmp_path / "set", "tumour")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": {"0": "T2", "2": "ADC"}}, "dataset.json: expected channel names such as"),
        ({"modality": None}, "expected MSD's dataset.json, with modality, labels and training; give the folder of one"),
        ({"training": [3]}, "expected image and label, got 3"),
        ({"training": {}}, "expected a list, got {}"),
        ({"test": ["../imagesTs/x.nii.gz"]}, r"expected the path of a .nii.gz file in this folder, got '../images"),
        ({"test": ["/etc/x.nii.gz"]}, "expected the path of a .nii.gz file in this folder"),
        ({"test": [{"image": "x"}]}, "expected the path of a .nii.gz file in this folder"),
        ({"labels": {"0": "background"}}, "dataset.json: labels: expected at least one class besides the background"),
    ],
)
def test_an_invalid_dataset_json_is_refused(tmp_path, change, message):
    root = write_msd(tmp_path / "Task09_Spleen", "spleen", [2], [1], ["background", "spleen"])
    content = json.loads((root / "dataset.json").read_text()) | change
    (root / "dataset.json").write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    with pytest.raises(InputError, match=message):
        survey_msd(root, tmp_path / "set")

import json
import socket
import sys

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masam.cases.folder import load_case, read_dataset
from masam.errors import ResourceError
from masam.synthetic import head
from masam.synthetic.head import LABELS, label_tissue, load_head, plan_slabs, write_head

pytest.importorskip("nilearn")


@pytest.fixture(scope="module")
def template():
    return load_head()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", None)  # a call to the network would fail
        return write_head(tmp_path_factory.mktemp("head"))


def test_the_template_is_cropped_to_the_brain_with_the_right_affine(template):
    image, labels = template
    assert image.array.dtype == np.int16
    assert labels.array.dtype == np.uint8
    assert image.shape == labels.shape == (157, 193, 122)
    assert image.geometry.spacing_mm == (1, 1, 1)
    assert (image.array.min(), image.array.max()) == (0, 1000)
    # In MNI space the brain is symmetric about x = 0; its middle lies behind and above the anterior commissure.
    position = image.geometry.affine @ [*np.argwhere(labels.array > 0).mean(axis=0), 1]
    np.testing.assert_allclose(position[:3], [0, -20, 10], atol=12)
    np.testing.assert_array_equal(image.geometry.affine, labels.geometry.affine)


def test_labels_follow_the_tissue(template):
    image, labels = template
    grey, white = (image.array[labels.array == value] for value in (1, 2))
    assert np.median(white) > np.median(grey) + 100  # T1: white matter is the brighter
    # An adult's brain: more grey than white matter, both around half a litre or more.
    assert 800e3 < len(grey) < 1300e3
    assert 500e3 < len(white) < 800e3
    inverse = np.linalg.inv(image.geometry.affine)

    def at(x, y, z):
        return labels.array[tuple(np.rint(inverse @ [x, y, z, 1]).astype(int)[:3])]

    assert at(26, -20, 30) == at(-26, -10, 32) == LABELS["white_matter"]  # corona radiata
    assert at(-12, 12, 9) == LABELS["grey_matter"]  # head of the caudate nucleus
    assert at(6, -2, 18) == at(-8, 0, 18) == 0  # lateral ventricles: fluid
    assert labels.array[0, 0, 0] == 0


def test_the_larger_tissue_wins_and_fluid_is_background():
    grey = np.float32([0.6, 0.4, 0.2, 0.9, 0.5, 0.3])
    white = np.float32([0.4, 0.6, 0.1, 0.0, 0.5, 0.3])
    brain = np.array([True, True, True, False, True, True])
    np.testing.assert_array_equal(label_tissue(grey, white, brain), [1, 2, 0, 0, 1, 0])


@given(depth=st.integers(1, 200))
def test_slabs_are_apart_and_inside(depth):
    slabs = plan_slabs(depth)
    assert len(slabs) == max(0, (depth + 5) // (14 + 5))
    assert [slab.split for slab in slabs] == (["train", "train", "test"] * 4)[: len(slabs)]
    for number, slab in enumerate(slabs):
        assert slab.name == f"head_{number:02d}"
        assert (slab.first, slab.last) == (19 * number, 19 * number + 13)
        assert slab.last < depth


def test_each_slab_keeps_its_position_in_the_head(root, template):
    image, labels = template
    facts = json.loads((root / "slabs.json").read_text())
    assert (facts["slab_slices"], facts["gap_slices"], facts["test_every"]) == (14, 5, 3)
    for slab in facts["slabs"]:
        suffix = "Tr" if slab["split"] == "train" else "Ts"
        stored = nibabel.load(root / f"images{suffix}" / f"{slab['name']}_0000.nii.gz")
        stored_labels = nibabel.load(root / f"labels{suffix}" / f"{slab['name']}.nii.gz")
        part = slice(slab["first"], slab["last"] + 1)
        np.testing.assert_array_equal(np.asarray(stored.dataobj), image.array[:, :, part])
        np.testing.assert_array_equal(np.asarray(stored_labels.dataobj), labels.array[:, :, part])
        np.testing.assert_array_equal(stored.affine, stored_labels.affine)
        # The same voxel has the same place in the slab and in the whole head.
        np.testing.assert_allclose(
            stored.affine @ [10, 20, 3, 1], image.geometry.affine @ [10, 20, slab["first"] + 3, 1]
        )
        assert slab["z_mm"] == [stored.affine[2, 3], stored.affine[2, 3] + 13]
        assert set(np.unique(stored_labels.dataobj)) == {0, 1, 2}


def test_the_folder_is_readable_as_a_data_set(root):
    folder = read_dataset(root)
    assert [case.id for case in folder.training] == ["head_00", "head_01", "head_03", "head_04"]
    assert [case.id for case in folder.test] == ["head_02", "head_05"]
    assert all(case.label is not None for case in folder.test)
    assert folder.channel_names == ("T1",)
    assert folder.labels.to_mapping() == LABELS
    assert load_case(folder.test[0])[0].shape == (157, 193, 14)


def test_the_folder_has_a_readme(root):
    text = (root / "README.txt").read_text()
    assert "one average brain" in text
    assert "5 slices between two slabs are unused" in text
    assert "head_02   test   38 to 51" in text


def test_a_missing_nilearn_is_an_error_with_the_package_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "nilearn.datasets", None)
    with pytest.raises(ResourceError, match=r"requires nilearn, which .*; pip install 'masam\[demo\]'"):
        head.write_head(tmp_path / "head")
    assert not (tmp_path / "head").exists()

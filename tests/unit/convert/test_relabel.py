import numpy as np
import pytest
from downloads import labels_of, write_nifti
from hypothesis import given
from hypothesis import strategies as st

from masam.convert.relabel import relabel_folder, relabelled, relabelling
from masam.errors import ConfigError, InputError
from masam.io.nifti.file import read_labels

VALUES = st.integers(0, 65535)


@given(
    st.lists(VALUES, min_size=1, max_size=30),
    st.dictionaries(VALUES, VALUES, max_size=8),
    st.one_of(st.just("keep"), VALUES),
)
def test_every_voxel_is_mapped(values, mapping, others):
    array = np.array(values, np.int32).reshape(1, -1)
    before = array.copy()
    result = relabelled(array, mapping, others)
    expected = [[mapping.get(value, value if others == "keep" else others) for value in values]]
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(array, before)
    assert result.dtype == (np.uint8 if max(expected[0]) < 256 else np.uint16)


def test_values_that_are_not_expected_are_listed_with_their_number():
    with pytest.raises(InputError, match=r"f: expected the label values 0, 1, got 3 \(2 voxels\), 9 \(1 voxels\); dow"):
        relabelled(np.array([[0, 3, 3, 9]]), {0: 0, 1: 1}, "refuse", "f")
    np.testing.assert_array_equal(relabelled(np.array([0, 1]), {0: 0, 1: 5}, "refuse"), [0, 5])


def test_the_description_of_a_rule():
    assert relabelling({0: 0, 13: 12}, "refuse")[0] == "labels: 13 to 12; others: refuse"
    assert relabelling({0: 0}, 1)[0] == "labels: as they are; others: 1"


def test_a_folder_of_masks(tmp_path):
    for case in ("a", "b"):
        write_nifti(tmp_path / f"masks/{case}.nii.gz", labels_of([0, 9, 10, 11]))
    written = relabel_folder(tmp_path / "masks", tmp_path / "new", {10: 0})
    assert written == [tmp_path / "new/a.nii.gz", tmp_path / "new/b.nii.gz"]
    old, new = read_labels(tmp_path / "masks/b.nii.gz"), read_labels(written[1])
    np.testing.assert_array_equal(new.array, np.where(old.array == 10, 0, old.array))
    np.testing.assert_array_equal(new.geometry.affine, old.geometry.affine)


@pytest.mark.parametrize("place", ["masks", "masks/../masks"])
def test_masks_are_not_written_over(tmp_path, place):
    write_nifti(tmp_path / "masks/a.nii.gz", labels_of([0]))
    for source in (tmp_path / "masks", tmp_path / "masks/a.nii.gz"):
        with pytest.raises(ConfigError, match="expected a folder other than the one of the files; name a new folder"):
            relabel_folder(source, tmp_path / place, {1: 0})


@pytest.mark.parametrize("mapping", [{}, {-1: 0}, {1: 65536}])
def test_a_mapping_needs_label_values(tmp_path, mapping):
    with pytest.raises(ConfigError, match="expected at least one pair of values from 0 to 65535"):
        relabel_folder(tmp_path, tmp_path / "new", mapping)


def test_several_channels_are_refused(tmp_path):
    for channel in range(2):
        write_nifti(tmp_path / f"masks/a_{channel:04d}.nii.gz", labels_of([0]))
    with pytest.raises(InputError, match="a: expected one label file, got 2 channels"):
        relabel_folder(tmp_path / "masks", tmp_path / "new", {1: 0})

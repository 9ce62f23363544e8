import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masam.errors import InputError
from masam.labels import LabelScheme

NNUNET = {"background": 0, "spleen": 1, "tumour": 7, "ignore": 9}


def test_nnunet_and_msd_forms_give_the_same_scheme():
    msd = {"0": "background", "7": "tumour", "1": "spleen", "9": "ignore"}
    scheme = LabelScheme.from_mapping(NNUNET)
    assert scheme == LabelScheme.from_mapping(msd)
    assert [label.value for label in scheme.labels] == [0, 1, 7]
    assert scheme.num_classes == 2
    assert scheme.ignore_value == 9
    assert scheme.to_mapping() == NNUNET


def test_values_become_channels_and_ignore():
    scheme = LabelScheme.from_mapping(NNUNET)
    values = np.array([[0, 7], [1, 9]], np.uint8)
    assert scheme.to_channels(values).tolist() == [[0, 2], [1, -100]]


def test_unknown_value_is_named_with_its_file():
    with pytest.raises(
        InputError, match=r"case_3: label value 4, 5 is not in dataset.json, which defines \[0, 1, 7, 9\]"
    ):
        LabelScheme.from_mapping(NNUNET).to_channels(np.array([0, 4, 5]), where="case_3")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "expected a mapping"),
        ({"background": 0, "organs": [1, 2]}, "region-based"),
        ({"background": 0, "a": -1}, "an integer from 0 to 65535"),
        ({"background": 0, "a": True}, "an integer"),
        ({"background": 0, "a": 70000}, "an integer"),
        ({"background": 0, "a": 1, "b": 1}, "value 1 is assigned to both 'a' and 'b'"),
        ({"0": "background", "1": "a", "2": "a"}, "duplicate class names"),
        ({"a": 1, "b": 2}, "background class with value 0"),
        ({"background": 0, "ignore": 1}, "at least one class"),
    ],
)
def test_bad_schemes_are_rejected(mapping, message):
    with pytest.raises(InputError, match=message):
        LabelScheme.from_mapping(mapping, where="dataset.json: labels")


@given(values=st.sets(st.integers(1, 65535), min_size=1, max_size=20), data=st.data())
def test_channels_and_values_are_inverse(values, data):
    scheme = LabelScheme.from_mapping({"background": 0} | {f"class {v}": v for v in values})
    drawn = data.draw(st.lists(st.sampled_from([0, *sorted(values)]), min_size=1, max_size=30))
    array = np.array(drawn, np.uint16)
    back = scheme.to_values(scheme.to_channels(array))
    assert back.tolist() == drawn
    assert back.dtype == (np.uint8 if max(values) < 256 else np.uint16)


def test_ignored_pixels_stay_ignored():
    scheme = LabelScheme.from_mapping({"background": 0, "a": 3})
    assert scheme.to_channels(np.array([0, -100, 3], np.int16)).tolist() == [0, -100, 1]
    with pytest.raises(InputError, match=r"label value -1 is not in dataset.json, which defines \[0, 3\]"):
        scheme.to_channels(np.array([-1, -100]))

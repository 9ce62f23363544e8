import math

import numpy as np
import pytest
from tiny import without_type_checks

from masam.errors import ConfigError
from masam.prompts import Box3D, Click, MaskOnSlice


def test_valid_prompts_are_unchanged():
    assert Box3D((0, 1, 2, 0, 1.5, 9)).corners == (0.0, 1.0, 2.0, 0.0, 1.5, 9.0)
    assert Box3D([-5.0, 1, 2, 3, 4, 5], "mm").corners == (-5.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    assert Click((1, 2, 3), positive=False, class_name="liver").record() == {
        "not_click": [1.0, 2.0, 3.0], "unit": "voxel", "class": "liver",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("corners", "unit", "message"),
    [
        ((0, 0, 0, 1, 1), "voxel", "box: expected 6 numbers x0,y0,z0,x1,y1,z1, got 5"),
        ((0, 0, 0, 1, 1, math.nan), "voxel", "box: expected finite numbers x0,y0,z0,x1,y1,z1, got nan"),
        ((0, 0, 0, 1, 1, math.inf), "mm", "box: expected finite numbers x0,y0,z0,x1,y1,z1, got inf"),
        ((0, 0, 0, 1, True, 1), "voxel", "box: expected finite numbers x0,y0,z0,x1,y1,z1, got True"),
        ((0, 0, 0, 1, "1", 1), "voxel", "box: expected finite numbers x0,y0,z0,x1,y1,z1, got '1'"),
        ((0, 7, 0, 1, 2, 1), "voxel", "box: expected y0 <= y1, got 7 and 2; put the smaller corner first"),
        ((0, 0, 4, 1, 1, 4), "mm", "box: the box is empty: z0 and z1 are both 4 mm"),
        ((0, 0, 0, 1, 1, 1), "cm", "box: expected the unit voxel or mm, got 'cm'"),
    ],
)
def test_an_invalid_box_is_rejected(corners, unit, message):
    with without_type_checks(), pytest.raises(ConfigError) as refusal:
        Box3D(corners, unit)
    assert str(refusal.value) == message


def test_an_invalid_click_is_rejected():
    with pytest.raises(ConfigError, match=r"^click: expected 3 numbers x,y,z, got 2$"):
        Click((1, 2))
    with pytest.raises(ConfigError, match=r"^click: expected finite numbers x,y,z, got nan$"):
        Click((1, 2, math.nan))
    with without_type_checks(), pytest.raises(ConfigError, match=r"^click: expected the unit voxel or mm, got None$"):
        Click((1, 2, 3), unit=None)


def test_an_invalid_mask_is_rejected():
    drawn = np.eye(4, dtype=bool)
    assert MaskOnSlice(2, 1, drawn).record()["mask"] == [[0, 0], [1, 1], [2, 2], [3, 3]]
    with pytest.raises(ConfigError, match=r"^mask: expected axis 0, 1 or 2, got 3$"):
        MaskOnSlice(3, 1, drawn)
    with (
        without_type_checks(),
        pytest.raises(ConfigError, match=r"^mask: expected a boolean array with 2 axes, got float64 with 2$"),
    ):
        MaskOnSlice(2, 1, np.ones((4, 4)))
    with pytest.raises(ConfigError, match=r"^mask: the mask is empty; draw on the object"):
        MaskOnSlice(2, 1, ~np.ones((4, 4), bool))

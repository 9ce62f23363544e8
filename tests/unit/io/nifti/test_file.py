import gzip
import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.testing import data_path

from masam.errors import ConfigError, InputError, ResourceError
from masam.io.nifti.file import read_channel, read_geometry, read_labels, read_volume, write_volume
from masam.volume import Geometry, Volume

AFFINE = np.array([[-0.8, 0, 0, 90.5], [0, 0.8, 0, -126.25], [0, 0, 3.0, -72], [0, 0, 0, 1]])
# Byte position and type of the NIfTI-1 fields that the tests set.
FIELDS = {
    "dim": (40, "<8h"), "datatype": (70, "<h"), "bitpix": (72, "<h"), "pixdim": (76, "<8f"), "vox_offset": (108, "<f"),
    "scl_slope": (112, "<f"), "scl_inter": (116, "<f"), "xyzt_units": (123, "<B"), "qform_code": (252, "<h"),
    "sform_code": (254, "<h"), "quatern_b": (256, "<f"), "qoffset_x": (268, "<f"), "srow_x": (280, "<4f"),
    "srow_y": (296, "<4f"), "srow_z": (312, "<4f"), "magic": (344, "<4s"),
}  # fmt: skip


def voxels(dtype="<i2", shape=(6, 5, 4)):
    return np.arange(np.prod(shape)).reshape(shape, order="F").astype(dtype)


def save(path, array=None, affine=AFFINE, **fields):
    """Write a file with nibabel, then set header fields by their positions."""
    array = voxels() if array is None else array
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    content = bytearray(image.to_bytes())
    for name, value in fields.items():
        place, form = FIELDS[name]
        struct.pack_into(form, content, place, *(value if isinstance(value, tuple) else (value,)))
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "ü b.nii.gz", "A.NII.GZ"])
def test_values_affine_and_type(tmp_path, name):
    path = save(tmp_path / "source.nii")
    content = path.read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.lower().endswith("gz") else content)
    volume = read_volume(tmp_path / name)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, voxels())
    np.testing.assert_allclose(volume.geometry.affine, AFFINE, rtol=1e-7)
    header = read_geometry(tmp_path / name)
    assert (header.shape, header.dtype, header.offset) == ((6, 5, 4), np.dtype("<i2"), 352)
    assert header.geometry.spacing_mm == pytest.approx((0.8, 0.8, 3.0))


# ---- odd but valid: must be accepted ----


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("extension", [False, True])
def test_both_versions_byte_orders_and_all_real_types(tmp_path, kind, order, dtype, extension):
    header = kind.header_class(endianness=order)
    image = kind(voxels(order + dtype), AFFINE, header, dtype=np.dtype(order + dtype))
    if extension:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"patient's own words"))
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(image.to_bytes()))
    np.testing.assert_array_equal(read_volume(path).array, voxels("f4"))
    np.testing.assert_array_equal(read_labels(path).array, voxels("i4"))
    assert read_labels(path).array.dtype == np.int32


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [(2.0, -1024.0, lambda v: v * 2.0 - 1024), (0.0, 5.0, lambda v: v), (float("nan"), 5.0, lambda v: v)],
)
def test_scaling(tmp_path, slope, intercept, expected):
    """A slope of 0 or NaN means no scaling, so the intercept is ignored as well."""
    path = save(tmp_path / "a.nii", scl_slope=slope, scl_inter=intercept)
    np.testing.assert_array_equal(read_volume(path).array, expected(voxels("f4")))


@pytest.mark.parametrize("name", ["anatomical.nii", "standard.nii.gz"])
def test_files_of_nibabel(name):
    path = Path(data_path) / name
    reference = nib.load(path)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.array, reference.get_fdata(), rtol=1e-6)
    np.testing.assert_allclose(volume.geometry.affine, reference.affine, atol=1e-4)


@pytest.mark.parametrize("name", ["functional.nii", "example4d.nii.gz", "example_nifti2.nii.gz"])
def test_series_of_volumes_are_refused(name):
    with pytest.raises(InputError, match=r"expected 3 axes, got 4 with lengths .*; split it into one file per channel"):
        read_volume(Path(data_path) / name)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("fields", [{}, {"scl_slope": 0.5, "scl_inter": 3.0}])
def test_channels_along_the_fourth_axis(tmp_path, name, fields):
    stored = voxels(shape=(6, 5, 4, 3))
    path = save(tmp_path / name, stored, **fields)
    expected = stored * fields.get("scl_slope", 1.0) + fields.get("scl_inter", 0.0)
    for channels in (3, None):
        volume = read_volume(path, channels=channels)
        assert (volume.shape, volume.channels, volume.array.flags.f_contiguous) == ((6, 5, 4), 3, True)
        np.testing.assert_array_equal(volume.array, expected)
    for channel in range(3):
        one = read_channel(path, channel, 3)
        assert one.array.dtype == (np.float32 if fields else np.int16)
        np.testing.assert_array_equal(one.array, expected[..., channel])
        np.testing.assert_array_equal(one.geometry.affine, volume.geometry.affine)
    header = read_geometry(path, channels=None)
    assert (header.shape, header.channels, header.file_bytes) == ((6, 5, 4), 3, 352 + 2 * stored.size)
    assert read_geometry(save(tmp_path / "b.nii"), channels=None).channels == 1


@pytest.mark.parametrize(
    ("channels", "dim", "message"),
    [
        (
            4,
            (4, 6, 5, 4, 3),
            r"expected 4 channels along the fourth axis, got 3 \(axis lengths \[6, 5, 4, 3\]\)",
        ),
        (2, (3, 6, 5, 12), r"expected 2 channels along the fourth axis, got 1 \(axis lengths \[6, 5, 12, 1\]\)"),
        (1, (4, 6, 5, 4, 3), r"expected 3 axes, got 4 with lengths \[6, 5, 4, 3\]; split it into one file per channel"),
        (None, (5, 6, 5, 4, 1, 3), r"expected 3 axes, got 5 with lengths \[6, 5, 4, 1, 3\]"),
        (4, (4, 6, 5, 4, 4), "expected 1312 bytes as the header declares, the file has 1072"),
        (2, (4, 6, 5, 4, 2), "expected 832 bytes as the header declares, the file has 1072"),
        (30000, (4, 20000, 20000, 2, 30000), "the limit is 17179869184"),
    ],
)
def test_refused_channels(tmp_path, channels, dim, message):
    path = save(tmp_path / "a.nii", voxels(shape=(6, 5, 4, 3)), dim=dim + (0,) * (8 - len(dim)))
    with pytest.raises(InputError, match=message) as error:
        read_volume(path, channels=channels)
    assert error.value.where == str(path)


def test_implausible_numbers_of_channels_are_refused_before_memory_is_allocated(tmp_path):
    path = save(tmp_path / "a.nii.gz", voxels(shape=(6, 5, 4, 3)), dim=(4, 2000, 2000, 100, 16, 0, 0, 0))
    with pytest.raises(InputError, match=r"a\.nii\.gz: .*12800000352"):
        read_volume(path, channels=16)


def test_a_voxel_of_a_further_channel_that_is_not_finite(tmp_path):
    stored = voxels("<f4", (6, 5, 4, 3))
    stored[1, 2, 3, 2] = np.nan
    path = save(tmp_path / "a.nii", stored)
    with pytest.raises(InputError, match="1 of 360 voxels are not finite in float32"):
        read_volume(path, channels=3)
    with pytest.raises(InputError, match="1 of 120 voxels are not finite in float32"):
        read_channel(path, 2, 3)
    np.testing.assert_array_equal(read_channel(path, 1, 3).array, stored[..., 1])
    np.testing.assert_array_equal(read_volume(path, channels=3, nan_fill=-1.0).array, np.nan_to_num(stored, nan=-1))


@pytest.mark.parametrize(
    ("dim", "shape"),
    [((3, 6, 5, 4), (6, 5, 4)), ((4, 6, 5, 4, 1), (6, 5, 4)), ((5, 6, 5, 4, 1, 1), (6, 5, 4)), ((2, 6, 20), (6, 20, 1)),
     ((3, 6, 20, 1), (6, 20, 1)), ((3, 6, 10, 2), (6, 10, 2))],
)  # fmt: skip
def test_accepted_axes(tmp_path, dim, shape):
    path = save(tmp_path / "a.nii", dim=dim + (0,) * (8 - len(dim)), pixdim=(1, 2, 2, 2, 1, 1, 1, 1), sform_code=0)
    assert read_volume(path).shape == shape


@pytest.mark.parametrize(
    ("dim", "message"),
    [
        ((4, 6, 5, 2, 2), "expected 3 axes, got 4"),
        ((5, 6, 5, 2, 1, 2), "expected 3 axes, got 5"),
        ((4, 30000, 30000, 1, 30000), "expected 3 axes, got 4"),
        ((1, 120), "expected 3 axes, the header declares 1"),
        ((0,), "declares 0"),
        ((8, 6, 5, 4), "declares 8"),
        ((3, 6, 5, 0), r"length 1 or more, the header declares \[6, 5, 0\]"),
        ((3, 6, -5, 4), r"length 1 or more, the header declares \[6, -5, 4\]"),
        ((3, 32000, 32000, 32000), "the limit is 17179869184"),
        ((3, 6, 5, 5), "expected 652 bytes as the header declares, the file has 592"),
        ((3, 6, 5, 3), "expected 532 bytes as the header declares, the file has 592"),
    ],
)
def test_refused_axes(tmp_path, dim, message):
    for name in ("a.nii", "a.nii.gz"):
        path = save(tmp_path / name, dim=dim + (0,) * (8 - len(dim)))
        if name.endswith("gz"):
            message = message.replace("expected 652 bytes as the header declares, the file has 592", "got 592")
            message = message.replace(
                "expected 532 bytes as the header declares, the file has 592", "more than the 532"
            )
        with pytest.raises(InputError, match=message) as error:
            read_volume(path)
        assert error.value.where == str(path)


def test_slice_without_thickness(tmp_path):
    path = save(tmp_path / "a.nii", dim=(2, 6, 20, 0, 0, 0, 0, 0), pixdim=(1, 2, 2, 0, 0, 0, 0, 0), sform_code=0)
    assert read_volume(path).geometry.spacing_mm == (2.0, 2.0, 1.0)


# ---- refused headers ----


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"magic": b"ni1\0"}, r"the header is one of a .hdr and .img pair"),
        ({"magic": b"bad\0"}, "expected the magic bytes"),
        ({"datatype": 32, "bitpix": 64}, "expected real voxel values, the type is complex"),
        ({"datatype": 128, "bitpix": 24}, "the type is RGB"),
        ({"datatype": 7777}, "the type is unknown \\(code 7777\\)"),
        ({"bitpix": 8}, "inconsistent header: voxel type int16 with 8 bits"),
        ({"vox_offset": 1e30}, "the limit is 17179869184"),
        ({"vox_offset": float("nan")}, "expected a voxel offset of 352 bytes or more, got nan"),
        ({"vox_offset": 300.0}, "bytes or more, got 300"),
        ({"vox_offset": 352.5}, "bytes or more, got 352.5"),
        ({"scl_slope": float("inf")}, "expected a finite scaling, got slope inf"),
        ({"scl_slope": 1.0, "scl_inter": float("nan")}, "expected a finite scaling"),
        ({"xyzt_units": 5}, "expected the unit mm, metre or micrometre, got unit code 5"),
        ({"xyzt_units": 1}, "expected a voxel size of 1e-06 to 500 mm"),
        ({"sform_code": 77}, "expected sform_code from 0 to 5, got 77"),
        ({"qform_code": -1}, "expected qform_code from 0 to 5, got -1"),
        ({"sform_code": 0, "qform_code": 0}, "neither an sform nor a qform.*--assume-orientation RAS"),
        ({"quatern_b": float("nan")}, "expected a unit quaternion"),
        ({"quatern_b": 2.0}, "expected a unit quaternion"),
        ({"qoffset_x": float("inf")}, "a finite offset in the qform"),
        ({"pixdim": (0.5, 1, 1, 1, 0, 0, 0, 0)}, r"handedness \(pixdim\[0\]\), got 0.5"),
        ({"sform_code": 0, "pixdim": (1, 1, -1, 1, 0, 0, 0, 0)}, r"expected a positive voxel size \(pixdim\)"),
        ({"sform_code": 0, "pixdim": (1, 1, 1, float("nan"), 0, 0, 0, 0)}, "expected a positive voxel size"),
        ({"sform_code": 0, "qoffset_x": 1e9}, "the position of the first voxel, .* not plausible"),
        ({"qoffset_x": 91.5}, "sform and qform disagree by up to 1 .*sform .*qform.*--prefer-sform"),
        ({"srow_x": (0.8, 0, 0, 90.5)}, "sform and qform disagree"),
        ({"srow_x": (float("nan"), 0, 0, 0)}, "sform and qform disagree by up to nan"),
        ({"qform_code": 0, "srow_x": (float("nan"), 0, 0, 0)}, "values that are not finite"),
        ({"qform_code": 0, "srow_x": (0, 0, 0, 0)}, "the affine is singular"),
        ({"qform_code": 0, "srow_x": (0.8, 0.4, 0, 0)}, "the affine is sheared"),
        ({"qform_code": 0, "srow_x": (8e9, 0, 0, 0)}, "expected a voxel size of"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_refused_header(tmp_path, name, fields, message):
    path = save(tmp_path / name, **fields)
    for read in (read_volume, read_labels, read_geometry):
        with pytest.raises(InputError, match=message) as error:
            read(path)
        assert error.value.where == str(path)


def test_not_nifti(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"\x89PNG" + bytes(600))
    (tmp_path / "b.nii").write_bytes(b"\x5c\x01\0\0")
    (tmp_path / "c.mha").write_bytes(b"NDims = 3")
    messages = {
        "a.nii": "expected a NIfTI header, got other content",
        "b.nii": "expected a NIfTI header, got other content",
        "c.mha": r"expected a \.nii or \.nii\.gz file",
        "d.nii": "expected a file, got none",
    }
    for name, message in messages.items():
        for read in (read_volume, read_labels, read_geometry):
            with pytest.raises(InputError, match=message):
                read(tmp_path / name)


def test_gzip_by_name_or_content_only(tmp_path):
    plain, packed = save(tmp_path / "a.nii"), save(tmp_path / "b.nii.gz")
    plain.rename(tmp_path / "c.nii.gz")
    packed.rename(tmp_path / "d.nii")
    for read in (read_volume, read_geometry):
        with pytest.raises(InputError, match=r"the name ends in \.gz but"):
            read(tmp_path / "c.nii.gz")
        with pytest.raises(InputError, match=r"add \.gz to the name"):
            read(tmp_path / "d.nii")


# ---- transforms ----


def test_prefer_sform(tmp_path):
    path = save(tmp_path / "a.nii", srow_x=(0.8, 0, 0, 90.5))
    volume = read_volume(path, prefer_sform=True)
    assert volume.geometry.affine[0].tolist() == pytest.approx([0.8, 0, 0, 90.5])
    assert read_geometry(path, prefer_sform=True).geometry.matches(volume.geometry, volume.shape)
    assert read_labels(path, prefer_sform=True).geometry.matches(volume.geometry, volume.shape)
    # Both transforms now equal the sform, so the result is accepted.
    write_volume(tmp_path / "b.nii", volume)
    assert read_volume(tmp_path / "b.nii").geometry.matches(volume.geometry, volume.shape)


@pytest.mark.parametrize(
    ("letters", "columns"),
    [("RAS", [(0.8, 0, 0), (0, 0.8, 0), (0, 0, 3)]), ("LPS", [(-0.8, 0, 0), (0, -0.8, 0), (0, 0, 3)]),
     ("pil", [(0, -0.8, 0), (0, 0, -0.8), (-3, 0, 0)])],
)  # fmt: skip
def test_assumed_orientation(tmp_path, letters, columns):
    path = save(tmp_path / "a.nii", sform_code=0, qform_code=0)
    volume = read_volume(path, assume_orientation=letters)
    np.testing.assert_allclose(volume.geometry.affine[:3, :3].T, columns, rtol=1e-6)
    assert volume.geometry.affine[:3, 3].tolist() == [0, 0, 0]
    assert "".join(nib.aff2axcodes(volume.geometry.affine)) == letters.upper()
    assert (volume.geometry.sform_code, volume.geometry.qform_code) == (2, 0)


def test_assumed_orientation_is_ignored_if_there_is_a_transform(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii"), assume_orientation="RAS")
    np.testing.assert_allclose(volume.geometry.affine, AFFINE, rtol=1e-7)


@pytest.mark.parametrize("letters", ["RAX", "RRS", "RA", "", "RASL"])
def test_wrong_orientation(tmp_path, letters):
    path = save(tmp_path / "a.nii", sform_code=0, qform_code=0)
    with pytest.raises(ConfigError, match="expected an orientation such as RAS or LPS"):
        read_volume(path, assume_orientation=letters)


@pytest.mark.parametrize(("unit", "factor"), [(0, 1), (2, 1), (3, 0.001), (10, 1), (1, 1000)])
def test_units_become_mm(tmp_path, unit, factor):
    affine = np.diag([0.01, 0.01, 0.02, 1])
    volume = read_volume(save(tmp_path / "a.nii", affine=affine, xyzt_units=unit))
    assert volume.geometry.spacing_mm == pytest.approx((0.01 * factor, 0.01 * factor, 0.02 * factor))


def test_qform_of_an_oblique_scan_reads_as_in_nibabel(tmp_path):
    rotation = nib.eulerangles.euler2mat(0.3, -0.2, 0.1)
    for mirror in (1, -1):
        affine = nib.affines.from_matvec(rotation * (0.7, 0.7, 2.5 * mirror), (10, -20, 30))
        path = save(tmp_path / "a.nii", affine=affine, sform_code=0)
        np.testing.assert_allclose(read_volume(path).geometry.affine, nib.load(path).affine, atol=1e-6)
        np.testing.assert_allclose(read_volume(path).geometry.affine, affine, atol=1e-5)


# ---- voxels ----


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite(tmp_path, bad):
    array = voxels("<f8")
    array[1, 2, 3] = bad
    path = save(tmp_path / "a.nii.gz", array)
    with pytest.raises(InputError, match=r"1 of 120 voxels are not finite in float32 .*--nan-fill"):
        read_volume(path)
    filled = read_volume(path, nan_fill=-7.0).array
    assert filled[1, 2, 3] == -7
    assert np.count_nonzero(filled != array) == 1


def test_volumes_without_finite_voxels_are_refused(tmp_path):
    path = save(tmp_path / "a.nii", np.full((3, 3, 3), np.nan, "<f4"))
    with pytest.raises(InputError, match="27 of 27 voxels are not finite"):
        read_volume(path, nan_fill=0.0)


def test_wrong_arguments(tmp_path):
    path = save(tmp_path / "a.nii")
    with pytest.raises(ConfigError, match="dtype: expected a floating-point type, got int16"):
        read_volume(path, dtype=np.int16)
    with pytest.raises(ConfigError, match="nan_fill: expected a finite value, got nan"):
        read_volume(path, nan_fill=float("nan"))
    with pytest.raises(InputError, match="the limit is 100"):
        read_volume(path, max_bytes=100)
    assert read_volume(path, dtype=np.float64).array.dtype == np.float64


@pytest.mark.parametrize(
    ("dtype", "value", "shown"),
    [("<f4", 0.5, "0.5"), ("<f4", np.nan, "nan"), ("<i2", -1, "-1"), ("<i4", 65536, "65536"), ("<f8", np.inf, "inf"),
     ("<u8", 2**63, "9223372036854775808"), ("<i2", -1024, "-1024"), ("<f8", 1 + 1e-9, "1.0000")],
)  # fmt: skip
def test_labels_that_are_not_labels(tmp_path, dtype, value, shown):
    array = np.zeros((4, 3, 2), dtype)
    array[3, 1, 1] = value
    message = rf"integers from 0 to 65535, got {shown}.* at voxel \(3, 1, 1\); check whether it is an image"
    with pytest.raises(InputError, match=message):
        read_labels(save(tmp_path / "a.nii", array))


@pytest.mark.parametrize(
    ("dtype", "values"), [("<f8", [0, 255]), ("<u2", [0, 65535]), ("<f4", [0, 3]), ("|u1", [1, 7])]
)
def test_labels_in_any_type(tmp_path, dtype, values):
    array = np.resize(values, (4, 3, 2)).astype(dtype)
    np.testing.assert_array_equal(read_labels(save(tmp_path / "a.nii", array)).array, array)


def test_scaled_labels_are_accepted_if_they_are_integers(tmp_path):
    path = save(tmp_path / "a.nii", scl_slope=2.0, scl_inter=1.0)
    np.testing.assert_array_equal(read_labels(path).array, voxels("i4") * 2 + 1)
    with pytest.raises(InputError, match="expected labels to be integers"):
        read_labels(save(tmp_path / "a.nii", scl_slope=0.00392, scl_inter=0.0))


# ---- writing ----


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("u1", "u1"), ("i1", "i1"), ("u2", "u2"), ("i2", "i2"), ("i4", "i4"), ("u4", "u4"), ("i8", "i8"), ("u8", "u8"),
     ("?", "u1"), ("f2", "f4"), ("f4", "f4"), ("f8", "f4"), (">i2", "i2"), (">f4", "f4")],
)  # fmt: skip
def test_types_that_are_written(tmp_path, name, dtype, stored):
    volume = Volume(voxels(dtype), Geometry(AFFINE, sform_code=2, qform_code=1))
    write_volume(tmp_path / name, volume)
    reference = nib.load(tmp_path / name)
    assert reference.get_data_dtype() == np.dtype(stored)
    np.testing.assert_array_equal(np.asanyarray(reference.dataobj), voxels(dtype))
    np.testing.assert_allclose(reference.affine, AFFINE, rtol=1e-7)
    np.testing.assert_allclose(reference.get_qform(), AFFINE, rtol=1e-6)
    assert reference.header.get_xyzt_units()[0] == "mm"
    assert (int(reference.header["sform_code"]), int(reference.header["qform_code"])) == (2, 1)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (4, 2), (0, 3)])
def test_codes_are_kept(tmp_path, codes):
    geometry = Geometry(AFFINE, sform_code=codes[0], qform_code=codes[1])
    write_volume(tmp_path / "a.nii", Volume(voxels(), geometry))
    found = read_geometry(tmp_path / "a.nii").geometry
    assert (found.sform_code, found.qform_code) == codes
    np.testing.assert_allclose(found.affine, AFFINE, rtol=1e-6)


def test_geometry_that_a_qform_cannot_represent_gets_an_sform(tmp_path):
    # Nearly a half turn: the real part of the quaternion is smaller than the rounding of the others.
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(0, 0, np.pi - 3e-4), (1, 2, 3))
    shape = (200, 200, 4)
    write_volume(tmp_path / "a.nii.gz", Volume(np.zeros(shape, np.uint8), Geometry(affine, sform_code=0, qform_code=3)))
    found = read_geometry(tmp_path / "a.nii.gz").geometry
    assert (found.sform_code, found.qform_code) == (3, 3)
    np.testing.assert_allclose(found.affine, affine, atol=1e-6)


def test_nifti2_is_written_if_nifti1_does_not_suffice(tmp_path):
    write_volume(tmp_path / "long.nii.gz", Volume(np.zeros((40_000, 1, 1), np.uint8), Geometry(np.eye(4))))
    fine = np.diag([1e-3, 1e-3, 1e-3, 1.0])
    fine[:3, 3] = 98_765.4321
    write_volume(tmp_path / "fine.nii.gz", Volume(voxels(), Geometry(fine)))
    for name in ("long.nii.gz", "fine.nii.gz"):
        assert isinstance(nib.load(tmp_path / name), nib.Nifti2Image)
    np.testing.assert_array_equal(read_geometry(tmp_path / "fine.nii.gz").geometry.affine, fine)


def test_same_volume_same_bytes(tmp_path):
    volume = Volume(voxels(), Geometry(AFFINE))
    write_volume(tmp_path / "a.nii.gz", volume)
    write_volume(tmp_path / "b.nii.gz", Volume(np.ascontiguousarray(volume.array), volume.geometry))
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "b.nii.gz").read_bytes()
    assert content[4:8] == bytes(4)  # no time


@pytest.mark.parametrize(
    ("array", "geometry", "name", "message"),
    [
        (np.full((2, 2, 2), np.nan), Geometry(AFFINE), "a.nii", "cannot write values that are not finite in float32"),
        (np.full((2, 2, 2), 1e300), Geometry(AFFINE), "a.nii", "cannot write values that are not finite in float32"),
        (np.zeros((2, 2, 2), complex), Geometry(AFFINE), "a.nii", "cannot write values of type complex128"),
        (np.zeros((2, 2, 2)), Geometry(AFFINE, 0, 0), "a.nii", "neither an sform code nor a qform code"),
        (np.zeros((2, 2, 2)), Geometry(np.diag([1e4, 1, 1, 1])), "a.nii", "expected a voxel size of"),
        (np.zeros((2, 2, 2)), Geometry(AFFINE), "a.mha", "expected a .nii or .nii.gz file"),
    ],
)
def test_refused_to_write(tmp_path, array, geometry, name, message):
    with pytest.raises(InputError, match=message):
        write_volume(tmp_path / name, Volume(array, geometry))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_when_read_back_is_refused(tmp_path, monkeypatch):
    def damaged(head, array):
        yield head
        yield bytes(array.nbytes)

    monkeypatch.setattr("masam.io.nifti.file._blocks", damaged)
    with pytest.raises(ResourceError, match=r"a\.nii\.gz: the file did not read back .*\(voxels differ\)"):
        write_volume(tmp_path / "a.nii.gz", Volume(voxels(), Geometry(AFFINE)))
    assert list(tmp_path.iterdir()) == []


def test_full_disk_sweep(tmp_path):
    """RLIMIT_FSIZE in a child: at no threshold is there a file at the final name, or a success reported."""
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from masam.errors import ResourceError
from masam.io.nifti.file import write_volume
from masam.volume import Volume
array = np.random.default_rng(0).integers(0, 9, (40, 40, 20)).astype(np.uint8)
for name in ("a.nii", "a.nii.gz"):
    for limit in (0, 1, 347, 352, 1000, 5000, 10000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            write_volume(Path(sys.argv[1]) / name, Volume(array))
        except ResourceError as error:
            print(len(list(Path(sys.argv[1]).iterdir())), error.what)
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.splitlines() == ["0 cannot write the file (File too large)"] * 14


def test_input_is_not_changed(tmp_path):
    array = voxels()
    before = hashlib.sha256(array.tobytes()).hexdigest()
    write_volume(tmp_path / "a.nii.gz", Volume(array, Geometry(AFFINE)))
    assert hashlib.sha256(array.tobytes()).hexdigest() == before
    os.chmod(tmp_path / "a.nii.gz", 0o444)  # noqa: PTH101
    content = (tmp_path / "a.nii.gz").read_bytes()
    read_volume(tmp_path / "a.nii.gz", nan_fill=0.0)
    assert (tmp_path / "a.nii.gz").read_bytes() == content

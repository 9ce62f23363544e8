"""NIfTI: properties of all geometries, damaged headers and arrays."""

import gzip
import os
import struct
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from masam.errors import InputError
from masam.io.nifti.file import read_channel, read_geometry, read_labels, read_volume, write_volume
from masam.io.nifti.header import encode_header, parse_header
from masam.volume import Geometry, Volume


@pytest.fixture
def no_flush(monkeypatch):
    """Do not wait for the disk, which takes nine tenths of the time; test_atomic covers flushing."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def random_geometry(rng):
    """Any rotation, either handedness, spacing from 0.1 to 10 mm, every pair of codes that has one."""
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.exp(rng.uniform(np.log(0.1), np.log(10), 3))
    affine[:3, 3] = rng.uniform(-600, 600, 3)
    codes = [(1, 1), (2, 1), (4, 0), (1, 0), (0, 1), (0, 3), (5, 2)][rng.integers(7)]
    return Geometry(affine, *codes)


def relative(found, expected):
    axes = np.abs(found[:3, :3] - expected[:3, :3]).max() / np.abs(expected[:3, :3]).max()
    origin = np.abs(found[:3, 3] - expected[:3, 3]).max() / np.abs(expected[:3, 3]).max()
    return max(axes, origin)


def test_five_hundred_geometries_are_restored(tmp_path, no_flush):
    """To 1e-6 when first encoded (32-bit header), for all codes; every fifth again, without drift, in a file."""
    rng = np.random.default_rng(31)
    array = rng.integers(0, 9, (4, 3, 5)).astype(np.uint8)
    path = tmp_path / "a.nii"
    for number in range(500):
        geometry = random_geometry(rng)
        first = parse_header(encode_header(array.shape, array.dtype, geometry, path), path).geometry
        assert relative(first.affine, geometry.affine) <= 1e-6
        assert first.qform_code == geometry.qform_code
        # A qform alone cannot represent every rotation; then an sform is added.
        assert first.sform_code in (geometry.sform_code, geometry.sform_code or geometry.qform_code)
        if number % 5:
            continue
        write_volume(path, Volume(array, first))
        second = read_labels(path)
        np.testing.assert_array_equal(second.array, array)
        assert relative(second.geometry.affine, first.affine) <= 1e-6
        assert (second.geometry.sform_code, second.geometry.qform_code) == (first.sform_code, first.qform_code)


def test_geometries_from_a_qform_alone_are_restored(tmp_path, no_flush):
    """A qform from a file can be stored again, so its codes stay as they are."""
    rng = np.random.default_rng(32)
    for _ in range(100):
        geometry = random_geometry(rng)
        image = nib.Nifti1Image(np.zeros((4, 3, 5), np.uint8), geometry.affine)
        image.set_qform(geometry.affine, 1)
        image.set_sform(None, 0)
        (tmp_path / "a.nii").write_bytes(image.to_bytes())
        source = read_volume(tmp_path / "a.nii")
        write_volume(tmp_path / "b.nii", source)
        found = read_geometry(tmp_path / "b.nii").geometry
        assert relative(found.affine, source.geometry.affine) <= 1e-6
        assert (found.sform_code, found.qform_code) == (0, 1)


def test_masam_nibabel_and_simpleitk_agree_on_positions(tmp_path, no_flush):
    """The output's centroid by masam, nibabel and SimpleITK, to 0.01 voxel, with sform and qform given."""
    rng = np.random.default_rng(33)
    path = tmp_path / "a.nii"
    for _ in range(100):
        geometry = Geometry(random_geometry(rng).affine, 1, 1)
        array = np.zeros((30, 24, 20), np.uint8)
        i, j, k = rng.integers(0, 16, 3)
        array[i : i + 5, j : j + 3, k : k + 4] = 1
        write_volume(path, Volume(array, geometry))
        centre = np.argwhere(array).mean(axis=0)
        ours = geometry.affine @ [*centre, 1]
        theirs = nib.load(path)
        by_nibabel = theirs.affine @ [*np.argwhere(np.asanyarray(theirs.dataobj)).mean(axis=0), 1]
        image = SimpleITK.ReadImage(path)
        itk_centre = np.argwhere(SimpleITK.GetArrayFromImage(image)).mean(axis=0)[::-1]
        by_sitk = np.array(image.TransformContinuousIndexToPhysicalPoint(itk_centre.tolist())) * (-1, -1, 1)
        tolerance = 0.01 * min(geometry.spacing_mm)
        assert np.abs(by_nibabel[:3] - ours[:3]).max() < tolerance
        assert np.abs(by_sitk - ours[:3]).max() < tolerance


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    array=st.sampled_from(["u1", "i1", "u2", "i2", "i4", "u4", "i8", "u8", "f4"]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
            elements=hnp.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False),
        )
    ),
    compressed=st.booleans(),
    order=st.sampled_from("CF"),
)
def test_every_array_is_restored(array, compressed, order):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.nii.gz" if compressed else "a.nii")
        write_volume(path, Volume(np.asarray(array, order=order)))
        stored = np.asanyarray(nib.load(path).dataobj)
        assert stored.dtype == array.dtype
        np.testing.assert_array_equal(stored, array)
        np.testing.assert_array_equal(read_volume(path, dtype=np.float64).array, array.astype(np.float64))


def mutants(content, seed, count, limit):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        mutant = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            mutant[rng.integers(limit)] = rng.integers(256)
        yield bytes(mutant)


def test_damaged_headers_are_refused_or_consistent(tmp_path):
    """A typed refusal, or a volume with a plausible geometry whose voxels are those a plain computation gives.

    Damage that looks right (another origin, another spacing) cannot be seen: a header has no checksum.
    """
    rng = np.random.default_rng(24)
    array = rng.integers(-1000, 1000, (6, 5, 4)).astype("<i2")
    image = nib.Nifti1Image(array, np.diag([0.8, 0.8, 3, 1]))
    image.set_qform(image.affine, 1)
    content = image.to_bytes()
    refused = accepted = 0
    for number, mutant in enumerate(mutants(content, 24, 600, 352)):
        path = tmp_path / ("a.nii.gz" if number % 2 else "a.nii")
        path.write_bytes(gzip.compress(mutant, 1) if number % 2 else mutant)
        try:
            volume = read_volume(path)
        except InputError as error:
            assert error.where == str(path)  # noqa: PT017
            refused += 1
            continue
        accepted += 1
        assert np.isfinite(volume.geometry.affine).all()
        assert abs(np.linalg.det(volume.geometry.affine[:3, :3])) > 0
        code = struct.unpack_from("<h", mutant, 70)[0]
        stored = np.frombuffer(mutant, {4: "<i2", 512: "<u2"}[code], volume.array.size, 352)
        slope, intercept = struct.unpack_from("<2f", mutant, 112)
        if np.isfinite(slope) and slope != 0:
            stored = stored.astype(np.float64) * slope + intercept
        np.testing.assert_array_equal(volume.array.ravel(order="F"), stored.astype(np.float32))
    assert refused > 50
    assert accepted > 50


def test_damaged_gzip_never_changes_a_voxel(tmp_path):
    rng = np.random.default_rng(26)
    volume = Volume(rng.integers(0, 5, (6, 5, 4)).astype(np.uint8))
    path = tmp_path / "a.nii.gz"
    write_volume(path, volume)
    whole = path.read_bytes()
    refused = 0
    for position in rng.integers(80, len(whole) * 8, 300):  # beyond the ten bytes of time and system
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        try:
            np.testing.assert_array_equal(read_labels(path).array, volume.array)
        except InputError:
            refused += 1
    assert refused >= 298
    path.write_bytes(whole)
    for length in reversed(range(len(whole))):
        os.truncate(path, length)
        try:
            read_labels(path)
        except InputError:
            continue
        raise AssertionError(f"a file cut to {length} of {len(whole)} bytes was read")


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    channels=st.integers(2, 5),
    dtype=st.sampled_from(["u1", "<i2", ">i2", "<u2", "<i4", "<f4", ">f8"]),
    slope=st.sampled_from([1.0, 0.0, -2.5]),
    ending=st.sampled_from([".nii", ".nii.gz"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_channels_in_one_file_can_be_read_separately(shape, channels, dtype, slope, ending, seed):
    array = np.random.default_rng(seed).integers(0, 200, (*shape, channels)).astype(dtype)
    header = nib.Nifti1Header(endianness=np.dtype(dtype).byteorder if dtype != "u1" else "<")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{ending}"
        image = nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0]), header, dtype=array.dtype)
        content = bytearray(image.to_bytes())
        struct.pack_into(">2f" if dtype[0] == ">" else "<2f", content, 112, slope, 3.0)
        path.write_bytes(gzip.compress(bytes(content)) if ending == ".nii.gz" else bytes(content))
        whole = read_volume(path, channels=channels)
        expected = array.astype(np.float64) * slope + 3 if slope else array
        np.testing.assert_array_equal(whole.array, np.asarray(expected, np.float32))
        for channel in range(channels):
            one = read_channel(path, channel, channels)
            np.testing.assert_array_equal(one.array, whole.array[..., channel])
            np.testing.assert_array_equal(one.geometry.affine, whole.geometry.affine)
        with pytest.raises(InputError, match=f"expected {channels + 1} channels along the fourth axis, got {channels}"):
            read_volume(path, channels=channels + 1)

"""DICOM series to volumes: values and geometry compared with the source and SimpleITK, for all pixel formats."""

import logging
import os
import random
import sys
import warnings
from io import BytesIO
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_maker import AXIAL, add_pixels, affine_of, make, make_enhanced, save, voxels, write
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from masam.errors import InputError, ResourceError
from masam.io.dicom import decoder as dicom_decoder
from masam.io.dicom.pixels import read_dicom
from masam.io.dicom.series import choose_series, read_stack

SHIPPED = Path(pydicom.__file__).parent / "data/test_files"
OBLIQUE = tuple(
    np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0][:, :2].T.ravel()
)  # any two directions at a right angle
ORIENTATIONS = {
    "axial": AXIAL,
    "sagittal": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
    "coronal": (1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
    "feet first": (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "oblique": OBLIQUE,
}


def by_simpleitk(folder):
    """Values [columns, rows, slices] and the affine in RAS."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_values_and_geometry_agree_with_simpleitk(tmp_path, orientation):
    folder = save(tmp_path / "series", make(orientation=orientation))
    volume = read_dicom(folder)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, voxels() - 1024.0)
    np.testing.assert_allclose(volume.geometry.affine, affine_of(orientation), atol=1e-5)
    theirs, affine = by_simpleitk(folder)
    np.testing.assert_array_equal(volume.array, theirs)
    np.testing.assert_allclose(volume.geometry.affine, affine, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_file_names_their_order_and_other_files_have_no_effect(tmp_path, seed):
    datasets = make(series="1.2.3.4")
    expected = read_dicom(save(tmp_path / "plain", datasets))
    names = [f"{n}" for n in random.Random(seed).sample(range(100), len(datasets))]
    folder = save(tmp_path / "mixed", datasets[::-1], lambda n: names[n])
    (folder / "below").mkdir()
    (folder / names[0]).rename(folder / "below" / "IM0")
    (folder / "README.txt").write_text("not DICOM")
    (folder / "empty").touch()
    (folder / ".hidden.dcm").write_bytes(b"x")
    found = read_dicom(folder)
    np.testing.assert_array_equal(found.array, expected.array)
    np.testing.assert_array_equal(found.geometry.affine, expected.geometry.affine)
    assert choose_series(folder).sha256() == choose_series(tmp_path / "plain").sha256()


def test_each_slice_has_its_own_scaling(tmp_path):
    datasets = make()
    for k, dataset in enumerate(datasets):
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.5 + k, -10.0 * k
    folder = save(tmp_path, datasets)
    k = np.arange(8)
    np.testing.assert_array_equal(read_dicom(folder).array, voxels() * (0.5 + k) - 10.0 * k)
    np.testing.assert_array_equal(read_dicom(folder).array, by_simpleitk(folder)[0])


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_types(tmp_path, dtype):
    numbers = np.random.default_rng(1).integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (5, 7, 3)).astype(dtype)
    datasets = make(numbers)
    for dataset in datasets:
        dataset.RescaleIntercept = 0
    np.testing.assert_array_equal(read_dicom(save(tmp_path, datasets)).array, numbers.astype(np.float32))


@pytest.mark.parametrize("signed", [0, 1])
def test_unused_bits_are_ignored(tmp_path, signed):
    """Older files store an overlay there."""
    numbers = voxels() % 2048
    datasets = make(numbers + np.int16(-(2**15)))
    for dataset in datasets:
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation, dataset.RescaleIntercept = 12, 11, signed, 0
    np.testing.assert_array_equal(read_dicom(save(tmp_path, datasets)).array, numbers)


@pytest.mark.parametrize("signed", [False, True])
def test_monochrome1_is_inverted_as_in_simpleitk(tmp_path, signed):
    numbers = voxels().astype("i2" if signed else "u2")
    datasets = make(numbers)
    for dataset in datasets:
        dataset.PhotometricInterpretation = "MONOCHROME1"
    folder = save(tmp_path, datasets)
    top = -1 if signed else 65535
    np.testing.assert_array_equal(read_dicom(folder).array, (top - numbers.astype(float) - 1024).astype(np.float32))
    assert "stored inverted (MONOCHROME1)" in read_stack(folder).notes[0]
    if not signed:
        np.testing.assert_array_equal(read_dicom(folder).array, by_simpleitk(folder)[0])


@pytest.mark.parametrize(("value", "vr"), [(-2000, "SS"), (63536, "US")])
def test_padding_gets_the_smallest_value_inside(tmp_path, value, vr):
    """63536 is -2000 in the wrong type, as some scanners write it."""
    numbers = voxels()
    numbers[0] = -2000
    datasets = make(numbers)
    for dataset in datasets:
        dataset.add_new("PixelPaddingValue", vr, value)
    volume = read_dicom(save(tmp_path, datasets))
    assert (volume.array[0] == voxels()[1:].min() - 1024).all()
    np.testing.assert_array_equal(volume.array[1:], voxels()[1:] - 1024.0)
    assert "padding" in read_stack(tmp_path).notes[0]


def test_padding_of_ambiguous_type(tmp_path):
    """With implicit VR, the sign is ambiguous."""
    numbers = voxels()
    numbers[0] = -2000
    datasets = make(numbers)
    for n, dataset in enumerate(datasets):
        dataset.add_new("PixelPaddingValue", "SS", -2000)
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        pydicom.dcmwrite(tmp_path / f"{n}", dataset, implicit_vr=True, little_endian=True, enforce_file_format=True)
    assert (read_dicom(tmp_path).array[0] == voxels()[1:].min() - 1024).all()


def test_a_range_of_padding(tmp_path):
    numbers = voxels()
    numbers[0], numbers[1] = -2000, -1990
    datasets = make(numbers)
    for dataset in datasets:
        dataset.add_new("PixelPaddingValue", "SS", -2000)
        dataset.add_new("PixelPaddingRangeLimit", "SS", -1990)
    assert (read_dicom(save(tmp_path, datasets)).array[:2] == voxels()[2:].min() - 1024).all()


def test_padding_in_all_voxels_is_refused(tmp_path):
    datasets = make(np.full((4, 4, 2), -2000, np.int16))
    for dataset in datasets:
        dataset.add_new("PixelPaddingValue", "SS", -2000)
    with pytest.raises(InputError, match="all voxels are padding"):
        read_dicom(save(tmp_path, datasets))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_native_syntaxes(tmp_path, syntax):
    datasets = make()
    for dataset in datasets:
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = voxels()[..., dataset.InstanceNumber - 1].T.astype(">i2").tobytes()
            dataset["PixelData"].VR = "OW"
    for n, dataset in enumerate(datasets):
        big = syntax == ExplicitVRBigEndian
        pydicom.dcmwrite(
            tmp_path / f"{n}.dcm", dataset, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=not big,
            enforce_file_format=True,
        )  # fmt: skip
    np.testing.assert_array_equal(read_dicom(tmp_path).array, voxels() - 1024.0)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_syntaxes(tmp_path, syntax):
    datasets = make(voxels(shape=(64, 72, 3)).astype(np.uint16))
    for dataset in datasets:
        dataset.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(
        read_dicom(save(tmp_path, datasets)).array, voxels(shape=(64, 72, 3)).astype(np.float32) - 1024
    )


@pytest.mark.parametrize("is_lossy", [False, True])
def test_jpeg(tmp_path, is_lossy):
    """Written by GDCM: lossless files are restored, lossy ones agree with SimpleITK."""
    kinds = gdcm.TransferSyntax
    syntax = kinds.JPEGBaselineProcess1 if is_lossy else kinds.JPEGLosslessProcess14_1
    smooth = np.add.outer(np.add.outer(np.arange(32), np.arange(24)), np.arange(3)).astype("u1" if is_lossy else "u2")
    folder = save(tmp_path / "plain", make(smooth))
    (tmp_path / "jpeg").mkdir()
    for path in sorted(folder.iterdir()):
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(tmp_path / "jpeg" / path.name))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    found = read_dicom(tmp_path / "jpeg").array
    np.testing.assert_allclose(found, smooth - 1024.0, atol=4 if is_lossy else 0)
    np.testing.assert_allclose(found, by_simpleitk(tmp_path / "jpeg")[0], atol=1 if is_lossy else 0)


@pytest.mark.parametrize(
    "name",
    ["CT_small", "MR_small", "MR_small_RLE", "MR_small_implicit", "MR_small_bigendian", "MR_small_expb",
     "MR_small_padded", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "J2K_pixelrep_mismatch"],
)  # fmt: skip
def test_files_of_pydicom(name):
    path = SHIPPED / f"{name}.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on its own odd files
        dataset = pydicom.dcmread(path)
        expected = dataset.pixel_array * float(dataset.get("RescaleSlope", 1)) + float(
            dataset.get("RescaleIntercept", 0)
        )
    volume = read_dicom(path)
    np.testing.assert_array_equal(volume.array[..., 0].T, expected.astype(np.float32))
    assert volume.geometry.spacing_mm[0] == pytest.approx(float(dataset.PixelSpacing[1]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("JPEG2000", "ImagePositionPatient is missing"),
        ("JPEG-lossy", "ImagePositionPatient is missing"),
        ("liver_1frame", "expected a series of DICOM images, found none"),
        ("rtdose", "expected a series of DICOM images, found none"),
        ("SC_rgb_rle", "expected greyscale pixels, got RGB"),
        ("examples_palette", "got PALETTE COLOR"),
        ("MR_truncated", "cut off: expected 8192 bytes of pixels, found 8130"),
        ("no_meta", "expected a DICOM file"),
        ("meta_missing_tsyntax", "file meta information is damaged"),
    ],
)
def test_files_of_pydicom_that_are_not_scans(name, message):
    with pytest.raises(InputError, match=message):
        read_dicom(SHIPPED / f"{name}.dcm")


@pytest.mark.parametrize("order", [None, [3, 0, 7, 1, 2, 6, 5, 4]])
def test_enhanced_multi_frame(tmp_path, order):
    volume = read_dicom(write(tmp_path / "a", make_enhanced(order=order)))
    np.testing.assert_array_equal(volume.array, voxels() - 1024.0)
    np.testing.assert_allclose(volume.geometry.affine, affine_of(), atol=1e-6)


def test_compressed_enhanced_multi_frame(tmp_path):
    dataset = make_enhanced(order=[3, 0, 7, 1, 2, 6, 5, 4])
    dataset.compress(RLELossless, generate_instance_uid=False)
    np.testing.assert_array_equal(read_dicom(write(tmp_path / "a", dataset)).array, voxels() - 1024.0)


def test_a_crash_of_a_codec_is_an_input_error(tmp_path, monkeypatch):
    datasets = make()
    for dataset in datasets:
        dataset.compress(RLELossless, generate_instance_uid=False)
    save(tmp_path, datasets)
    crash = tmp_path.parent / "crash.py"
    crash.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    wrapper = tmp_path.parent / "python"
    wrapper.write_text(f"#!/bin/sh\nexec {sys.executable} {crash}\n")
    wrapper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(wrapper))
    with pytest.raises(InputError, match=r"000\.dcm: the compressed pixels cannot .* exited with code -11\)"):
        read_dicom(tmp_path)


@pytest.mark.parametrize(
    ("fault", "code"), [(MemoryError(), 6), (ValueError("CANARYNAME"), 3), (None, 5)], ids=["memory", "damage", "none"]
)
def test_exit_codes_of_the_decoder_process(tmp_path, monkeypatch, fault, code):
    class Decoder:
        def as_array(self, *_, **options):
            raise fault

    monkeypatch.setattr(dicom_decoder, "_decoder", lambda file: Decoder() if fault else None)
    monkeypatch.setattr(dicom_decoder, "_limit", lambda frame_bytes: None)
    (dataset,) = make(voxels((12, 10, 1)))
    dataset.compress(RLELossless, generate_instance_uid=False)
    out = BytesIO()
    assert dicom_decoder.decode_here([{"path": str(write(tmp_path / "a", dataset)), "index": 0}], out) == code
    assert out.getvalue() == b""


def test_the_decoder_process_ends_with_its_reader(tmp_path):
    datasets = make()
    for dataset in datasets:
        dataset.compress(RLELossless, generate_instance_uid=False)
    frames = dicom_decoder.decode(read_stack(save(tmp_path, datasets)).frames)
    next(frames)
    (child,) = [process for process in Path("/proc").glob("[0-9]*") if _is_decoder(process)]
    frames.close()
    assert not child.exists()


def _is_decoder(process):
    try:
        line = (process / "cmdline").read_bytes()
        parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return False  # it has ended meanwhile
    return b"masam.io.dicom.decoder" in line and parent == os.getpid()


def test_a_codestream_of_another_size_is_refused(tmp_path):
    datasets = make(voxels(shape=(64, 72, 2)).astype(np.uint16))
    for dataset in datasets:
        dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
        dataset.Rows, dataset.Columns = 30, 30
    with pytest.raises(InputError, match=r"cannot be decoded \(damaged data\)"):
        read_dicom(save(tmp_path, datasets))


def test_a_transfer_syntax_without_a_decoder(tmp_path):
    datasets = make()
    for dataset in datasets:
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.106"
    with pytest.raises(ResourceError, match=r"no decoder is installed for transfer syntax 1\.2\.840.*masam\[dicom\]"):
        read_dicom(save(tmp_path, datasets))


def test_a_missing_package_is_named_with_the_command(tmp_path, monkeypatch):
    folder = save(tmp_path, make())
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(
        ResourceError, match=r"DICOM requires pydicom, which is not installed .*; pip install 'masam\[dicom\]'"
    ):
        read_dicom(folder)


def test_values_beyond_float32_are_refused(tmp_path):
    datasets = make()
    datasets[3].RescaleSlope = "1e38"
    with pytest.raises(InputError, match=r"003\.dcm: rescaled values are too large for float32"):
        read_dicom(save(tmp_path, datasets))


def test_pydicom_log_is_as_before(tmp_path):
    level = logging.getLogger("pydicom").level
    read_dicom(save(tmp_path, make()))
    assert logging.getLogger("pydicom").level == level


def test_pixels_may_be_longer_by_padding_alone(tmp_path):
    datasets = make(voxels(shape=(3, 3, 2)).astype(np.uint8))
    np.testing.assert_array_equal(
        read_dicom(save(tmp_path, datasets)).array, voxels(shape=(3, 3, 2)).astype(np.uint8) - 1024.0
    )
    add_pixels(datasets[0], np.zeros((3, 3), np.uint8))
    datasets[0].PixelData += bytes(30)
    with pytest.raises(InputError, match="the header declares 3 x 3 x 1 pixels"):
        read_dicom(save(tmp_path, datasets))

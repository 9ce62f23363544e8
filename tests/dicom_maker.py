"""Synthetic DICOM series for tests: a known array, any geometry, and patient data that must not be printed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CANARIES = ("CANARYNAME", "CANARYID", "CANARYDOCTOR", "CANARYTEXT", "19010203")
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"


def voxels(shape=(12, 10, 8), seed=0):
    """Stored values [columns, rows, slices]."""
    return np.random.default_rng(seed).integers(0, 3000, shape).astype(np.int16)


def blank(sop_class=CT, uid=None):
    """A data set with patient and study, without an image."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = sop_class
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "CANARYNAME^A", "CANARYID", "19010203"
    dataset.ReferringPhysicianName, dataset.StudyDescription = "CANARYDOCTOR", "CANARYTEXT"
    dataset.SeriesDescription = "CANARYTEXT of CANARYNAME"
    dataset.PatientSex = dataset.AccessionNumber = dataset.StudyID = ""
    dataset.StudyDate, dataset.StudyTime = "20200101", "101010"
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = uid or generate_uid()
    dataset.Modality, dataset.SeriesNumber = "CT", 3
    return dataset


def add_pixels(dataset, array):
    """Store values [rows, columns] or [frames, rows, columns] in a data set."""
    dataset.Rows, dataset.Columns = array.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = array.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    dataset.add_new(0x7FE00010, "OW", data + bytes(len(data) % 2))


def make(
    array=None,
    *,
    orientation=AXIAL,
    origin=(-30.0, -40.0, 50.0),
    spacing=(0.8, 0.7, 2.0),
    number=3,
    series=None,
    zero=-1024,
):
    """Return one data set per slice; ``spacing`` is that of columns, rows and slices."""
    array = voxels() if array is None else array
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(row, column)
    study, frame, series = generate_uid(), generate_uid(), series or generate_uid()
    made = []
    for k in range(array.shape[2]):
        dataset = blank()
        dataset.StudyInstanceUID, dataset.FrameOfReferenceUID, dataset.SeriesInstanceUID = study, frame, series
        dataset.SeriesNumber, dataset.InstanceNumber = number, k + 1
        dataset.ImagePositionPatient = [round(float(x), 6) for x in origin + k * spacing[2] * normal]
        dataset.ImageOrientationPatient = [round(float(x), 9) for x in orientation]
        dataset.PixelSpacing = [spacing[1], spacing[0]]  # of rows first
        dataset.SliceThickness = spacing[2]
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, zero
        add_pixels(dataset, array[..., k].T)
        made.append(dataset)
    return made


def make_enhanced(array=None, spacing=(0.8, 0.7, 2.0), origin=(-30.0, -40.0, 50.0), order=None):
    """Return an Enhanced CT with its frames in the given order."""
    array = voxels() if array is None else array
    order = list(range(array.shape[2])) if order is None else order
    dataset = blank(ENHANCED_CT)
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID, dataset.SeriesInstanceUID = (generate_uid() for _ in "abc")
    dataset.NumberOfFrames = array.shape[2]
    measures, plane, value = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [spacing[1], spacing[0]], spacing[2]
    plane.ImageOrientationPatient = list(AXIAL)
    value.RescaleSlope, value.RescaleIntercept, value.RescaleType = 1, -1024, "HU"
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([plane])
    shared.PixelValueTransformationSequence = Sequence([value])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for k in order:
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = [origin[0], origin[1], origin[2] + k * spacing[2]]
        group.PlanePositionSequence = Sequence([position])
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    add_pixels(dataset, array.transpose(2, 1, 0)[order])
    return dataset


def save(folder: Path, datasets, name: Callable[[int], str] = "{:03d}.dcm".format) -> Path:
    """Write data sets into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, dataset in enumerate(datasets):
        write(folder / name(n), dataset)
    return folder


def write(path: Path, dataset) -> Path:
    """Write one data set, even if pydicom considers it invalid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(path, enforce_file_format=True)
    return path


def affine_of(orientation=AXIAL, origin=(-30.0, -40.0, 50.0), spacing=(0.8, 0.7, 2.0)):
    """The RAS affine of the series that ``make`` returns."""
    affine = np.eye(4)
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    for axis, direction in enumerate((row, column, np.cross(row, column))):
        affine[:3, axis] = direction * spacing[axis]
    affine[:3, 3] = origin
    return np.diag([-1, -1, 1, 1]) @ affine

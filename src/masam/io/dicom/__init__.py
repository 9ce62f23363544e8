"""DICOM series in, DICOM SEG objects in and out."""

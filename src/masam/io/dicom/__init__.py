"""Read DICOM series, and read and write DICOM SEG objects."""

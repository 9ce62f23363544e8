"""NIfTI files: header, transforms, voxels."""

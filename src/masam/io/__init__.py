"""Read and write image, label and video files.

All functions that read files raise InputError if the content is not valid, and ResourceError if a file cannot be read,
a package is not installed, or memory is not sufficient; their docstrings list further reasons.
"""

"""A trained model for others' software: PyTorch programs, ONNX, MONAI bundles, and one file that stands alone.

Every export is run in its own runtime and compared with the model before it comes to its place.
"""

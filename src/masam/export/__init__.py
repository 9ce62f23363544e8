"""Export of trained models: PyTorch programs, ONNX, MONAI bundles, and self-contained masam files.

Each export is run in its target runtime and compared with the model before it is moved to its final path.
"""

"""Letters of tensor axes in the code, and tensor types that use them.

======  ==========================================================
letter  axis
======  ==========================================================
B       windows in a batch
S       slices (or frames) in a window
N       slices of all windows in a batch, B * S
C       channels of an image
H W     rows and columns, of pixels or (h w) of patch tokens
K       classes, background first
E       embedding width of the image encoder
D       channels of the image embedding; width of the mask decoder
R       rank of the FacT increments
P       prompt points on a slice
T       prompt or output tokens of the mask decoder
======  ==========================================================

Tests check the types at run time (jaxtyping with beartype).
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

Windows = Float[Tensor, "B S C H W"]
"""Model input, in the intensity range of the training data; 0 to 1 for MA-SAM."""
WindowLogits = Float[Tensor, "B S K H W"]
Images = Float[Tensor, "N C H W"]
Tokens = Float[Tensor, "N h w E"]
Embeddings = Float[Tensor, "N D h w"]
Boxes = Float[Tensor, "N 4"]
"""(x0, y0, x1, y1) in pixels of the model input."""
Points = Float[Tensor, "N P 2"]
"""(x, y) in pixels of the model input."""
PointLabels = Int[Tensor, "N P"]
"""1 on the object, 0 outside, -1 padding."""
MaskPrompts = Float[Tensor, "N 1 mh mw"]
"""Logits of a mask, at four times the resolution of the embedding."""
LabelMaps = Int[Tensor, "N H W"]
"""Class index per pixel; ``loss.IGNORE_INDEX`` for unlabelled pixels."""

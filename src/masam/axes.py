"""The letters that name tensor axes throughout the code, and the tensor types built of them.

======  ==========================================================
letter  axis
======  ==========================================================
B       windows in a batch
S       slices (or frames) in a window
N       slices of all windows of a batch, window by window: B * S
C       channels of an image
H W     rows and columns, of pixels or (h w) of patch tokens
K       classes, background first
E       embedding width of the image encoder
D       channels of the image embedding, and width of the mask decoder
R       rank of the FacT increments
P       prompt points of a slice
T       prompt or output tokens of the mask decoder
======  ==========================================================

The aliases are checked at run time in the tests (jaxtyping with beartype) and cost nothing otherwise.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

Windows = Float[Tensor, "B S C H W"]
"""Model input: pixel values in the range the model was trained on, 0 to 1 for MA-SAM."""
WindowLogits = Float[Tensor, "B S K H W"]
Images = Float[Tensor, "N C H W"]
Tokens = Float[Tensor, "N h w E"]
Embeddings = Float[Tensor, "N D h w"]
Boxes = Float[Tensor, "N 4"]
"""(x0, y0, x1, y1) in pixels of the model's input."""
Points = Float[Tensor, "N P 2"]
"""(x, y) in pixels of the model's input."""
PointLabels = Int[Tensor, "N P"]
"""1 on the object, 0 off it, -1 padding."""
MaskPrompts = Float[Tensor, "N 1 mh mw"]
"""Logits of an earlier mask at four times the embedding's size."""
LabelMaps = Int[Tensor, "N H W"]
"""Class index a pixel; ``loss.IGNORE_INDEX`` where no class is known."""

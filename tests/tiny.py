"""Models and a data set that are small enough for tests: everything they share, in one place."""

import json
import os
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import config

from masam.io.nifti.file import write_volume
from masam.model.masam import Masam
from masam.model.sizes import SamSize
from masam.model.spec import MasamSpec
from masam.preprocess.cache import PreparedCase
from masam.volume import Geometry, Volume

# Tiny tensors gain nothing from threads, and lose much on a busy machine.
torch.set_num_threads(1)

SAM = SamSize(
    "custom", 16, 2, 2, (1,), 3, 24, out_channels=32, decoder_heads=2, decoder_mlp_dim=24, iou_hidden_dim=20,
    mask_channels=8, base_image_size=64,
)  # fmt: skip
"""Two blocks, the first with windows of 3 patches and the second global."""

TINY = replace(SAM, name="vit_t")
"""The same under a name that settings know."""

SPEC = MasamSpec(SAM, num_classes=2, image_size=32, window=3, fact_rank=3, adapter_channels=6)

VARIED = replace(
    SPEC, increments="lora", fact_blocks=(1,), adapter_places="mlp", adapter_depth_kernel=5, adapter_dilation=2,
    decoder="sam", class_groups=((0, 2), (1,)),
)  # fmt: skip
"""The same with every choice another than the paper's."""

LABELS = {"background": 0, "ball": 1, "box": 4}


class Bomb:
    """A pickle that makes a folder when it is loaded by code that runs it."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (os.mkdir, (str(self.canary),))


def randomise(module, seed=0, scale=0.2):
    """Fill every parameter with random numbers: tables that start at zero would hide an error in their use."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module


def random_model(spec=SPEC, seed=0, scale=0.2):
    torch.manual_seed(seed)
    return randomise(Masam(spec).eval(), seed, scale)


def random_windows(b=2, s=3, side=32, seed=1, dtype=torch.float32):
    return torch.rand(b, s, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@contextmanager
def without_type_checks():
    """Switch off the checks of conftest.py, as it is for users.

    To them, the symbolic sizes of a trace are faults, and an error that a signal raises while they check is theirs.
    """
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)


def write_dataset(root, cases=3, shape=(32, 32, 6), labels=None):
    """Write an nnU-Net v2 folder of noisy balls and boxes."""
    labels = labels or LABELS
    for number in range(cases):
        generator = np.random.default_rng(number)
        i, j, k = np.indices(shape)
        centre = generator.uniform(10, 20, size=2)
        classes = np.zeros(shape, np.int16)
        classes[(i - centre[0]) ** 2 + (j - centre[1]) ** 2 + 4 * (k - 3) ** 2 < 60] = 1
        classes[20:28, 4:10, 1:5] = 4
        image = (classes * 40.0 + generator.normal(0, 5, shape)).astype(np.float32)
        geometry = Geometry(np.diag([1.0, 1.0, 3.0, 1.0]))
        write_volume(root / f"imagesTr/case{number}_0000.nii.gz", Volume(image, geometry))
        write_volume(root / f"labelsTr/case{number}.nii.gz", Volume(classes, geometry))
    facts = {"name": "tiny", "channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


def prepared_case(root, name="a", depth=5, side=32, seed=0):
    """Write a cached training case: bright discs of class 1 on noise, one column without labels."""
    generator = np.random.default_rng(seed)
    i, j = np.indices((side, side))
    labels = np.stack([((i - side / 2) ** 2 + (j - side / 2) ** 2 < (4 + k) ** 2) for k in range(depth)]).astype(
        np.int8
    )
    images = np.clip(labels * 0.6 + generator.random(labels.shape) * 0.3, 0, 1)
    labels[:, :, 0] = -100
    folder = root / f"prepared-{name}"
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", np.rint(images[:, None] * 65535).astype(np.uint16))
    np.save(folder / "labels.npy", labels)
    return PreparedCase(name, folder, depth, side)

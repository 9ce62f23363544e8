"""Small models and tensors to write, and comparisons of the files that are read back."""

import hashlib

import torch
from tiny import LABELS, SAM, randomise

from masam.model.sam import Sam
from masam.preprocess.intensity import Window
from masam.preprocess.plan import Plan
from masam.weights.model_file import build_masam
from masam.weights.sam_names import to_official as rename

PLAN = Plan(
    name="tiny", modality="CT", slice_axis="axial", intensity=Window(low=-100, high=200), window=3, image_size=32,
    labels=LABELS,
)  # fmt: skip


def build(sam_checkpoint=None, seed=0):
    torch.manual_seed(seed)
    return build_masam(
        "vit_t", num_classes=2, image_size=32, window=3, fact_rank=3, adapter_channels=6, sam_checkpoint=sam_checkpoint
    )


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same_state(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def shake(model):
    """Change the trained parameters."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) * 0.1
    return model


TENSORS = {
    "weight": torch.tensor([[1.5, -2.0], [0.0, 3.25]]),
    "count": torch.tensor(7),
    "half": torch.tensor([0.5, 1.0], dtype=torch.bfloat16),
    "mask": torch.tensor([True, False]),
    "none": torch.zeros(0, 3),
}


def same(got, expected):
    return set(got) == set(expected) and all(
        torch.equal(got[n], expected[n]) and got[n].dtype == expected[n].dtype for n in got
    )


HEADS = SAM.decoder_heads


def sam_state(size=SAM, seed=3):
    return randomise(Sam(size, size.base_image_size), seed).state_dict()


def to_official(model):
    """Return the trained tensors of a model in the format of an official epoch_N.pth (paper.md 4.1)."""
    trained = model.trained_names()
    return rename({n: t for n, t in model.state_dict().items() if n in trained}, model.spec.sam.depth)

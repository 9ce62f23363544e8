"""Codes of SNOMED CT for classes, by their names: what another program knows a segment by."""

from __future__ import annotations

import re

Code = tuple[str, str]
"""Value and meaning in SNOMED CT."""

_TISSUE: Code = ("85756007", "Tissue")
_ANATOMY: Code = ("91723000", "Anatomical Structure")
_ABNORMAL: Code = ("49755003", "Morphologically Abnormal Structure")

_ORGANS: dict[str, Code] = {
    "adrenal gland": ("23451007", "Adrenal gland"), "aorta": ("15825003", "Aorta"), "bladder": ("89837001", "Bladder"),
    "brain": ("12738006", "Brain"), "colon": ("71854001", "Colon"), "duodenum": ("38848004", "Duodenum"),
    "esophagus": ("32849002", "Esophagus"), "gallbladder": ("28231008", "Gallbladder"), "heart": ("80891009", "Heart"),
    "kidney": ("64033007", "Kidney"), "liver": ("10200004", "Liver"), "lung": ("39607008", "Lung"),
    "pancreas": ("15776009", "Pancreas"), "portal vein": ("32764006", "Portal vein"),
    "prostate": ("41216001", "Prostate"), "rectum": ("34402009", "Rectum"), "spleen": ("78961009", "Spleen"),
    "splenic vein": ("35819009", "Splenic vein"), "stomach": ("69695003", "Stomach"), "uterus": ("35039007", "Uterus"),
    "vena cava": ("64131007", "Inferior vena cava"),
}  # fmt: skip
_LESIONS: dict[str, Code] = {
    "cancer": ("108369006", "Neoplasm"), "lesion": ("52988006", "Lesion"), "tumor": ("108369006", "Neoplasm"),
}  # fmt: skip
_SPELLINGS = {
    "adrenal": "adrenal gland", "gall bladder": "gallbladder", "inferior vena cava": "vena cava", "ivc": "vena cava",
    "oesophagus": "esophagus", "postcava": "vena cava", "tumour": "tumor", "urinary bladder": "bladder",
}  # fmt: skip


def property_codes(name: str) -> tuple[Code, Code]:
    """Return category and type of a class.

    The side of a paired organ is left to the class's name: SNOMED CT's codes of organs have none.

    Args:
        name: Such as ``left kidney`` or ``Right_Adrenal_Gland``; any other name is tissue.
    """
    words = re.sub(r"[^a-z]+", " ", name.casefold()).split()
    plain = " ".join(word for word in words if word not in ("left", "right", "l", "r"))
    plain = _SPELLINGS.get(plain, plain)
    if plain.removesuffix("s") in _ORGANS:  # kidneys
        plain = plain.removesuffix("s")
    if plain in _ORGANS:
        return _ANATOMY, _ORGANS[plain]
    for word in words:
        if (lesion := _LESIONS.get(_SPELLINGS.get(word, word))) is not None:
            return _ABNORMAL, lesion
    return _TISSUE, _TISSUE

import pytest

from masam.weights.sam_names import fold_names, kind_of


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        ([], []),
        (["a.weight"], ["a.weight"]),
        (["blocks.3.norm1.weight"], ["blocks.3.norm1.weight"]),
        ([f"blocks.{i}.norm1.weight" for i in (11, 0, 1, 2, 7)], ["blocks.{0-2, 7, 11}.norm1.weight"]),
        (["q_FacTs_000", "q_FacTs_001", "v_FacTs_000"], ["q_FacTs_{0-1}", "v_FacTs_000"]),
        (["up.4.weight", "up.4.bias", "up.7.weight"], ["up.4.bias", "up.{4, 7}.weight"]),
        (
            ["m.0.layers.1.bias", "m.1.layers.1.bias", "m.1.layers.2.bias"],
            ["m.{0-1}.layers.1.bias", "m.1.layers.2.bias"],
        ),
    ],
)
def test_names_that_differ_in_a_number_are_merged(names, folded):
    assert fold_names(names) == folded


def test_each_kind_is_identified_by_one_name():
    assert kind_of(["image_encoder.pos_embed", "x"]) == "sam"
    assert kind_of(["vision_encoder.pos_embed"]) == "sam-hugging-face"
    assert kind_of(["image_encoder.FacTu.weight"]) == "ma-sam-adapter"
    assert kind_of(["image_encoder.fact.u"]) is None
    assert kind_of([]) is None

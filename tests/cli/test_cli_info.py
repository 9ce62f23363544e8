"""``masam info``: the model sizes and the memory that training them is predicted to take."""

from functools import cache

from tiny import TINY

from masam.model.spec import MasamSpec
from masam.training.memory import predict_memory


def test_info_predicts_the_memory_of_training(masam, monkeypatch):
    monkeypatch.setattr("masam.model.sizes.SIZES", {"vit_t": TINY})
    monkeypatch.setattr("masam.training.memory.predict_memory", cache(predict_memory))
    record = masam("info", "--image-size", 64, "--num-classes", 3, "--json").json["vit_t"]
    spec = MasamSpec(TINY, 3, 64)
    full, less = predict_memory(spec, 1), predict_memory(spec, 1, checkpointing=True)
    assert record["cpu_process_gb"] == full.peak_bytes / 1e9
    assert record["cpu_process_checkpointing_gb"] == less.peak_bytes / 1e9
    assert record["tensors_gb"] == (full.tensor_bytes + full.optimizer_bytes) / 1e9
    assert record["total"] > record["trainable"] > 0
    printed = masam("info", "--image-size", 64, "--num-classes", 3).out
    assert "float32, one window of 64 pixels" in printed
    assert f"{record['cpu_process_gb']:.1f}" in printed


def test_info_without_an_image_size_predicts_nothing(masam):
    assert "tensors_gb" not in masam("info", "--json").json["vit_t"]

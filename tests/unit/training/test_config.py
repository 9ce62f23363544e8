from training_runs import PLAN

from masam.preprocess.plan import Suggestion
from masam.training.config import TrainConfig, flatten, resolve_config, suggested_settings

SUGGESTION = Suggestion(
    size="vit_b", batch_windows=24, micro_batch_windows=4, checkpointing=True, memory_gb=8.0, predicted_peak_gb=7.0,
    how="computed",
)  # fmt: skip
PLAN_WITH_SUGGESTION = PLAN.model_copy(update={"suggestion": SUGGESTION})


def resolve(config, plan=PLAN_WITH_SUGGESTION):
    return resolve_config(TrainConfig(), config, suggested_settings(config, plan))


def test_nested_settings_become_one_level():
    assert flatten({"epochs": 3, "model": {"size": "vit_b", "fact_rank": 4}}) == {
        "epochs": 3, "model.size": "vit_b", "model.fact_rank": 4
    }  # fmt: skip


def test_a_suggestion_replaces_defaults_but_no_given_keys():
    expected = {"model": {"size": "vit_b"}, "micro_batch_windows": 4, "checkpointing": True}
    assert resolve(None) == TrainConfig.from_mapping(expected, where="test")
    for model in ({"model": {"fact_rank": 4}}, {"model.fact_rank": 4}):
        resolved = resolve({**model, "micro_batch_windows": 2})
        assert (resolved.model.size, resolved.model.fact_rank) == ("vit_b", 4)
        assert (resolved.micro_batch_windows, resolved.checkpointing) == (2, True)


def test_given_weights_determine_the_size():
    for key in ("sam_checkpoint", "init"):
        resolved = resolve({"model": {key: "weights.pth"}})
        assert (resolved.model.size, resolved.micro_batch_windows) == ("auto", 4)


def test_a_complete_configuration_is_not_changed():
    config = TrainConfig(epochs=3)
    assert resolve(config) is config
    assert resolve({"epochs": 3}, PLAN) == config

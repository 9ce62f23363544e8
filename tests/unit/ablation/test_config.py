import pytest

from masam.ablation.config import AblationConfig, folder_name, split_changes
from masam.errors import ConfigError

LEAST = {"dataset": "data", "rows": {"all": {}, "no dropout": {"model.fact_dropout": 0.0}}}


def parse(**changes):
    return AblationConfig.from_mapping({**LEAST, **changes}, where="ablation.yaml")


def test_defaults():
    table = parse()
    assert (table.config, table.plan, table.settings, table.seeds, table.folds) == (None, None, {}, (1, 2, 3), None)
    assert table.first == "all"
    assert list(table.rows) == ["all", "no dropout"]
    assert parse(baseline="no dropout").first == "no dropout"


def test_it_is_the_same_after_a_file(tmp_path):
    table = parse(seeds=[3, 1], folds=[0, 2], settings={"plan.intensity": {"kind": "percentiles"}, "epochs": 3})
    table.to_yaml(tmp_path / "ablation.yaml")
    read = AblationConfig.from_yaml(tmp_path / "ablation.yaml")
    assert read == table
    assert list(read.rows) == list(table.rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row": {}}, r"^ablation.yaml: row: unknown key; did you mean 'rows'\?$"),
        ({"rows": {}}, "rows: .* at least 1"),
        ({"rows": {"a": None}}, r"^ablation.yaml: rows.a: expected an object, got None$"),
        ({"seeds": []}, "seeds: .* at least 1"),
        ({"seeds": [1, 1]}, r"seeds: expected different numbers, 0 or more, got \[1, 1\]"),
        ({"folds": [-1]}, r"folds: expected different numbers, 0 or more, got \[-1\]"),
        ({"baseline": "al"}, "baseline: expected one of all, no dropout, got 'al'"),
        ({"rows": {"a b": {}, "a-b": {}}}, "the names 'a b' and 'a-b' would share the folder 'a-b'"),
        ({"rows": {"a": {}, "A": {}}}, "the names 'a' and 'A' would share the folder 'A'"),
        ({"rows": {"..": {}}}, r"expected a name with a letter or a digit, got '\.\.'"),
        ({"rows": {"a\nb": {}}}, r"expected a name with a letter or a digit, got 'a\\nb'"),
        ({"rows": {"a": {"seed": 1}}}, "rows: expected no key seed in row 'a', as rows share seeds and cases"),
        ({"rows": {"a": {"fold": 1}}}, "expected no key fold in row 'a'"),
        ({"rows": {"a": {"folds": 3}}}, "expected no key folds in row 'a'"),
        ({"settings": {"seed": 1}}, "settings: expected no key seed here, which the table varies by seeds"),
        (
            {"settings": {"fold": 1}, "folds": [0, 1]},
            "settings: expected no key fold here, which the table varies",
        ),
        ({"reference_empty": "1"}, "reference_empty: expected 'nan' or 'one', got '1'"),
        ({"stride": 0}, "stride: .* got 0"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        parse(**changes)


def test_settings_may_choose_the_fold_where_no_folds_are_named():
    assert parse(settings={"fold": 2, "folds": 3}).settings == {"fold": 2, "folds": 3}


def test_folder_names():
    assert folder_name("both positions (r = 4)") == "both-positions-r-4"
    assert folder_name("Größe_2") == "Größe_2"
    assert folder_name("../up") == "up"


def test_changes_are_split_into_configuration_and_plan():
    changes = {"epochs": 2, "plan.window": 3, "model.size": "vit_t", "plan.intensity.low": 1}
    assert split_changes(changes) == ({"epochs": 2, "model.size": "vit_t"}, {"window": 3, "intensity.low": 1})

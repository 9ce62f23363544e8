"""``masam make``: its data sets, defaults and error messages."""

import typing
from pathlib import Path

from masam.cli.make import make
from masam.synthetic.sets import SYNTHETIC_SETS

PAGE = Path(__file__).parents[2] / "docs/how-to/synthetic-data-sets.md"


def test_the_command_and_the_page_list_every_set_with_its_defaults():
    choices = typing.get_args(typing.get_type_hints(make)["name"])
    assert set(choices) == set(SYNTHETIC_SETS)
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    assert {cells[0].strip("`") for cells in lines} == set(SYNTHETIC_SETS)
    for cells in lines:
        one = SYNTHETIC_SETS[cells[0].strip("`")]
        found = [int(word.strip(",")) for word in cells[-1].split() if word.strip(",").isdecimal()]
        assert found == [one.train, one.test], cells[0]


def test_data_sets_of_one_folder_and_of_six(masam, tmp_path):
    done = masam("make", "nerves", tmp_path / "nerves", "--train", 2, "--test", 0, "--seed", 4)
    assert (done.code, done.out) == (0, f"{tmp_path / 'nerves'}: 2 training and 0 test cases\n")
    sites = masam("make", "sites", tmp_path / "sites", "--train", 1, "--test", 0, "--json")
    roots = [str(tmp_path / "sites" / site) for site in "ABCDEF"]
    assert sites.json == [{"root": root, "training": 1, "held_out": 0, "seed": 0} for root in roots]
    assert all((Path(root) / "labelsTr").is_dir() for root in roots)


def test_what_is_rejected(masam, tmp_path):
    assert "'bowel' is not one of 'phantom', 'tumour'" in masam("make", "bowel", tmp_path / "x").error
    none = masam("make", "tumour", tmp_path / "x", "--train", 0)
    assert none.code == 2
    assert "expected 1 training case or more and 0 test cases or more, got 0 and 16" in none.error
    negative = masam("make", "sites", tmp_path / "x", "--seed", -1)
    assert "expected a seed and an index of 0 or more, got -1 and 0" in negative.error
    assert not (tmp_path / "x").exists()
    masam("make", "nerves", tmp_path / "mine", "--train", 1, "--test", 0)
    foreign = masam("make", "tumour", tmp_path / "mine")
    assert foreign.code == 3
    assert "expected a new folder or one with this data set, found 2 other files" in foreign.error

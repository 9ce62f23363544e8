import numpy as np
import pytest
from downloads import SITE_NUMBERS, hashes, write_prostate

from masam.cases.folder import read_dataset
from masam.convert.conversion import convert
from masam.convert.prostate import SITES, survey_prostate
from masam.io.nifti.file import read_labels

TEST = {
    "RUNMC": ["0003", "0008", "0012", "0015", "0018", "0026"],
    "BMC": ["0003", "0008", "0012", "0015", "0018", "0026"],
    "I2CVB": ["0003", "0008", "0013", "0015"],
    "UCL": ["0001", "0032", "0034"],
    "BIDMC": ["0000", "0004", "0009"],
    "HK": ["0038", "0041", "0046"],
}
TRAINING = {"RUNMC": 24, "BMC": 24, "I2CVB": 15, "UCL": 10, "BIDMC": 9, "HK": 9}


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    return write_prostate(tmp_path_factory.mktemp("prostate") / "SAML")


def test_one_data_set_per_site(download, tmp_path):
    before = hashes(download)
    results = convert(survey_prostate(download, tmp_path / "prostate"), link=True)
    assert hashes(download) == before
    assert [one.root.name for one in results] == list(TEST)
    for result in results:
        site = result.root.name
        found = read_dataset(result.root)
        assert found.labels.to_mapping() == {"background": 0, "prostate": 1}
        assert [case.id for case in found.test] == [f"{site}_{number}" for number in TEST[site]]
        assert len(found.training) == TRAINING[site]
        assert found.name == f"Prostate-{site}"
        assert all(case.label for case in found.test)


@pytest.mark.parametrize(("site", "label"), [("BMC", "Case08_Segmentation"), ("HK", "Case41_segmentation")])
def test_every_value_above_0_is_prostate_in_either_spelling(download, tmp_path, site, label):
    conversions = [one for one in survey_prostate(download, tmp_path / "p") if one.root.name == site]
    convert(conversions, link=True)
    old = read_labels(download / site / f"{label}.nii.gz").array
    new = read_labels(tmp_path / "p" / site / f"labelsTs/{site}_00{label[4:6]}.nii.gz").array
    assert set(np.unique(old)) == {0, 1, 2, 5}
    np.testing.assert_array_equal(new, old > 0)


def test_one_data_set_of_all_sites(download, tmp_path):
    (one,) = survey_prostate(download, tmp_path / "p", "one")
    assert (len(one.training), len(one.test)) == (91, 25)
    assert {f"{site}_{number}" for site, numbers in TEST.items() for number in numbers} == set(one.test)
    assert (one.missing, one.surplus, one.root) == ((), (), tmp_path / "p")


def test_all_cases_held_out_for_the_model_of_another_site(download, tmp_path):
    conversions = survey_prostate(download, tmp_path / "p", held_out="all")
    assert [(len(one.training), len(one.test)) for one in conversions] == [(0, site.cases) for site in SITES]
    (result,) = convert([one for one in conversions if one.root.name == "UCL"], link=True)
    found = read_dataset(result.root)
    assert (len(found.training), len(found.test), bool(found.test[12].label)) == (0, 13, True)


def test_published_numbers():
    assert [site.letter for site in SITES] == list("ABCDEF")
    assert sum(site.cases for site in SITES) == 116
    for site in SITES:
        assert len(site.numbers) in (0, site.cases)
        assert site.cases - len(site.test) == TRAINING[site.name]
        assert [f"{number:04d}" for number in site.test] == TEST[site.name]


def test_what_is_missing_and_surplus_of_every_site(tmp_path):
    download = write_prostate(tmp_path / "SAML")
    (download / "RUNMC/Case00.nii.gz").unlink()
    (download / "RUNMC/Case00_segmentation.nii.gz").unlink()
    (download / "BMC/Case03_Segmentation.nii.gz").unlink()
    (download / "BIDMC/Case05.nii.gz").rename(download / "BIDMC/Case01.nii.gz")
    (download / "HK/Case37.nii.gz").rename(download / "HK/Case70.nii.gz")
    (download / "UCL/notes.nii.gz").touch()
    for path in (download / "HCRUDB").iterdir():
        path.unlink()
    (download / "HCRUDB").rmdir()
    conversions = {one.root.name: one for one in survey_prostate(download, tmp_path / "p")}
    assert conversions["RUNMC"].missing == ("1 of 30 cases in RUNMC",)
    assert conversions["BMC"].missing == ("BMC/Case03_segmentation.nii.gz",)
    assert conversions["BIDMC"].missing == ("BIDMC/Case05.nii.gz", "BIDMC/Case01_segmentation.nii.gz")
    assert conversions["BIDMC"].surplus == ("BIDMC/Case01.nii.gz",)
    assert conversions["HK"].missing == ("HK/Case37.nii.gz", "HK/Case70_segmentation.nii.gz")
    assert conversions["HK"].surplus == ("1 cases more than the 12 of HK",)
    assert conversions["UCL"].surplus == ("UCL/notes.nii.gz",)
    assert len(conversions["I2CVB"].missing) == 9
    assert conversions["I2CVB"].missing[-1] == "15 of 19 cases in I2CVB"
    made = [one.root.name for one in convert(list(conversions.values()), link=True, partial=True)]
    assert made == [name for name in SITE_NUMBERS if name != "HCRUDB"]

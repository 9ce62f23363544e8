import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from exported import PLAN, model_with_plan
from tiny import SPEC, VARIED, random_windows, write_dataset

from masam.errors import InputError, ModelError
from masam.export.bundle_parts import BundleNetwork, FolderSegmenter, build_network, build_predictor, find_scans
from masam.io.nifti.file import read_volume
from masam.predict.predictor import Predictor


def numbers(spec=SPEC):
    """As they come out of JSON."""
    return json.loads(json.dumps(asdict(spec)))


@pytest.fixture
def bundle(tmp_path):
    """Weights and plan of a model whose labels differ from voxel to voxel."""
    model = model_with_plan()
    torch.save(BundleNetwork(model).state_dict(), tmp_path / "model.pt")
    PLAN.to_yaml(tmp_path / "plan.yaml")
    return model, str(tmp_path / "model.pt"), str(tmp_path / "plan.yaml")


def test_the_network_has_channels_before_slices():
    model = model_with_plan()
    network = BundleNetwork(model)
    windows = random_windows()
    grey = windows[:, :, :1]
    with torch.no_grad():
        for given, seen in ((windows, windows), (grey, grey.expand(-1, -1, 3, -1, -1))):
            got = network(given.transpose(1, 2))
            assert got.shape == (2, 3, 3, 32, 32)
            assert torch.equal(got.transpose(1, 2), model(seen).logits)


def test_a_network_is_built_of_plain_numbers():
    network = build_network(**numbers(replace(SPEC, fact_rank=0)))
    assert network.masam.spec == replace(SPEC, fact_rank=0)
    assert build_network(**numbers(VARIED)).masam.spec == VARIED
    assert not network.training


def test_scans_are_segmented_as_by_a_predictor(bundle, tmp_path):
    model, weights, plan = bundle
    scans = find_scans(str(write_dataset(tmp_path / "data") / "imagesTr"))
    predictor = build_predictor(build_network(**numbers()), weights, plan, torch.device("cpu"), stride=2)
    assert (predictor.stride, predictor.plan) == (2, PLAN)
    cohort = FolderSegmenter(predictor, scans, str(tmp_path / "out")).run()
    assert set(cohort.done) == {"case0", "case1", "case2"}
    for case in scans:
        expected = Predictor(model, device="cpu", stride=2).predict(case.images[0])
        got = read_volume(tmp_path / "out" / f"{case.id}.nii.gz")
        assert len(np.unique(expected.array)) > 1
        np.testing.assert_array_equal(got.array, expected.array)


def test_weights_of_another_model_are_refused(bundle):
    _, weights, plan = bundle
    with pytest.raises(
        ModelError, match=r"model.pt: 4 tensors do not .*no part of the model has this name: masam.image_encoder.fact.s"
    ):
        build_predictor(build_network(**numbers(replace(SPEC, fact_rank=0))), weights, plan)


def test_a_folder_without_scans_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"the folder contains neither .nii or .nii.gz files"):
        find_scans(str(tmp_path))


def test_a_scan_that_fails_is_an_error(bundle, tmp_path):
    _, weights, plan = bundle
    (tmp_path / "scan.nii.gz").write_bytes(b"")
    predictor = build_predictor(build_network(**numbers()), weights, plan, "cpu")
    with pytest.raises(InputError, match=r"scan.nii.gz: the file is empty"):
        FolderSegmenter(predictor, find_scans(str(tmp_path)), str(tmp_path / "out")).run()

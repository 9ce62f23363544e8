"""Every row is checked before the first step of any."""

import shutil
from dataclasses import replace

import pytest
import torch
from clips import PLAN as VIDEO_PLAN
from clips import write_video_dataset
from tiny import LABELS, SAM, write_dataset

from masam.ablation.config import AblationConfig
from masam.ablation.data import read_data
from masam.ablation.rows import make_rows
from masam.errors import ConfigError, InputError, ModelError, ResourceError
from masam.model.sizes import SIZES
from masam.preprocess.intensity import Window
from masam.preprocess.plan import Plan
from masam.progress import Silent
from masam.training.config import TrainConfig
from masam.weights.card import ModelCard
from masam.weights.model_file import build_masam, save

PLAN = Plan(
    name="tiny", modality="CT", slice_axis="axial", intensity=Window(low=-50, high=200), window=3, image_size=32,
    labels=LABELS,
)  # fmt: skip
SETTINGS = {
    "model.size": "vit_t", "model.fact_rank": 2, "model.adapter_channels": 4, "batch_windows": 6, "epochs": 3,
    "validate_every": 1, "device": "cpu",
}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny_size(monkeypatch):
    monkeypatch.setitem(SIZES, "vit_t", replace(SAM, name="vit_t", decoder_heads=8))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return read_data(write_dataset(tmp_path_factory.mktemp("data") / "set"), Silent())


def rows_of(data, rows, plan=PLAN, settings=SETTINGS, **changes):
    content = {"dataset": "set", "settings": settings, "seeds": [1, 2], "rows": rows, **changes}
    return make_rows(AblationConfig.from_mapping(content, where="t.yaml"), plan, data, "t.yaml")


def test_rows_and_cells(data):
    full, wide = rows_of(data, {"full": {}, "wide": {"plan.window": 5, "epochs": 4}}, folds=[0, 2])
    assert [cell.title for cell in full.cells] == [
        "full, seed 1, fold 0", "full, seed 1, fold 2", "full, seed 2, fold 0", "full, seed 2, fold 2",
    ]  # fmt: skip
    assert [(cell.config.seed, cell.config.fold) for cell in wide.cells] == [(1, 0), (1, 2), (2, 0), (2, 2)]
    assert {(cell.plan.window, cell.config.epochs) for cell in wide.cells} == {(5, 4)}
    assert {(cell.plan.window, cell.config.epochs) for cell in full.cells} == {(3, 3)}
    assert len({cell.folder for cell in (*full.cells, *wide.cells)}) == 8
    # Two cases of six slices train: 12 windows, 6 a step, 3 and 4 epochs.
    assert (full.steps(data), wide.steps(data)) == (6, 8)
    assert full.parameters == wide.parameters > 0
    assert 350 * 2**20 < full.peak_bytes() < wide.peak_bytes()


def test_the_folder_name_depends_on_what_decides_the_weights(data):
    def folder(plan=PLAN, **changes):
        return rows_of(data, {"a": changes}, plan)[0].cells[0].folder

    plain = folder()
    assert plain.startswith("a.seed1.")
    assert folder(workers=4) == plain
    others = [folder(learning_rate=1e-3), folder(**{"plan.window": 1}), folder(PLAN.model_copy(update={"name": "b"}))]
    assert len({plain, *others}) == 4


def test_what_all_of_a_model_trains_is_counted(data):
    some, everything = rows_of(data, {"some": {}, "everything": {"model.trained": "everything"}})
    assert 0 < some.parameters < everything.parameters


def test_a_row_may_start_from_a_trained_model(data, tmp_path):
    torch.manual_seed(0)
    model = build_masam("vit_t", 1, 32, 3, fact_rank=2, adapter_channels=4, increments="lora")
    # One of the data set's two classes.
    model.card = ModelCard(PLAN.model_copy(update={"labels": {"background": 0, "box": 1}}))
    file = tmp_path / "model.safetensors"
    save(file, model)
    init = {"model.init": str(file)}
    fresh, tuned, head = rows_of(data, {"fresh": {}, "tuned": init, "head": {**init, "model.trained": "decoder"}})
    assert (fresh.spec.increments, tuned.spec.increments) == ("fact", "lora")
    assert (tuned.spec.num_classes, tuned.spec.class_groups) == (2, ((0, 2), (1,)))
    assert 0 < head.parameters < tuned.parameters
    before = tuned.cells[0].training_sha256
    assert before != fresh.cells[0].training_sha256
    with torch.no_grad():
        model.mask_decoder.iou_token.weight += 1
    save(file, model)
    assert rows_of(data, {"tuned": init})[0].cells[0].training_sha256 != before, "another model under the same name"
    with pytest.raises(ConfigError, match=r"^t.yaml, row last: model.decoder: expected progressive, that of the model"):
        rows_of(data, {"last": {**init, "model.decoder": "sam"}})


def test_memory_is_that_of_the_deepest_windows_and_less_with_checkpointing(data):
    plain, deep, less = rows_of(data, {"a": {}, "b": {"window_depths": [1, 9]}, "c": {"checkpointing": True}})
    assert less.peak_bytes() < plain.peak_bytes() < deep.peak_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.fact_rnk": 1}, r"settings: model.fact_rnk: unknown key; did you mean 'fact_rank'\?$"),
        ({"plan.windw": 1}, r"plan: windw: unknown key; did you mean 'window'\?$"),
        ({"epochs": "many"}, "settings: epochs: expected a valid integer, got 'many'"),
        ({"epochs.x": 1}, "settings: epochs.x: epochs is a single value, not a group"),
        ({"plan.labels": {"background": 0, "ball": 1}}, r"plan: the plan has the classes .*, dataset.json has"),
        ({"plan.channels": ["a", "b"]}, "plan.channels: expected 1 channels, as in dataset.json, got 2"),
        ({"micro_batch_windows": 4}, "micro_batch_windows: expected a divisor of batch_windows = 6, got 4"),
        ({"device": "gpu"}, "device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        ({"validate_every": 0}, "validate_every: there is no case to score: the data set has no labelled test case"),
        ({"plan.window": 1}, "expected a stride from 1 to the window's 1 slices, got 3"),
    ],
)
def test_a_fault_in_the_last_row_is_found(data, changes, message):
    with pytest.raises(ConfigError, match=f"^t.yaml, row last: {message}"):
        rows_of(data, {"first": {}, "last": changes}, stride=3)


def test_a_fold_that_does_not_exist_is_refused(data):
    with pytest.raises(ConfigError, match=r"^t.yaml, row first: fold: expected 0 to 2, got 7$"):
        rows_of(data, {"first": {}}, folds=[0, 7])


def test_unavailable_devices_and_sam_files_are_refused(data, tmp_path, sam_file):
    with pytest.raises(ResourceError, match=r"^t.yaml, row last: device: cuda:99 is not available"):
        rows_of(data, {"first": {}, "last": {"device": "cuda:99"}})
    with pytest.raises(InputError, match=r"^t.yaml, row last: .*none.pth"):
        rows_of(data, {"first": {}, "last": {"model.sam_checkpoint": str(tmp_path / "none.pth")}})
    with pytest.raises(ModelError, match=r"^t.yaml, row last: .*expected a SAM file of size vit_b"):
        rows_of(data, {"first": {}, "last": {"model.sam_checkpoint": str(sam_file), "model.size": "vit_b"}})


def test_cells_depend_on_the_tensors_of_their_sam_file(data, sam_file, monkeypatch):
    monkeypatch.undo()  # sam_file's own size
    from tiny import TINY

    monkeypatch.setitem(SIZES, "vit_t", TINY)
    settings = {**SETTINGS, "model.size": "auto", "model.sam_checkpoint": str(sam_file)}
    (row,) = rows_of(data, {"a": {}}, settings=settings)
    (random,) = rows_of(data, {"a": {}})
    assert row.cells[0].training_sha256 != random.cells[0].training_sha256 == data.training_sha256
    assert row.spec.sam.name == "vit_t"


def test_a_configuration_file_is_the_start_of_all_rows(data, tmp_path):
    file = tmp_path / "config.yaml"
    TrainConfig.from_mapping({"epochs": 9, "model": {"size": "vit_t"}, "device": "cpu"}, where="x").to_yaml(file)
    one, other = rows_of(data, {"a": {}, "b": {"epochs": 2}}, settings={}, config=str(file))
    assert (one.cells[0].config.epochs, other.cells[0].config.epochs) == (9, 2)
    assert one.cells[0].config.model.size == "vit_t"


def test_data_that_cannot_be_scored_are_refused(data, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(data.dataset.root, root)
    changed = read_data(root, Silent())
    # The same bytes elsewhere are the same data.
    assert changed.training_sha256 == data.training_sha256
    (root / "splits_final.json").write_text('[{"train": ["case0"], "val": ["case1"]}]')
    assert read_data(root, Silent()).training_sha256 != data.training_sha256


def test_a_plan_of_the_other_kind_is_refused(data, tmp_path):
    videos = read_data(write_video_dataset(tmp_path / "set"), Silent())
    of_three_channels = replace(data, dataset=replace(data.dataset, channel_names=("T1", "T2", "FLAIR")))
    with pytest.raises(ConfigError, match=r"plan: the plan is for videos, the data set contains volumes"):
        rows_of(of_three_channels, {"a": {}}, VIDEO_PLAN)
    of_three = PLAN.model_copy(update={"channels": ("R", "G", "B")})
    with pytest.raises(ConfigError, match=r"plan: the plan is for volumes, the data set contains videos"):
        rows_of(videos, {"a": {}}, of_three)
    assert (data.holds_videos, videos.holds_videos) == (False, True)


@pytest.mark.parametrize("as_files", [False, True])
def test_cells_depend_on_the_frames_of_videos(tmp_path, as_files):
    root = write_video_dataset(tmp_path / "set", cases=3, as_files=as_files)
    videos = read_data(root, Silent())
    settings = {**SETTINGS, "batch_windows": 2, "micro_batch_windows": 1}
    (row,) = rows_of(videos, {"a": {}}, VIDEO_PLAN, settings)
    # One is held out; two videos of four frames: eight windows, two a step, three epochs.
    assert row.steps(videos) == 12
    label = sorted(root.glob("labelsTr/*/*.png"))[0]
    label.write_bytes(label.read_bytes() + b"x")
    assert read_data(root, Silent()).training_sha256 != videos.training_sha256

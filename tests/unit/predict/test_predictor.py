import itertools
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from tiny import LABELS, SPEC, random_model
from weight_files import PLAN

from masam.aggregate import WindowAggregator
from masam.device import autocast, choose_device
from masam.errors import ConfigError, InputError, ModelError, ResourceError
from masam.io.nifti.file import write_volume
from masam.predict.encoded import VolumeEncoder
from masam.predict.predictor import Predictor
from masam.preprocess.intensity import Percentiles
from masam.preprocess.pipeline import PreparedVolume
from masam.progress import Silent
from masam.prompts import Box3D, Click
from masam.prompts.projection import project
from masam.volume import Geometry, Volume
from masam.weights.model_file import ModelCard, save

RIGHT = np.diag([1.5, 1.0, 3.0, 1.0])


def oblique():
    """A grid turned by 20 degrees about one axis and by 12 about another, off the origin."""
    a, b = np.radians(20), np.radians(12)
    turn_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn_z @ turn_x @ np.diag([1.5, 1.0, 3.0])
    affine[:3, 3] = (-30, 12.5, 100)
    return affine


def volume(shape=(20, 24, 5), affine=RIGHT, seed=0):
    generator = np.random.default_rng(seed)
    coarse = generator.normal(50, 120, tuple(-(-n // 4) for n in shape))
    array = coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2)[: shape[0], : shape[1], : shape[2]]
    return Volume(array.astype(np.float32), Geometry(affine))


@pytest.fixture(scope="module")
def model():
    # Weights this large make its predictions vary from voxel to voxel.
    return random_model(scale=0.5)


def predictor(model, **changes):
    return Predictor(model, **{"device": "cpu", "plan": PLAN, **changes})


def probabilities(predictor, prepared, prompts=None):
    """Return the mean class probabilities by slice."""
    source = VolumeEncoder(prepared, predictor.ensemble, window_minmax=predictor.plan.window_minmax, cached_slices=9)
    return dict(predictor.probabilities(source, Silent(), prompts, range(prepared.depth)))


def reorient(source, order, flips):
    """Store the same anatomy with its axes in another order and direction."""
    array = source.array.transpose(order)
    affine = source.geometry.affine[:, [*order, 3]].copy()
    for axis in np.flatnonzero(flips):
        affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
        affine[:3, axis] *= -1
        array = np.flip(array, axis)
    return Volume(np.ascontiguousarray(array), Geometry(affine))


def test_a_cropped_scan_gets_the_labels_of_its_content_on_the_whole_grid(model):
    inside = volume((16, 20, 4), oblique(), seed=3)
    inside = inside.with_array(np.maximum(inside.array, -99))
    array = np.full((32, 40, 9), -1000, np.float32)
    box = np.s_[4:20, 12:32, 3:7]
    array[box] = inside.array
    scan = Volume(array, Geometry(oblique()))
    cropped = predictor(model, plan=PLAN.model_copy(update={"crop": "content"}), fill_holes=["ball"])
    labels = cropped.predict(scan)
    expected = np.zeros(array.shape, labels.array.dtype)
    expected[box] = predictor(model, fill_holes=["ball"]).predict(inside).array
    assert len(np.unique(expected)) > 1
    assert np.array_equal(labels.array, expected)
    assert labels.geometry is scan.geometry


ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product([False, True], repeat=3)))


@pytest.mark.parametrize("affine", [RIGHT, oblique()], ids=["straight", "oblique"])
def test_the_same_anatomy_gets_the_same_labels_in_all_48_orientations(model, affine):
    source = volume(affine=affine)
    predict = predictor(model, stride=3, plan=PLAN.model_copy(update={"intensity": Percentiles()})).predict
    expected = predict(source)
    assert 0.1 < (expected.array == 4).mean() < 0.9, "a prediction of one class would show nothing"
    assert len(ORIENTATIONS) == 48
    for order, flips in ORIENTATIONS:
        turned = reorient(source, order, flips)
        labels = predict(turned)
        assert np.array_equal(labels.geometry.affine, turned.geometry.affine)
        assert labels.shape == turned.shape
        assert np.array_equal(labels.array, reorient(expected, order, flips).array), (order, flips)


@pytest.mark.parametrize("slice_axis", ["axial", "coronal", "sagittal"])
def test_labels_lie_on_the_volumes_own_grid(model, slice_axis):
    source = volume((20, 24, 7), oblique())
    labels = predictor(model, plan=PLAN.model_copy(update={"slice_axis": slice_axis})).predict(source)
    assert labels.shape == source.shape
    assert np.array_equal(labels.geometry.affine, source.geometry.affine)
    assert labels.array.dtype == np.uint8
    assert set(np.unique(labels.array)) <= set(LABELS.values())


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("depth", [1, 2, 3, 8])
def test_batches_change_nothing(model, stride, depth):
    source = volume((20, 24, depth))
    alone = predictor(model, stride=stride).predict(source)
    together = predictor(model, stride=stride, batch=3).predict(source)
    assert np.array_equal(alone.array, together.array)
    assert alone.shape == (20, 24, depth)


def test_probabilities_are_means_over_windows(model):
    predict = predictor(model)
    prepared = PLAN.preprocessing.prepare(volume((20, 24, 4)))
    slices = probabilities(predict, prepared)
    images = torch.from_numpy(np.stack([prepared.slice(i) for i in range(4)]))
    with torch.no_grad():
        votes = {i: [] for i in range(4)}
        for centre in range(4):
            index = [min(max(i, 0), 3) for i in (centre - 1, centre, centre + 1)]
            out = model(images[index][None].expand(-1, -1, 3, -1, -1)).logits[0].softmax(dim=1)
            for position, i in enumerate((centre - 1, centre, centre + 1)):
                if 0 <= i < 4:
                    votes[i].append(out[position])
    assert list(slices) == [0, 1, 2, 3]
    for i, mean in slices.items():
        torch.testing.assert_close(mean, torch.stack(votes[i]).mean(dim=0), rtol=0, atol=1e-6)
        torch.testing.assert_close(mean.sum(dim=0), torch.ones(32, 32), rtol=0, atol=1e-5)


def test_windows_are_scaled_to_their_range_with_window_minmax(model):
    source = volume((20, 24, 4))
    stretched = predictor(model, plan=PLAN.model_copy(update={"window_minmax": True}))
    labels = stretched.predict(source).array
    # Half the contrast and another brightness are stretched away; the HU window alone keeps them.
    faint = source.with_array(np.clip(source.array, -100, 200) / 2 + np.float32(20))
    assert (stretched.predict(faint).array == labels).mean() > 0.999
    assert (predictor(model).predict(faint).array == labels).mean() < 0.999


def most_alive(model, monkeypatch, depth):
    """Return how often slices were prepared, how many were alive at most, and the aggregator's buffer."""
    alive, most, prepared, buffers = set(), [0], [0], []
    prepare_slice, make = PreparedVolume.slice, WindowAggregator.__init__

    def count_slice(self, index):
        image = prepare_slice(self, index)
        prepared[0] += 1
        alive.add(id(image))
        weakref.finalize(image, alive.discard, id(image))
        most[0] = max(most[0], len(alive))
        return image

    def count_buffer(self, *args, **options):
        make(self, *args, **options)
        buffers.append(self.buffer_bytes)

    with monkeypatch.context() as patch:
        patch.setattr(PreparedVolume, "slice", count_slice)
        patch.setattr(WindowAggregator, "__init__", count_buffer)
        predictor(model, batch=2, stride=2).predict(volume((16, 16, depth)))
    return prepared[0], most[0], buffers


def test_memory_does_not_grow_with_depth(model, monkeypatch):
    short, long = most_alive(model, monkeypatch, 12), most_alive(model, monkeypatch, 48)
    assert (short[0], long[0]) == (12, 48), "each slice is prepared once"
    assert short[1:] == long[1:]
    assert long[1] <= 3 + 2 * 2 + 1
    assert long[2] == [3 * SPEC.num_channels * 32 * 32 * 4]


def test_predict_accepts_paths(model, tmp_path):
    source = volume(affine=oblique())
    write_volume(tmp_path / "case.nii.gz", source)
    predict = predictor(model).predict
    expected = predict(source).array
    for path in (tmp_path / "case.nii.gz", str(tmp_path / "case.nii.gz")):
        assert np.array_equal(predict(path).array, expected)
    with pytest.raises(InputError, match=r"nothing.nii.gz: expected a file, got none"):
        predict(tmp_path / "nothing.nii.gz")


def test_a_saved_model_predicts_the_same(tmp_path):
    saved = random_model(scale=0.5)
    saved.card = ModelCard(PLAN)
    save(tmp_path / "model.safetensors", saved)
    expected = Predictor(saved, device="cpu").predict(volume())
    for path in (tmp_path, str(tmp_path / "model.safetensors")):
        loaded = Predictor(path, device="cpu")
        assert loaded.plan == PLAN
        assert np.array_equal(loaded.predict(volume()).array, expected.array)


def test_the_model_is_in_evaluation_mode_and_unchanged(model):
    trained = random_model(scale=0.5).train()
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    expected = predictor(model).predict(volume()).array
    assert np.array_equal(predictor(trained).predict(volume()).array, expected)  # no dropout
    assert not any(module.training for module in trained.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())


def test_the_input_is_not_changed(model):
    source = volume()
    source.array.setflags(write=False)
    kept = source.array.copy()
    predictor(model).predict(source)
    assert np.array_equal(source.array, kept)


def test_progress_counts_windows(model):
    class Listener(Silent):
        def __init__(self):
            self.total, self.done = 0, 0

        def start(self, task, total):
            self.total += total

        def advance(self, note=""):
            self.done += 1

    listener = Listener()
    predictor(model, stride=2, batch=3).predict(volume((16, 16, 9)), listener)
    assert (listener.total, listener.done) == (5, 5)


def test_bf16_is_close(model):
    source = volume()
    exact = predictor(model).predict(source).array
    half = predictor(model, precision="bf16").predict(source).array
    assert (exact == half).mean() > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labels": {"background": 0, "ball": 1}},
            "the plan has 1 classes at 32 pixels, the model 2 at 32; give the plan",
        ),
        (
            {"image_size": 64},
            "the plan has 2 classes at 64 pixels, the model 2 at 32; give the plan that the model was",
        ),
    ],
)
def test_a_plan_for_another_model_is_refused(model, change, message):
    with pytest.raises(ModelError, match=message):
        predictor(model, plan=PLAN.model_copy(update=change))


def test_a_model_needs_a_plan(model):
    message = "^the model carries no plan, so it is unknown how to prepare a volume for it; give one with plan=$"
    for card in (None, ModelCard()):
        bare = random_model()
        bare.card = card
        with pytest.raises(ModelError, match=message):
            Predictor(bare, device="cpu")


@pytest.mark.parametrize("stride", [0, 4, -1])
def test_a_stride_that_skips_slices_is_refused(model, stride):
    with pytest.raises(ConfigError, match=f"expected a stride from 1 to the window's 3 slices, got {stride}"):
        predictor(model, stride=stride)


def test_a_batch_of_no_window_is_refused(model):
    with pytest.raises(ConfigError, match=r"^batch: expected 1 window or more, got 0$"):
        predictor(model, batch=0)


def test_predictions_that_are_not_finite_are_refused():
    broken = random_model()
    with torch.no_grad():
        broken.mask_decoder.iou_token.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"^the prediction of slice 0 is not finite; predict with precision float32$"):
        predictor(broken).predict(volume())


@pytest.mark.parametrize(
    "name", ["gpu", "", "CPU", "meta", "cuda:x", "cuda:-1", "cuda:", "mps", "cpu:0:0", "cuda:1000"]
)
def test_bad_device_names_are_refused(name):
    with pytest.raises(ConfigError, match=f"^device: expected auto, cpu, cuda or cuda:N, got {name!r}$"):
        choose_device(name)


def test_an_unavailable_device_is_refused():
    missing = f"cuda:{torch.cuda.device_count() + 7}"
    with pytest.raises(
        ResourceError, match=rf"^device: {missing} is not available \(\d+ GPUs found\); use --device cpu$"
    ):
        choose_device(missing)


def test_available_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device() == choose_device("auto") == choose_device("cpu") == torch.device("cpu")


def test_automatic_precision_on_a_cpu_is_float32():
    with autocast(torch.device("cpu"), "auto"):
        assert not torch.is_autocast_enabled("cpu")
    with autocast(torch.device("cpu"), "bf16"):
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16


def test_a_window_size_other_than_in_training(model):
    labels = predictor(model, plan=PLAN.model_copy(update={"window": 5}), stride=5).predict(volume((16, 16, 8)))
    assert labels.shape == (16, 16, 8)
    assert replace(SPEC, window=5).num_channels == SPEC.num_channels


def test_cleanings_by_class_name_record_their_changes(model):
    scan = volume()
    raw = predictor(model).segment(scan)
    assert raw.cleanings == ()
    found = predictor(model, keep_largest=["ball"], fill_holes=["box"]).segment(scan)
    kept, filled = found.cleanings
    assert (kept.step, filled.step) == ("keep_largest_component", "fill_holes")
    before, after = raw.labels.array, found.labels.array
    assert kept.removed == {1: int(((before == 1) & (after != 1)).sum())}
    assert kept.removed[1] > 0
    _, parts = ndimage.label(after == 1, structure=np.ones((3, 3, 3)))
    assert parts == 1
    # Channel 2 is "box", whose value in label files is 4.
    assert filled.added == {2: int(((before != 4) & (after == 4)).sum())}
    again = predictor(model, keep_largest=["ball"], fill_holes=["box"]).predict(scan)
    np.testing.assert_array_equal(again.array, after)


def test_a_cleaning_of_an_unknown_class_is_refused(model):
    with pytest.raises(ConfigError, match="postprocess: expected classes out of ball, box, got liver"):
        predictor(model, keep_largest=["liver"])


def boxes_of_both(corners):
    return [Box3D(corners, class_name="ball"), Box3D(corners, class_name="box")]


def test_a_box_applies_to_its_slices_in_every_window(model):
    prompted = predictor(model)
    prepared = PLAN.preprocessing.prepare(volume((20, 24, 6)))
    given = project([Box3D((3, 4, 1, 12, 15, 3), class_name="ball")], prepared.trace, PLAN.scheme)
    slices = probabilities(prompted, prepared, given)
    automatic = probabilities(prompted, prepared)
    images = torch.from_numpy(np.stack([prepared.slice(i) for i in range(6)]))
    box = torch.from_numpy(given.classes[1].box)
    with torch.no_grad():
        votes = {i: [] for i in range(6)}
        for centre in range(6):
            index = [min(max(i, 0), 5) for i in (centre - 1, centre, centre + 1)]
            windows = images[index][None].expand(-1, -1, 3, -1, -1)
            out = model(windows, boxes=box.expand(1, 3, 4)).logits[0].softmax(dim=1)
            for position, i in enumerate((centre - 1, centre, centre + 1)):
                if 0 <= i < 6:
                    votes[i].append(out[position, 1])
    assert list(slices) == list(range(6))
    for i, mean in slices.items():
        torch.testing.assert_close(mean.sum(dim=0), torch.ones(32, 32), rtol=0, atol=1e-5)
        if 1 <= i <= 3:
            torch.testing.assert_close(mean[1], torch.stack(votes[i]).mean(dim=0), rtol=0, atol=1e-5)
        else:
            assert (mean[1] == 0).all(), "outside the box's slices there is nothing of the class"
            assert not torch.equal(mean[2], automatic[i][2])


def test_outside_the_boxes_of_all_classes_is_background_and_windows_there_do_not_run(model):
    class Counting(Silent):
        total = 0

        def start(self, what, total):
            self.total = total

    progress, source = Counting(), volume((20, 24, 12))
    labels = predictor(model).predict(source, progress, prompts=boxes_of_both((0, 0, 5, 19, 23, 6)))
    assert progress.total == 4, "windows of three slices that hold slice 5 or 6"
    assert (labels.array[:, :, :5] == 0).all()
    assert (labels.array[:, :, 7:] == 0).all()
    whole = predictor(model).predict(source, prompts=boxes_of_both((0, 0, 0, 19, 23, 11)))
    assert np.array_equal(labels.array[:, :, 5:7], whole.array[:, :, 5:7])
    assert labels.array[:, :, 5:7].any()


@pytest.mark.parametrize("change", [{"batch": 3}, {"stride": 3}])
def test_prompts_in_batches_and_strides(model, change):
    prompts = [Box3D((3, 4, 1, 12, 15, 5), class_name="ball"), Click((14, 18, 6), class_name="box")]
    source = volume((20, 24, 8))
    labels = predictor(model, **change).predict(source, prompts=prompts).array
    if "batch" in change:
        assert np.array_equal(labels, predictor(model).predict(source, prompts=prompts).array)
    assert (labels[:, :, [0, 6, 7]] != 1).all()


def test_a_click_changes_its_own_slice_and_no_other(model):
    prepared = PLAN.preprocessing.prepare(volume((20, 24, 6)))
    given = project([Click((10, 12, 3), class_name="ball")], prepared.trace, PLAN.scheme)
    plain = probabilities(predictor(model), prepared)
    clicked = probabilities(predictor(model), prepared, given)
    # Slices are decoded in other company, which the last digits may show.
    moved = [float((plain[index] - clicked[index]).abs().max()) for index in range(6)]
    assert max(moved[:3] + moved[4:]) < 1e-5
    assert moved[3] > 1e-3


def test_the_same_prompts_give_the_same_labels_in_all_48_orientations(model):
    source = volume(affine=oblique())
    low, high, click = np.array([3, 5, 1]), np.array([14, 17, 3]), np.array([9, 20, 2])
    predict = predictor(model, stride=3).predict

    def prompts_at(low, high, click):
        corners = [*np.minimum(low, high).tolist(), *np.maximum(low, high).tolist()]
        return [Box3D(corners, class_name="ball"), Click(click.tolist(), class_name="box")]

    expected = predict(source, prompts=prompts_at(low, high, click))
    assert not np.array_equal(expected.array, predict(source).array)
    for order, flips in ORIENTATIONS:
        last = np.array(source.shape)[list(order)] - 1
        moved = [np.where(flips, last - point[list(order)], point[list(order)]) for point in (low, high, click)]
        labels = predict(reorient(source, order, flips), prompts=prompts_at(*moved))
        assert np.array_equal(labels.array, reorient(expected, order, flips).array), (order, flips)


def test_probabilities_of_folds_are_averaged_with_prompts(model):
    prepared = PLAN.preprocessing.prepare(volume((20, 24, 4)))
    given = project(boxes_of_both((2, 2, 0, 12, 12, 3)), prepared.trace, PLAN.scheme)
    other = random_model(seed=1, scale=0.5)
    together = probabilities(predictor([model, other]), prepared, given)
    alone = [probabilities(predictor(one), prepared, given) for one in (model, other)]
    for index, mean in together.items():
        torch.testing.assert_close(mean, (alone[0][index] + alone[1][index]) / 2, rtol=0, atol=1e-6)


def test_prompts_that_do_not_fit_are_refused(model):
    with pytest.raises(
        InputError, match=r"^the box 0,0,0,20,1,1 \(voxel\) is outside the scan, which extends from 0,0,0"
    ):
        predictor(model).predict(volume(), prompts=[Box3D((0, 0, 0, 20, 1, 1), class_name="ball")])
    with pytest.raises(ConfigError, match="expected one of the classes ball, box, got 'cube'"):
        predictor(model).predict(volume(), prompts=[Click((0, 0, 0), class_name="cube")])


def test_prompts_are_refused_for_a_model_trained_without_them():
    facts = {"steps": 9, "validation_dice": None, "dataset": "tiny"}
    automatic, mixed = random_model(), random_model()
    automatic.card, mixed.card = ModelCard(training=facts), ModelCard(training={**facts, "prompt_rate": 0.5})
    prompts = boxes_of_both((0, 0, 0, 19, 23, 4))
    with pytest.raises(ModelError, match="trained without prompts, so its response to them is meaningless"):
        predictor(automatic).predict(volume(), prompts=prompts)
    assert predictor(mixed).predict(volume(), prompts=prompts).shape == (20, 24, 5)


@pytest.mark.parametrize("batch", [1, 4])
def test_an_encoded_volume_gives_the_same_labels_without_the_encoder(model, monkeypatch, batch):
    one = predictor(model, batch=batch)
    far_apart = [Click((8, 9, 0), class_name="ball"), Click((8, 9, 4), class_name="box", positive=False)]
    box = [Box3D((3, 4, 1, 12, 15, 2), class_name="ball")]
    prompts = [None, boxes_of_both((2, 3, 1, 14, 18, 3)), far_apart[:1], far_apart, box, [*box, far_apart[1]]]
    expected = [one.predict(volume(), prompts=some).array for some in prompts]
    encoded = one.encode(volume())
    monkeypatch.setattr(type(model), "encode", None)
    for some, labels in zip(prompts, expected, strict=True):
        assert np.array_equal(one.predict(encoded, prompts=some).array, labels)
    assert not np.array_equal(expected[0], expected[1])


def test_a_click_on_an_encoded_volume_decodes_only_its_slice(model, monkeypatch):
    one, decoded = predictor(model), []
    encoded = one.encode(volume((20, 24, 9)))
    decode = type(model).decode

    def counting(self, embeddings, *args, **kwargs):
        decoded.append(len(embeddings))
        return decode(self, embeddings, *args, **kwargs)

    monkeypatch.setattr(type(model), "decode", counting)
    one.predict(encoded, prompts=[Click((8, 9, 4), class_name="ball")])
    # It lies in as many windows as a window has slices; in each it is asked with the click, and without for the others.
    assert sum(decoded) == 2 * PLAN.window
    decoded.clear()
    one.predict(encoded)
    assert decoded == []


def test_each_model_decodes_its_own_embeddings(model):
    both = predictor([model, random_model(seed=5, scale=0.5)], stride=2)
    prompts = [Click((8, 9, 2), class_name="ball")]
    expected = both.predict(volume(), prompts=prompts)
    assert np.array_equal(both.predict(both.encode(volume()), prompts=prompts).array, expected.array)

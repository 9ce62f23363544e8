"""Settings files: each file parses, its model can be built, and the commands in its header exist."""

import re
import shlex
from dataclasses import fields
from operator import attrgetter
from pathlib import Path

import pytest
import typer

from masam.ablation.config import AblationConfig
from masam.ablation.rows import apply_changes, model_shape
from masam.augment import AugmentSettings
from masam.cli import app
from masam.convert import btcv, endovis18, msd, prostate
from masam.labels import LabelScheme
from masam.model.masam import empty_model
from masam.model.parameters import count_parameters
from masam.model.sizes import find_size
from masam.model.spec import MasamSpec, ModelOptions
from masam.preprocess.intensity import Percentiles, Rgb, Window
from masam.preprocess.plan import PRESETS, Plan
from masam.synthetic import head, instruments, nerves, phantom, tumour
from masam.synthetic.sets import SYNTHETIC_SETS
from masam.training.config import ModelSettings, TrainConfig
from masam.weights.card import Base
from masam.weights.published import PUBLISHED

ROOT = Path(__file__).parent.parent / "configs"
ALL_FILES = sorted(path for path in ROOT.rglob("*") if path.is_file())
EVIDENCE = [path for path in ALL_FILES if path.parent.name == "evidence"]
TABLES = [path for path in EVIDENCE if path.name != "training.yaml"]
ABLATIONS = [path for path in ALL_FILES if path.parent.name == "ablations"]
CPU = ROOT / "cpu.yaml"
PAPER_FILES = [path for path in ALL_FILES if path not in [*EVIDENCE, CPU]]
FILES = [path for path in PAPER_FILES if path not in ABLATIONS]
LABELS = {
    "btcv": btcv.MERGED,
    "prostate": prostate.LABELS,
    "endovis18": endovis18.LABELS,
    "msd": msd.TUMOUR,
}
MARKS = r"\[(V-code|V-run|V-log|V-pyc|V-src|2nd|inf|mem)\]"

PARAMETRISED_FILES = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
PARAMETRISED_TABLES = pytest.mark.parametrize("file", TABLES, ids=lambda file: file.stem)
PARAMETRISED_ABLATIONS = pytest.mark.parametrize("file", ABLATIONS, ids=lambda file: file.stem)


def header(file):
    """Return the comment at the top of a file, without the comment characters."""
    lines = []
    for line in file.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(lines)


def commands(file):
    """Return the arguments of each ``masam`` command in a header."""
    text = header(file).replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in text.splitlines() if line.strip().startswith("masam ")]


def parsed(words):
    """Return the name and the parameters of a command; invalid arguments raise."""
    command, words, names = typer.main.get_command(app), list(words), []
    while hasattr(command, "commands"):
        names.append(words.pop(0))
        command = command.commands[names[-1]]
    return " ".join(names), command.make_context(names[-1], words).params


def test_cpu_settings_parse_and_their_commands_exist():
    config = TrainConfig.from_yaml(CPU)
    assert (config.model.sam_checkpoint, config.model.decoder, config.batch_windows) == ("masam-vit-t", "sam", 1)
    assert [parsed(words)[0] for words in commands(CPU)] == ["make", "plan", "train"]


def test_every_experiment_has_a_file():
    sites = [f"prostate_{site.letter.lower()}" for site in prostate.SITES]
    assert [file.name for file in FILES] == [
        f"{name}.yaml" for name in sorted(["btcv_vit_h", "endovis18", "pancreas_tumour", *sites])
    ]


@PARAMETRISED_FILES
def test_model_can_be_built(file):
    config = TrainConfig.from_yaml(file)
    calls = dict(parsed(words) for words in reversed(commands(file)))
    (data_set,) = (name.removeprefix("convert ") for name in calls if name.removeprefix("convert ") in LABELS)
    preset = PRESETS[calls["plan"]["preset"] or "paper-ct"]
    settings = config.model
    size = PUBLISHED[settings.sam_checkpoint].size if settings.size == "auto" else settings.size
    num_classes = LabelScheme.from_mapping(LABELS[data_set]).num_classes
    options = {entry.name: getattr(settings, entry.name) for entry in fields(ModelOptions)}
    spec = MasamSpec(find_size(size), num_classes, preset.image_size, preset.window, **options)
    model = empty_model(spec)
    assert {tensor.device.type for tensor in model.parameters()} == {"meta"}
    assert num_classes == {"btcv": 12, "prostate": 1, "endovis18": 11, "msd": 1}[data_set]
    if data_set == "btcv":
        # The paper's model: 96.81 M trained of 729.86 M.
        count = count_parameters(spec)
        assert (round(count.trainable / 1e6, 2), round(count.total / 1e6, 2)) == (96.81, 729.86)


RECIPE = {
    "epochs": (160, "0, fact 1"),
    "schedule_epochs": (400, "1.6, learning rate"),
    "batch_windows": (24, "1.6, batch"),
    "micro_batch_windows": (3, "1.6, batch"),
    "learning_rate": (8e-4, "1.6, learning rate"),
    "warmup_steps": (250, "1.6, learning rate"),
    "power": (7.0, "1.6, learning rate"),
    "weight_decay": (0.1, "1.6, optimiser"),
    "clip_norm": (None, "1.6, optimiser"),
    "cross_entropy_weight": (0.2, "1.6, loss"),
    "dice_weight": (0.8, "1.6, loss"),
    "dice_pooling": ("batch", "1.6, Dice"),
    "augmentation": (AugmentSettings(preset="paper"), "1.7"),
    "window_depths": (None, "1.5, window: always 5 slices"),
    "prompt_rate": (0.0, "1.3, prompt-free"),
    "corrective_clicks": (0, "1.3, prompt-free"),
    "seed": (1234, "1.6, seed"),
    "max_hours": (None, "1.6, epochs"),
    "patience": (None, "0, fact 8: the epoch is fixed"),
    "model.sam_checkpoint": ("sam-vit-h", "0, fact 1"),
    "model.init": (None, "0, fact 3"),
    "model.trained": ("adaptation", "1.1, frozen"),
    "model.increments": ("fact", "1.1, formula"),
    "model.fact_blocks": ("all", "1.1, where"),
    "model.fact_rank": (32, "1.1, rank"),
    "model.fact_scale": (1.0, "1.1, rank"),
    "model.fact_dropout": (0.1, "1.1, dropout"),
    "model.adapter_blocks": ("all", "1.2, position"),
    "model.adapter_places": ("both", "1.2, position"),
    "model.adapter_channels": (384, "1.2, channels"),
    "model.adapter_depth_kernel": (3, "1.2, Conv3d"),
    "model.adapter_dilation": (1, "1.2, Conv3d"),
    "model.adapter_zero_start": (False, "1.2, init"),
    "model.decoder": ("progressive", "1.3, upsampling"),
}
"""Settings of the paper's experiments: value, and section of docs/reference/paper.md."""

NOT_IN_THE_PAPER = {
    "model", "model.size", "checkpointing", "frozen_dtype", "fold", "folds", "validate_every", "validation_stride",
    "max_bad_steps", "precision", "device", "sharing", "workers", "mlflow",
}  # fmt: skip
"""Settings of machines, splits and validation. ``precision`` is the machine's: bf16 where the paper has fp16."""


def test_the_recipe_names_every_setting():
    keys = {*TrainConfig.model_fields, *(f"model.{key}" for key in ModelSettings.model_fields)}
    assert set(RECIPE).isdisjoint(NOT_IN_THE_PAPER)
    assert {*RECIPE, *NOT_IN_THE_PAPER} == keys


@PARAMETRISED_FILES
def test_settings_are_those_of_the_paper(file):
    config = TrainConfig.from_yaml(file)
    assert {key: attrgetter(key)(config) for key in RECIPE} == {key: value for key, (value, _) in RECIPE.items()}


PLANS = {
    "btcv": ("CT", Window(low=-200, high=250)),
    "prostate": ("MR", Percentiles(low=0, high=99)),
    "endovis18": ("video", Rgb(normalisation="unit")),
    "pancreas": ("CT", Window(low=-50, high=200)),
}
"""Modality and intensity rule of each experiment, paper.md 1.5; those of video were not released."""


@PARAMETRISED_FILES
def test_plans_are_those_of_the_paper(file):
    plan = dict(parsed(words) for words in commands(file))["plan"]
    preset = PRESETS[plan["preset"] or "paper-video"]  # a plan of video is that of the preset
    assert (preset.modality, preset.intensity) == PLANS[file.stem.split("_")[0]]
    assert (preset.image_size, preset.window, preset.window_minmax) == (512, 5, True)


def test_the_ablations_change_only_what_a_row_names():
    (file,) = ABLATIONS
    table = AblationConfig.from_yaml(file)
    assert (table.config, table.settings, table.rows["MA-SAM"]) == ("configs/btcv_vit_h.yaml", {}, {})
    assert all(key.startswith("model.") for changes in table.rows.values() for key in changes)


@PARAMETRISED_FILES
def test_commands_cover_download_to_score(file):
    calls = [parsed(words) for words in commands(file)]
    names = [name for name, _ in calls]
    assert names[0] == "weights get"
    assert [name.split()[0] for name in names[1:5]] == ["convert", "plan", "train", "predict"]
    get, convert, plan, train, predict = (given for _, given in calls[:5])
    assert get["name"] == TrainConfig.from_yaml(file).model.sam_checkpoint
    assert train["config"] == Path("configs") / file.name
    data_set = plan["dataset"]
    assert data_set.is_relative_to(convert["out"])
    assert (train["dataset"], train["plan"]) == (data_set, plan["out"])
    assert (predict["images"], predict["model"]) == (data_set / "imagesTs", train["out"])
    name, evaluate = calls[5]
    assert name == "evaluate"
    assert (evaluate["predictions"], evaluate["references"]) == (predict["out"], data_set / "labelsTs")
    assert evaluate["labels"] == data_set
    for name, given in calls[6:]:
        assert given.get("model") in (None, train["out"]), name
        if name == "report":
            assert given["images"] == predict["images"]
            assert all(given[key] == evaluate[key] for key in ("predictions", "references", "labels"))


@pytest.mark.parametrize("file", PAPER_FILES, ids=lambda file: file.stem)
def test_header_states_published_figures_and_their_reliability(file):
    text = " ".join(header(file).split())
    time = re.search(r"Time: not measured here\. Published for (.*?)Memory: predicted", text)
    score = re.search(r"Expected score: (.*?)Not reproduced here yet\.", text)
    assert time, "time and memory"
    assert score, "expected score"
    assert re.search(MARKS, time[1])
    assert re.search(MARKS, score[1])


@pytest.mark.parametrize("file", [CPU, *TABLES], ids=lambda file: file.stem)
def test_header_states_time_memory_and_score(file):
    fields = re.findall(r"^(Commands|Time|Memory|Expected score)\b", header(file), re.MULTILINE)
    assert fields == ["Commands", "Time", "Memory", "Expected score"]


def test_ablations_of_the_paper_exist():
    assert [file.name for file in ABLATIONS] == ["paper.yaml"]


@PARAMETRISED_ABLATIONS
def test_each_row_of_an_ablation_can_be_built(file, monkeypatch):
    monkeypatch.chdir(ROOT.parent)
    table = AblationConfig.from_yaml(file)
    base = TrainConfig.from_yaml(Path(table.config))
    preset = PRESETS["paper-ct"].model_dump(mode="json")
    plan = Plan.from_mapping({**preset, "name": "BTCV", "slice_axis": "axial", "labels": btcv.MERGED}, where="paper-ct")
    trained = {}
    for row, changes in table.rows.items():
        config, own = apply_changes(*apply_changes(base, plan, table.settings), changes)
        weights = config.model.sam_checkpoint
        sam = None if weights is None else Base(PUBLISHED[weights].size, PUBLISHED[weights].sha256)
        model = model_shape(config, own, sam)
        assert {tensor.device.type for tensor in model.parameters()} == {"meta"}
        trained[row] = round(sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6, 1)
    # The paper's model trains 96.8 M; the smaller ones are those of masam info.
    assert trained == {
        "MA-SAM": 96.8, "every weight trained": 729.7, "without SAM's weights": 729.9,
        "adapters before attention": 51.1, "adapters before the MLP": 51.1, "no adapters": 5.4,
        "no adapters, SAM's decoder": 5.5, "no adapters, ViT-L": 5.4, "no adapters, ViT-B": 5.3, "LoRA": 101.9,
    }  # fmt: skip


@PARAMETRISED_ABLATIONS
def test_commands_cover_download_to_table(file, monkeypatch):
    monkeypatch.chdir(ROOT.parent)
    table = AblationConfig.from_yaml(file)
    calls = [parsed(words) for words in commands(file)]
    got = {given["name"] for name, given in calls if name == "weights get"}
    models = [changes.get("model.sam_checkpoint") for changes in table.rows.values()]
    assert got == {TrainConfig.from_yaml(Path(table.config)).model.sam_checkpoint, *filter(None, models)}
    (convert, plan, dry, ablate) = [given for name, given in calls if name != "weights get"]
    assert str(convert["out"]) == str(plan["dataset"]) == table.dataset
    assert str(plan["out"]) == table.plan
    assert dry["config"] == ablate["config"] == file.relative_to(ROOT.parent)
    assert (dry["dry_run"], ablate["dry_run"], dry["out"]) == (True, False, ablate["out"])


SYNTHETIC = {
    "phantom": (phantom.LABELS, phantom.DEFAULT_SHAPE[2], "paper-ct"),
    "nerves": (nerves.LABELS, nerves.SHAPE[2], "paper-mr"),
    "tumour": (tumour.LABELS, tumour.SHAPE[2], "paper-tumor"),
    "instruments": (instruments.LABELS, instruments.FRAMES, "paper-video"),
}
"""Synthetic data set to its classes, number of slices or frames, and preset."""

HEAD_WINDOWS = 56
"""Windows of the head's training slabs: four of 14 slices."""
IMAGE_SIZES = {"pretraining-head": 192, "prompts": 256}
"""Tables with an image size other than 128 pixels."""


@PARAMETRISED_TABLES
def test_evidence_table_can_be_built_and_has_the_stated_number_of_steps(file, monkeypatch):
    monkeypatch.chdir(ROOT.parent)
    table = AblationConfig.from_yaml(file)
    ((maker, made), (command, ablate)) = [parsed(words) for words in commands(file)]
    assert (command, ablate["config"]) == ("ablate", file.relative_to(ROOT.parent))
    if maker == "make":
        assert str(made["out"]) == table.dataset
        labels, depth, preset_name = SYNTHETIC[made["name"]]
        windows = (made["train"] or SYNTHETIC_SETS[made["name"]].train) * depth
    else:
        assert (maker, table.dataset) == ("demo", f"{made['out']}/{made['only']}/data")
        labels, windows, preset_name = head.LABELS, HEAD_WINDOWS, "paper-mr"
    base = TrainConfig.from_yaml(Path(table.config))
    preset = PRESETS[preset_name].model_dump(mode="json")
    channels = ["R", "G", "B"] if preset["modality"] == "video" else ["image"]
    facts = {**preset, "name": "made", "channels": channels, "slice_axis": "stored", "labels": labels}
    plan = Plan.from_mapping(facts, where="plan")
    shapes = {}
    for row, changes in table.rows.items():
        config, own = apply_changes(*apply_changes(base, plan, table.settings), changes)
        model = model_shape(config, own, Base("vit_t", "0" * 64))
        trained = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
        shapes[row] = (config.prompt_rate, config.epochs, config.model.sam_checkpoint, trained)
        assert own.image_size == IMAGE_SIZES.get(file.stem, 128)
    assert len({str(shape) for shape in shapes.values()}) == len(table.rows), "identical rows"
    steps = windows // config.batch_windows * config.epochs
    assert re.search(rf"^{_in_words(len(table.rows) * len(table.seeds))} runs of {steps} steps\b", header(file), re.M)


def _in_words(number):
    return {6: "Six"}.get(number, str(number))


def test_third_dimension_tables_differ_only_in_the_adapter_kernel():
    tables = [file for file in TABLES if file.stem.startswith("third-dimension-")]
    assert {file.stem.removeprefix("third-dimension-") for file in tables} == {"nerves", "instruments"}
    for file in tables:
        table = AblationConfig.from_yaml(file)
        assert table.rows == {"2D adapters": {"model.adapter_depth_kernel": 1}, "3D adapters": {}}
        assert (table.seeds, table.first) == ((1, 2, 3), "2D adapters")


def test_invalid_commands_are_detected():
    for words in (["plan", "x"], ["convert", "btcv", "a", "b", "--adrenal", "none"], ["predict", "a", "--no-such"]):
        with pytest.raises(Exception, match=r"Missing parameter|is not one of|[Nn]o such option"):
            parsed(words)
    with pytest.raises(KeyError, match="nothing"):
        parsed(["nothing"])

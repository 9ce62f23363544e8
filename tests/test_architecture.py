"""Rules for the source tree: direction of imports, size of files, calls that are never made."""

import ast
import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import masam

ROOT = Path(__file__).parent.parent / "src" / "masam"
FILES = sorted(ROOT.rglob("*.py"))

# The rooms of the house, top to bottom: a file imports its own room, rooms further down, and the vocabulary.
ROOMS = [
    "cli",
    "demo", "ablation", "pretraining",  # programs built on training and prediction
    "training",
    "report",
    "export",
    "evaluation",
    "predict",
    "convert",
    "runs",
    "weights",
    "prompts",
    "cases",
    "synthetic",
    "augment", "preprocess",
    "io",
    "model",
]  # fmt: skip
# The files at the top of the package that every room may import; each imports only those before it.
VOCABULARY = [
    "errors", "atomic", "axes", "volume", "labels", "config", "reproducibility", "progress", "device", "windows",
    "aggregate",
]  # fmt: skip
ENTRY_POINTS = {"__init__", "__main__"}  # they name the public names and start the command line
MAX_LOOSE_FILES = 16

MODEL_VOCABULARY = {"errors", "axes"}  # the model takes plain values: neither files nor settings

MAX_LINES = 400
CATCH_ALL = {
    "io/gate.py",  # turns any failure of a third-party reader into our errors
    "cli/__init__.py",  # reports an unexpected exception as a bug, exit code 1
}

RUNS_CODE = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "input",
    "yaml.unsafe_load", "yaml.full_load", "yaml.load_all",
}  # fmt: skip
PICKLES = {"pickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}
SAFE_BY = {"torch.load": "weights_only", "np.load": "allow_pickle"}  # call: argument that must be given explicitly


def name_of(path):
    """Return the room (top-level module or package) of a file."""
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path):
    """Yield the modules that a file imports and the line, imports inside functions included."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports name the whole path"
            if node.module == "masam":
                for alias in node.names:
                    yield f"masam.{alias.name}", node.lineno
            else:
                yield node.module, node.lineno


def ours(path):
    """Yield the rooms that a file imports and the line; ``import masam`` alone does not count."""
    for module, line in imports(path):
        if module.startswith("masam.") and module != "masam.__version__":
            yield module.split(".")[1], line


def test_imports_only_go_down():
    wrong = []
    for path in FILES:
        room = name_of(path)
        if room in ENTRY_POINTS:
            continue
        if room in VOCABULARY:
            allowed = set(VOCABULARY[: VOCABULARY.index(room)])
        elif room in ROOMS:
            allowed = {*ROOMS[ROOMS.index(room) :], *VOCABULARY}
        else:
            wrong.append(f"{path.relative_to(ROOT)}: a new room; give it a place in ROOMS")
            continue
        wrong += [
            f"{path.relative_to(ROOT)}:{line}: {room} imports {other}"
            for other, line in ours(path)
            if other not in allowed
        ]
    assert not wrong, "\n".join(wrong)


def test_every_room_exists():
    assert {name_of(path) for path in FILES} - ENTRY_POINTS == {*ROOMS, *VOCABULARY}


def test_few_files_stand_outside_a_room():
    assert len(list(ROOT.glob("*.py"))) <= MAX_LOOSE_FILES


def test_unit_tests_mirror_the_source():
    unit = ROOT.parent.parent / "tests" / "unit"
    folders = {path.parent.relative_to(unit) for path in unit.rglob("test_*.py")}
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_only_the_pipeline_combines_preprocessing_steps():
    steps = {"orientation", "intensity", "crop", "resize"}
    for name in steps:
        others = {m for m, _ in imports(ROOT / "preprocess" / f"{name}.py") if m.startswith("masam.preprocess.")}
        assert not others, name


def test_synthetic_data_sets_import_io_lazily():
    for path in (ROOT / "synthetic").rglob("*.py"):
        at_start = {node.module for node in tree(path).body if isinstance(node, ast.ImportFrom)}
        assert not any(module.startswith("masam.io") for module in at_start), path.name


def test_the_model_does_not_depend_on_files_or_settings():
    for path in (ROOT / "model").rglob("*.py"):
        parts = {other for other, _ in ours(path)}
        assert parts <= MODEL_VOCABULARY | {"model"}, path.name
        assert not {m.split(".")[0] for m, _ in imports(path)} & {
            "yaml",
            "pydantic",
            "pathlib",
            "json",
            "safetensors",
        }, path.name


NEEDS_TORCH = {
    "evaluation/prompted.py",  # runs a model
    "runs/manifest.py",  # notes torch's version if torch is in use
}


@pytest.mark.parametrize("room", ["evaluation", "report", "runs", "io", "cases"])
def test_torch_is_not_imported_where_it_is_not_needed(room):
    files = [path for path in FILES if name_of(path) == room]
    assert files
    for path in files:
        if path.relative_to(ROOT).as_posix() in NEEDS_TORCH:
            continue
        found = {module.split(".")[0] for module, _ in imports(path)} | {other for other, _ in ours(path)}
        assert not found & {"torch", "model", "weights", "predict"}, path.name


def start(code):
    """Run code in a fresh interpreter and return what it prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_modules_import_without_heavy_libraries():
    modules = ("masam", "masam.evaluation", "masam.report", "masam.preprocess.plan", "masam.cases.folder",
               "masam.io.nifti.file", "masam.weights.cache", "masam.cli")  # fmt: skip
    heavy = {"torch", "matplotlib", "monai", "SimpleITK", "nilearn", "tensorboard", "pydicom", "highdicom"}
    # One process for all modules; a library is reported with the first module that imports it.
    code = (
        "import importlib, sys\n"
        f"for module in {modules}:\n"
        "    importlib.import_module(module)\n"
        f"    if found := sorted({heavy} & set(sys.modules)):\n"
        "        sys.exit(f'{module} imports {found}')\n"
    )
    start(code)


def test_public_names_are_imported_on_first_use():
    code = (
        "import masam, sys\nassert 'torch' not in sys.modules\n[getattr(masam, name) for name in masam.__all__]\n"
        "try:\n    masam.no_such_name\nexcept AttributeError as error:\n    print(error)\n"
    )
    assert start(code) == "module 'masam' has no attribute 'no_such_name'"
    assert {"Predictor", "build_masam", "evaluate", "load", "load_reference"} <= set(masam.__all__)


def test_no_file_is_too_long():
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_no_catch_all_modules():
    catch_all = {"util", "utils", "helper", "helpers", "common", "misc", "tools", "stuff"}
    assert not [path for path in FILES if catch_all & set(path.relative_to(ROOT).with_suffix("").parts)]


def faults(path):
    """Yield the line and name of unsafe calls: code run from files or strings, hidden errors, assertions."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Assert):
            yield node.lineno, "assert"
        elif isinstance(node, ast.ExceptHandler):
            yield from handler_faults(node, may_catch_all=path.relative_to(ROOT).as_posix() in CATCH_ALL)
        elif isinstance(node, ast.Call):
            yield from call_faults(node)


def handler_faults(node, may_catch_all):
    kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    names = {kind.id for kind in kinds if isinstance(kind, ast.Name)}
    if node.type is None or ("BaseException" in names and not _raises_again(node)):
        yield node.lineno, "bare except"
    if "Exception" in names and not may_catch_all:
        yield node.lineno, "except Exception"


def call_faults(node):
    name = ast.unparse(node.func)
    given = {k.arg: k.value.value if isinstance(k.value, ast.Constant) else None for k in node.keywords}
    if name in RUNS_CODE or name.split(".")[0] in PICKLES or name.endswith(".extractall"):
        yield node.lineno, name
    for keyword, value in (("weights_only", False), ("allow_pickle", True), ("shell", True)):
        if given.get(keyword) is value:
            yield node.lineno, f"{keyword}={value}"
    if SAFE_BY.get(name, "") not in given | {"": None}:
        yield node.lineno, f"{name} without {SAFE_BY[name]}"


def _raises_again(handler):
    return isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None


def test_no_unsafe_calls():
    found = [f"{path.relative_to(ROOT)}:{line}: {what}" for path in FILES for line, what in faults(path)]
    assert not found, "\n".join(found)


def test_the_check_for_unsafe_calls_finds_them(tmp_path):
    code = (
        "assert x\neval('1')\npickle.load(f)\ntorch.load(f)\nnp.load(f)\ntorch.load(f, weights_only=False)\n"
        "subprocess.run(c, shell=True)\nnp.load(f, allow_pickle=True)\n"
        "try:\n    pass\nexcept:\n    pass\ntry:\n    pass\nexcept Exception:\n    pass\n"
        "model.eval()\nre.compile('x')\ntry:\n    pass\nexcept BaseException:\n    x = 1\n    raise\n"
    )
    path = ROOT / "not_written.py"
    module = ast.parse(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "tree", lambda _: module)
        lines = sorted(line for line, _ in faults(path))
    assert lines == [1, 2, 3, 4, 5, 6, 7, 8, 11, 15]


def test_torchvision_is_not_installed():
    """The registry's build does not load beside the CPU's torch, and its presence breaks transformers."""
    assert importlib.util.find_spec("torchvision") is None
    assert not [path for path in FILES for module, _ in imports(path) if module.split(".")[0] == "torchvision"]

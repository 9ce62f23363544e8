"""What a reader of the code may rely on: which way imports point, how large files get, what is never done."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "masam"
FILES = sorted(ROOT.rglob("*.py"))

VOCABULARY = {"errors", "atomic", "axes", "volume", "labels", "config", "reproducibility", "progress"}
STAGES = {"io", "datasets", "formula", "fingerprint", "plan", "preprocess", "windows", "prompts", "augment"}
STAGES |= {"aggregate", "postprocess"}
DOORS = {"cli", "__main__"}

# What each part may import beside itself and the vocabulary. Between stages only what is named here, with its reason.
ALLOWED = {
    **{part: set() for part in VOCABULARY | STAGES},
    "aggregate": {"windows"},  # its contract is the SliceWindow
    "fingerprint": {"preprocess"},  # measured in the anatomical order and with the rules of preparation
    "plan": {"fingerprint", "preprocess"},  # derived from one; holds the rules of preparation and makes it
    "datasets": {"io"},  # data sets are written as files
    "prompts": {"preprocess", "io"},  # go the way that the slices went; a folder's are a file
    "model": set(),
    "evaluation": {"io"},  # reads the label files that it compares
    "card": {"model", "plan"},  # what travels with the weights
    "weights": {"io", "model", "card", "published"},  # files to models
    "reference": {"io", "model", "plan", "card", "weights"},  # the official MA-SAM's files
    "identify": {"io", "model", "card", "published", "weights", "export"},  # what a file is
    "device": set(),  # where and in which number format a model runs
    "predict": STAGES | {"model", "weights", "card", "device", "predict_prompted"},
    "predict_prompted": STAGES | {"model"},  # a window with prompts
    "check": {"io"},  # all that is wrong with a data set
    "metrics": {"io"},  # the table of a run's figures, written by train and read by report
    "train": STAGES | {"model", "weights", "device", "predict", "predict_video", "evaluation", "metrics"},
    "prompt_evaluation": STAGES | {"model", "predict", "predict_prompted", "evaluation"},  # what a box or a click gains
    "pretrain": STAGES | {"model", "device", "metrics", "train"},  # SAM's own task, in a run folder as of training
    "published": {"io"},  # which files others publish, and where they lie here
    "weights_cache": {"io", "published"},  # their download
    "manifest": set(),
    "report": {"io", "evaluation", "manifest", "metrics"},
    "cohort": STAGES | {"model", "weights", "predict", "manifest"},  # prediction of many cases
    "predict_picture": {"model", "weights", "device"},  # a plain SAM
    "predict_video": STAGES | {"predict"},  # the same for streams of frames
    "video_cohort": STAGES | {"predict", "predict_video", "cohort"},  # prediction of many videos
    "export": STAGES
    | {"model", "weights", "reference", "device", "predict", "cohort"},  # a bundle predicts as masam predict does
    "ablation": STAGES
    | {
        "model",
        "weights",
        "card",
        "device",
        "predict",
        "cohort",
        "video_cohort",
        "train",
        "evaluation",
        "metrics",
        "manifest",
    },
    "demo": STAGES | {"model", "weights", "predict", "cohort", "train", "evaluation", "metrics", "manifest", "report"},
}
# The vocabulary has an order of its own; nothing in it imports what stands further right.
VOCABULARY_ORDER = ["errors", "atomic", "axes", "volume", "labels", "config", "reproducibility", "progress"]

MODEL_VOCABULARY = {"errors", "axes"}  # the model takes plain values: neither files nor settings

SOFT_LINES, HARD_LINES = 400, 600
CATCH_ALL = {
    "io/gate.py",  # the one border between libraries that read foreign bytes and our errors
    "cli/__init__.py",  # what nobody foresaw: our own bug, exit code 1
}

RUNS_CODE = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "input",
    "yaml.unsafe_load", "yaml.full_load", "yaml.load_all",
}  # fmt: skip
PICKLES = {"pickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}
SAFE_BY = {"torch.load": "weights_only", "np.load": "allow_pickle"}  # call: the argument that must be spelt out

LONG_FILES: dict[str, str] = {  # path: reason why it is better in one piece
    "predict.py": "one class: what it refuses, prepares and runs, with and without prompts",
}


def name_of(path):
    """Return the part of masam that a file belongs to."""
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path):
    """Yield the modules that a file imports, also inside functions, and in which line."""
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
    """Yield the parts of masam that a file imports; ``import masam`` (its version) is none."""
    for module, line in imports(path):
        if module.startswith("masam.") and module != "masam.__version__":
            yield module.split(".")[1], line


def test_imports_point_one_way():
    wrong = []
    for path in FILES:
        part = name_of(path)
        if part in DOORS or part == "__init__":
            continue
        allowed = ALLOWED.get(part)
        if allowed is None:
            wrong.append(f"{path.relative_to(ROOT)}: a new part; give it its place in ALLOWED")
            continue
        allowed = allowed | VOCABULARY | {part}
        wrong += [
            f"{path.relative_to(ROOT)}:{line}: {part} imports {other}"
            for other, line in ours(path)
            if other not in allowed
        ]
    assert not wrong, "\n".join(wrong)


def test_the_vocabulary_has_an_order():
    for path in (ROOT / f"{name}.py" for name in VOCABULARY_ORDER):
        before = VOCABULARY_ORDER[: VOCABULARY_ORDER.index(path.stem)]
        assert {other for other, _ in ours(path)} <= set(before), path.name


def test_the_contract_names_what_there_is():
    parts = {name_of(path) for path in FILES} - DOORS - {"__init__"}
    assert parts == set(ALLOWED), "a part has gone or come"
    assert set(VOCABULARY_ORDER) == VOCABULARY


def test_the_contract_has_no_circle():
    left = {part: set(allowed) - {part} for part, allowed in ALLOWED.items()}
    while left:
        free = {part for part, needs in left.items() if not needs & set(left)}
        assert free, f"a circle among {sorted(left)}"
        left = {part: needs for part, needs in left.items() if part not in free}


def test_stages_import_no_other_stage_but_by_leave():
    exceptions = {(part, other) for part in STAGES for other in ALLOWED[part] & STAGES}
    assert exceptions == {
        ("aggregate", "windows"), ("fingerprint", "preprocess"), ("plan", "fingerprint"), ("plan", "preprocess"),
        ("datasets", "io"), ("prompts", "preprocess"), ("prompts", "io"),
    }  # fmt: skip


def test_inside_preprocess_the_pipeline_alone_knows_the_steps():
    steps = {"orientation", "intensity", "crop", "resize"}
    for name in steps:
        others = {m for m, _ in imports(ROOT / "preprocess" / f"{name}.py") if m.startswith("masam.preprocess.")}
        assert not others, name


def test_data_sets_read_and_write_files_only_when_they_run():
    for path in (ROOT / "datasets").rglob("*.py"):
        at_start = {node.module for node in tree(path).body if isinstance(node, ast.ImportFrom)}
        assert not any(module.startswith("masam.io") for module in at_start), path.name


def test_the_model_takes_plain_values():
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


@pytest.mark.parametrize("part", ["evaluation", "report", "manifest", "metrics", "io", "published", "weights_cache"])
def test_what_needs_no_torch_imports_none(part):
    files = [path for path in FILES if name_of(path) == part]
    assert files
    for path in files:
        if path.relative_to(ROOT).as_posix() in ("io/tensors.py", "io/pytorch_file.py"):  # files of tensors
            continue
        found = {module.split(".")[0] for module, _ in imports(path)} | {other for other, _ in ours(path)}
        allowed = {"torch"} if part == "manifest" else set()  # it notes torch's version, if torch is in use
        assert not found & {"torch", "model", "weights", "predict"} - allowed, path.name


def start(code):
    """Run code in a fresh interpreter and return what it prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(
    "module",
    [
        *("masam", "masam.evaluation", "masam.report", "masam.plan", "masam.io.cases", "masam.io.nifti"),
        *("masam.weights_cache", "masam.cli"),
    ],
)
def test_it_starts_without_torch(module):
    heavy = ("torch", "matplotlib", "monai", "SimpleITK", "nilearn", "tensorboard", "pydicom", "highdicom")
    assert start(f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])") == "[]"


def test_public_names_come_when_they_are_used():
    code = "import masam; print(sorted(masam.__all__)); [getattr(masam, n) for n in masam.__all__]"
    names = start(code)
    for name in ("Predictor", "build_masam", "evaluate", "load", "load_reference"):
        assert repr(name) in names
    message = start("import masam\ntry:\n    masam.no_such_name\nexcept AttributeError as error:\n    print(error)\n")
    assert message == "module 'masam' has no attribute 'no_such_name'"


def test_files_fit_the_head():
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: n for name, n in lines.items() if n > HARD_LINES} == {}
    assert {name: n for name, n in lines.items() if n > SOFT_LINES and name not in LONG_FILES} == {}
    assert set(LONG_FILES) <= {name for name, n in lines.items() if n > SOFT_LINES}, "no longer long"


def test_there_are_no_drawers():
    drawers = {"util", "utils", "helper", "helpers", "common", "misc", "tools", "stuff"}
    assert not [path for path in FILES if drawers & set(path.relative_to(ROOT).with_suffix("").parts)]


def faults(path):
    """Yield what our code never does: run code from a file or a string, or hide an error."""
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


def test_nothing_unsafe_is_done():
    found = [f"{path.relative_to(ROOT)}:{line}: {what}" for path in FILES for line, what in faults(path)]
    assert not found, "\n".join(found)


def test_the_check_itself_finds_what_it_looks_for(tmp_path):
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

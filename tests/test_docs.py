"""The documentation compared with the code: links, commands, keys, signatures, examples."""

import ast
import inspect
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
import yaml
from pydantic_core import PydanticUndefined

import masam
from masam import errors
from masam.ablation.config import AblationConfig
from masam.augment import AugmentSettings
from masam.cli import app
from masam.io.nifti.file import write_volume
from masam.preprocess.intensity import Percentiles, Rgb, Window
from masam.preprocess.plan import PRESETS, Plan, Suggestion
from masam.pretraining.config import PretrainConfig
from masam.training.config import ModelSettings, TrainConfig
from masam.volume import Volume

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
DECISIONS = sorted((DOCS / "decisions").glob("*.md"))


def all_commands(group, prefix=""):
    """Return a mapping from names, such as ``weights get``, to the commands of a group and its subgroups."""
    found = {}
    for name, command in group.commands.items():
        words = f"{prefix}{name}"
        found |= all_commands(command, f"{words} ") if hasattr(command, "commands") else {words: command}
    return found


COMMANDS = all_commands(typer.main.get_command(app))
GROUPS = {name.split()[0] for name in COMMANDS if " " in name}
OPTIONS = {
    name: {word: option for option in command.params for word in option.opts if word.startswith("--")}
    for name, command in COMMANDS.items()
}
OPTIONS_OF_ALL = {"--help", "--version"}

PARAMETRISED_PAGES = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page, language):
    """Return the fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def prose(page):
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def sections(page, level=2):
    """Return a mapping from the headings of one level to the text up to the next heading of that level or above."""
    found, heading, is_code = {}, None, False
    for line in page.read_text("utf-8").splitlines(keepends=True):
        is_code ^= line.startswith("```")
        depth = 0 if is_code else len(line) - len(line.lstrip("#"))
        if 0 < depth <= level:
            heading = line.strip("# \n") if depth == level else None
            found |= {heading: ""} if heading else {}
        elif heading:
            found[heading] += line
    return found


def rows(text):
    """Return the cells of all table rows, without header rows and separators."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = [n for n, row in enumerate(cells) if set("".join(row)) <= {"-"}]
    return [row for n, row in enumerate(cells) if n not in rules and n + 1 not in rules]


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def split_command(words):
    """Return the name of a command, of one or two words, and its arguments."""
    length = 2 if " ".join(words[:2]) in COMMANDS else 1
    return " ".join(words[:length]), words[length:]


def commands_in(page):
    """Return the arguments of every ``masam`` command in the shell blocks of a page."""
    found = []
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r";\s*(?:do\s+)?", line):
                words = shlex.split(part, comments=True)
                if words[:1] == ["masam"]:
                    found.append(words[1:])
    return found


@PARAMETRISED_PAGES
def test_links_resolve(page):
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(linked), f"{target} has no such heading"


def test_every_page_is_in_the_index():
    linked = {
        (DOCS / target.split("#")[0]).resolve()
        for target in re.findall(r"\]\(([^)\s]+\.md)", prose(DOCS / "README.md"))
    }
    assert set(DOCS.rglob("*.md")) - {DOCS / "README.md"} <= linked


@PARAMETRISED_PAGES
def test_commands_exist(page):
    for words in commands_in(page):
        name, rest = split_command(words)
        assert name in COMMANDS, f"masam {name} does not exist"
        known = OPTIONS[name]
        given = {word.split("=")[0] for word in rest if word.startswith("--")}
        assert given <= known.keys() | OPTIONS_OF_ALL, f"masam {shlex.join(words)}"
        required = {option for option, parameter in known.items() if parameter.required}
        assert required <= given, f"masam {shlex.join(words)} lacks {required - given}"
        for key in [rest[n + 1].split("=")[0] for n, word in enumerate(rest) if word == "--set"]:
            group, _, inner = key.rpartition(".")
            model = {"": TrainConfig, "model": ModelSettings, "augmentation": AugmentSettings}[group]
            assert inner in model.model_fields, f"--set {key}"


@PARAMETRISED_PAGES
def test_prose_names_only_options_and_commands_that_exist(page):
    known = set().union(*OPTIONS.values()) | OPTIONS_OF_ALL
    for code in re.findall(r"`([^`]+)`", prose(page)):
        if re.match(r"(python|torchrun|tensorboard|pip|git)\b", code):
            continue
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", code)) <= known, code
        if command := re.match(r"masam ([a-z]+(?: [a-z]+)?)", code):
            assert split_command(command[1].split())[0] in COMMANDS.keys() | GROUPS, code


def test_command_line_page_has_every_option_with_its_default():
    found = sections(DOCS / "reference/command-line.md")
    assert set(found) == {f"masam {name}" for name in COMMANDS}
    examples = {split_command(words)[0] for words in commands_in(DOCS / "reference/command-line.md")}
    assert examples == set(COMMANDS), "examples"
    for name, options in OPTIONS.items():
        written = {row[0].strip("`"): row[1] for row in rows(found[f"masam {name}"])}
        expected = {word: default_cell(option) for word, option in options.items() if word != "--help"}
        assert written == expected, f"masam {name}"
        arguments = [p.name.upper() for p in COMMANDS[name].params if p.param_type_name == "argument"]
        assert all(f"`{argument}`" in found[f"masam {name}"] for argument in arguments), f"arguments of masam {name}"


def test_command_line_page_repeats_the_help_of_every_option():
    """A cell starts with the text of ``--help``; formats, choices and links may be added."""
    found = sections(DOCS / "reference/command-line.md")
    for name, options in OPTIONS.items():
        text = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", found[f"masam {name}"])
        written = {row[0].strip("`"): row[2] for row in rows(text)}
        for word, option in options.items():
            if word not in ("--help", "--max-epochs"):  # the latter refers to --epochs
                assert written[word].startswith(option.help), f"masam {name} {word}: expected {option.help}"


def default_cell(option):
    if option.required:
        return "required"
    if option.default is None or option.default is False:
        return {None: "-", False: "off"}[option.default]
    return f"`{option.default}`"


@pytest.mark.parametrize(
    ("level", "heading", "model"),
    [
        (2, "config.yaml", TrainConfig),
        (2, "config.yaml of masam pretrain", PretrainConfig),
        (3, "model", ModelSettings),
        (3, "augmentation", AugmentSettings),
        (2, "plan.yaml", Plan),
        (2, "ablation.yaml", AblationConfig),
        (3, "suggestion", Suggestion),
        (3, "intensity of kind window", Window),
        (3, "intensity of kind percentiles", Percentiles),
        (3, "intensity of kind rgb", Rgb),
    ],
)
def test_configuration_page_has_every_key_with_its_default(level, heading, model):
    text = sections(DOCS / "reference/configuration.md", level)[heading].split("\n### ")[0]
    written = {row[0].strip("`"): row[1].strip("`") for row in rows(text)}
    assert set(written) == set(model.model_fields)
    for key, field in model.model_fields.items():
        if field.default is PydanticUndefined:
            assert written[key] == "required", key
        elif key not in ("model", "augmentation"):
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            assert yaml.safe_load(written[key]) == default, key


def test_augmentation_page_has_the_papers_values():
    table = rows(sections(DOCS / "reference/configuration.md", 3)["augmentation"])
    written = {row[0].strip("`"): yaml.safe_load(row[2].strip("`")) for row in table if row[2]}
    plain, paper = AugmentSettings(), AugmentSettings(preset="paper")
    differing = [key for key in AugmentSettings.model_fields if getattr(plain, key) != getattr(paper, key)]
    values = {key: getattr(paper, key) for key in differing}
    assert written == {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def test_configuration_examples_are_valid(tmp_path):
    examples = blocks(DOCS / "reference/configuration.md", "yaml")
    kinds = {"# config.yaml": TrainConfig, "# plan.yaml": Plan, "# ablation.yaml": AblationConfig}
    assert {example.split(":")[0] for example in examples} == set(kinds)
    for example in examples:
        file = tmp_path / "example.yaml"
        file.write_text(example)
        kinds[example.split(":")[0]].from_yaml(file)


def test_configuration_page_has_every_preset():
    written = {row[0].strip("`"): row[1:3] for row in rows(sections(DOCS / "reference/configuration.md", 3)["Presets"])}
    assert written == {name: [one.modality, describe_intensity(one.intensity)] for name, one in PRESETS.items()}


def describe_intensity(rule):
    if isinstance(rule, Rgb):
        return f"{rule.kind} {rule.normalisation}"
    return f"{rule.kind} {rule.low:g} to {rule.high:g}"


def test_error_page_has_every_kind_with_its_exit_code():
    table = rows(sections(DOCS / "how-to/read-the-errors.md")["Kinds and exit codes"])
    written = {row[0].strip("`"): row[1] for row in table}
    faults = [kind for kind in errors.MasamError.__subclasses__() if kind.__module__ == errors.__name__]
    kinds = {kind.kind: str(kind.exit_code) for kind in faults if kind.kind != "STOPPED"}
    assert written == {"-": "0", "BUG": "1", "USAGE": "2", "STOPPED": "130, 143"} | kinds


def test_error_page_quotes_messages_of_the_code():
    texts = set()
    for source in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
                texts.add("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
    page = (DOCS / "how-to/read-the-errors.md").read_text("utf-8")
    for heading in re.findall(r"^\*\*(.*?)\*\*", page, re.DOTALL | re.MULTILINE):
        for quote in re.findall(r"`([^`]+)`", heading):
            # Numbers and ... stand for values that the message states.
            for part in re.split(r"\.\.\.|\d+", " ".join(quote.split())):
                assert any(part.strip() in text for text in texts), f"no message contains {part.strip()!r}"


def test_python_page_has_every_public_name_with_its_signature():
    found = sections(DOCS / "reference/python.md")
    assert {heading.removeprefix("masam.") for heading in found if heading.startswith("masam.")} == set(masam.__all__)
    for name in masam.__all__:
        signature = re.search(r"^```text\n(.*?)^```", found[f"masam.{name}"], re.DOTALL | re.MULTILINE)
        call = ast.parse(signature[1], mode="eval").body
        written = [argument.id for argument in call.args] + [keyword.arg for keyword in call.keywords]
        parameters = inspect.signature(getattr(masam, name)).parameters
        assert written == list(parameters), name
        for keyword in call.keywords:
            default, value = parameters[keyword.arg].default, ast.literal_eval(keyword.value)
            assert value in (default, ...), f"{name}: {keyword.arg}"
        required = [one.name for one in parameters.values() if one.default is inspect.Parameter.empty]
        assert required == [argument.id for argument in call.args], name
        assert "```python" in found[f"masam.{name}"], f"{name} has no example"


@pytest.fixture
def example_files(tmp_path, monkeypatch):
    """Create the files that the examples use: small weights, two folders of masks, and the labels of their data set."""
    golden = ROOT / "tests/golden"
    shutil.copy(golden / "sam_tiny_256.pth", tmp_path / "sam_vit_h_4b8939.pth")
    shutil.copy(golden / "masam_tiny_96_adapter.pth", tmp_path / "epoch_159.pth")
    mask = np.zeros((8, 8, 4), np.uint8)
    mask[2:6, 2:6, 1:3] = 1
    for folder in ("masks", "labelsTs"):
        write_volume(tmp_path / folder / "case.nii.gz", Volume(mask))
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1}}')
    # More threads do not speed up tensors this small, and slow down a busy machine.
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


def copy_exports(exports):
    """Copy exports to the names that the page on them uses."""
    shutil.copy(exports.torch, "spleen.pt2")
    shutil.copy(exports.onnx, "spleen.onnx")
    shutil.copytree(exports.bundle, "spleen_bundle")


@pytest.mark.usefixtures("example_files")
# monai.bundle.load warns about untrusted bundles.
@pytest.mark.filterwarnings("ignore:parsing config_file .*:UserWarning")
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page != ROOT / "README.md" and blocks(page, "python")],
    ids=lambda page: page.stem,
)
def test_python_examples_run(page, request):
    names = {"__name__": "__main__"}
    if page.stem == "export":
        copy_exports(request.getfixturevalue("exports"))
    for number, block in enumerate(blocks(page, "python"), start=1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)  # noqa: S102 - the page's own code


def test_glossary_is_sorted_and_links_to_code():
    table = rows((DOCS / "glossary.md").read_text("utf-8"))
    words = [row[0].casefold() for row in table]
    assert words == sorted(words)
    assert all("](../src/masam/" in row[2] for row in table)


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_decision_has_its_four_parts(page):
    assert list(sections(page)) == ["Context", "Choice", "What we gave up", "How to undo"]
    assert all(text.strip() for text in sections(page).values())
    number = int(page.name[:4])
    assert page.read_text("utf-8").startswith(f"# {number}. ")
    assert number == DECISIONS.index(page) + 1


def test_code_names_no_decision_that_is_not_there():
    known = {page.stem for page in DECISIONS}
    for source in (ROOT / "src").rglob("*.py"):
        assert set(re.findall(r"decisions/([\w-]+)\.md", source.read_text("utf-8"))) <= known, source


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_decision_names_existing_code_to_undo_it(page):
    code = "\n".join(
        file.read_text("utf-8") for folder in ("src", "tests", "benchmarks") for file in (ROOT / folder).rglob("*.py")
    )
    spans = re.findall(r"`([A-Za-z_][\w.]*)`", sections(page)["How to undo"])
    for name in {span.split(".")[-1] for span in spans} - {"py", "yaml"}:
        assert re.search(rf"\b{name}\b", code), f"{name} does not exist"

"""The rules of the source tree: which room may import which, how large folders and functions are, what is not named."""

import ast
import subprocess
import sys
from collections import Counter

import pytest

from tests.support.paths import ROOT

# A room may import the rooms beside it, and itself. "model" are the flat files of modeling_pir/, "commands" those of
# training/ but its config.py. Nothing that is not here may import anything of ours.
MAY_IMPORT = {
    "modeling_pir/cli": "names serve index archive exchange questions stores geo convert inference hub model errors",
    "modeling_pir/serve": "names index questions stores geo inference hub model errors",
    "modeling_pir/index": "exchange questions archive stores geo inference hub model errors",
    "modeling_pir/index/exchange": "stores geo errors",
    "modeling_pir/index/questions": "stores inference errors",
    "modeling_pir/index/archive": "stores geo inference",
    "modeling_pir/index/stores": "hub errors",
    "modeling_pir/geo": "inference hub model errors",
    "modeling_pir/inference": "hub model errors",
    "modeling_pir/convert": "inference hub model errors",
    "modeling_pir/hub": "model errors",
    "modeling_pir/model": "",
    "modeling_pir/names": "index questions inference model",
    "modeling_pir/errors": "",
    "training/benchmarks/search": "data evaluation",
    "training/benchmarks": "commands report run loop evaluation model data sample config",
    "training/commands": "report run loop evaluation model data sample config",
    "training/report": "run evaluation model data config",
    "training/run": "evaluation model data config",
    "training/evaluation": "data config",
    "training/model": "data config",
    "training/loop": "config",
    "training/data": "formats sample config",
    "training/data/formats": "",
    "training/data/sample": "",
    "training/config": "",
}
MODEL_FILES = {
    "captions_pir", "configuration_pir", "images_pir", "layers_pir", "loss_pir", "modeling_pir", "processing_pir",
    "towers_pir",
}  # fmt: skip
# numpy, tokenizers and huggingface_hub are what transformers itself needs, PIL what its image processors do
MODEL_IMPORTS = {"torch", "transformers", "huggingface_hub", "numpy", "tokenizers", "PIL", *sys.stdlib_module_names}
MAX_FILES, MAX_LINES, MAX_LOOP_LINES = 10, 60, 110

PACKAGE = sorted((ROOT / "modeling_pir").rglob("*.py"))
TRAINING = sorted((ROOT / "training").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FILES = PACKAGE + TRAINING
CODE = {path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__"): path for path in FILES}


def relative(path):
    return path.relative_to(ROOT).as_posix()


def room_of(module):
    """The room of a module that is written with slashes."""
    if module in ("modeling_pir/errors", "training/config"):
        return module
    if module == "modeling_pir":  # the names that the package hands on
        return "modeling_pir/names"
    if CODE[module].name == "__init__.py" and module not in ("modeling_pir", "training"):
        return module
    folder = module.rpartition("/")[0] or module
    return {"modeling_pir": "modeling_pir/model", "training": "training/commands"}.get(folder, folder)


def import_nodes(tree, at_import=False):
    """Every import of a file; `at_import`: only those that importing the file runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        elif at_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        else:
            yield from import_nodes(node, at_import)


def imported(path, at_import=False):
    """Modules of ours that a file imports, written with slashes."""
    package = [*path.relative_to(ROOT).parent.parts]
    for node in import_nodes(ast.parse(path.read_text()), at_import):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            inner = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name.replace(".", "/") in CODE else base for name in inner]
        for name in names:
            if (module := name.replace(".", "/")) in CODE:
                yield module


def room_arrows():
    """(from file, from room, to room) of every import between two rooms."""
    for module, path in CODE.items():
        for target in imported(path):
            if room_of(module) != room_of(target):
                yield relative(path), room_of(module), room_of(target)


def test_imports_run_in_the_direction_of_the_table():
    wrong = []
    for name, room, target in room_arrows():
        package = room.split("/")[0]
        if target.split("/")[0] != package:
            allowed = package == "training"
        else:
            allowed = target.rpartition("/")[2] in MAY_IMPORT[room].split()
        if not allowed:
            wrong.append(f"{name} ({room}) imports {target}")
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_every_command_does_something_when_it_is_run_as_a_module():
    commands = [path for path in FILES if "\ndef main(" in path.read_text() and path.parent.name != "cli"]
    assert len(commands) > 10
    assert [relative(path) for path in commands if '__name__ == "__main__"' not in path.read_text()] == []


def test_every_room_is_in_the_table():
    assert {room_of(module) for module in CODE} == set(MAY_IMPORT)


def circle(arrows):
    """The files of all circles and those between two circles; nothing where there is none."""
    left = {module: {target for target in targets if target != module} for module, targets in arrows.items()}
    while True:
        wanted = set().union(*left.values())
        ends = [module for module, targets in left.items() if not targets & left.keys() or module not in wanted]
        if not ends:
            return sorted(left)
        for module in ends:
            del left[module]


def test_no_files_import_each_other_in_a_circle():
    arrows = {module: set(imported(path)) for module, path in CODE.items()}
    for targets in arrows.values():  # what hands names on when they are asked for ties nobody
        targets.discard("modeling_pir")
    assert not circle(arrows), "in a circle, or importing one: " + ", ".join(circle(arrows))


def test_no_folder_holds_more_files_than_a_reader_keeps_in_mind():
    counts = Counter(relative(path.parent) for path in FILES if path.name != "__init__.py")
    assert {folder: count for folder, count in counts.items() if count > MAX_FILES} == {}


@pytest.mark.parametrize("name", sorted(MODEL_FILES))
def test_model_files_import_nothing_but_torch_transformers_and_each_other(name):
    """They are copied to the Hub flat: any other import becomes a requirement of every user."""
    for node in import_nodes(ast.parse((ROOT / "modeling_pir" / f"{name}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:  # `from . import x` is lost when files are copied
            assert node.level == 1 and node.module in MODEL_FILES, f"{name}.py: {ast.unparse(node)}"
        else:
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert all(module.split(".")[0] in MODEL_IMPORTS for module in modules), f"{name}.py: {ast.unparse(node)}"


@pytest.mark.parametrize("path", PACKAGE, ids=relative)
def test_the_package_imports_itself_by_relative_names(path):
    for node in import_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module.split(".")[0] not in {"modeling_pir", "training", "tests"}, ast.unparse(node)


@pytest.mark.parametrize("path", TRAINING, ids=relative)
def test_training_imports_by_absolute_names_and_no_test(path):
    for node in import_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level and node.module.split(".")[0] != "tests", ast.unparse(node)


def length(function):
    """Lines of a function without its docstring, decorators and signature: what a reader has to hold in mind."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", [*PACKAGE, *TRAINING, *TESTS], ids=relative)
def test_no_function_is_longer_than_a_screen(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            is_loop = relative(path) == "training/train.py" and node.name == "train"
            limit = MAX_LOOP_LINES if is_loop else MAX_LINES
            assert length(node) <= limit, f"{relative(path)}: {node.name} has {length(node)} lines, at most {limit}"


def tracked_files():
    """Files of the repository and those about to be, with their text; binary ones are left out."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        try:
            yield name, (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError):
            continue


def test_nothing_names_a_place_outside_the_repository():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: there is no list of files")
    outside = "../" + "shared"
    named = {name for name, text in tracked_files() if outside in text}
    assert named <= {".ci/run"}

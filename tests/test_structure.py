"""The rules of the source tree: which way imports point, how long functions are, and what must not be named."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODEL_FILES = {"configuration_pir", "layers_pir", "modeling_pir", "loss_pir", "processing_pir"}
MODEL_IMPORTS = {"torch", "transformers", "huggingface_hub", *sys.stdlib_module_names}
PACKAGE = sorted((ROOT / "modeling_pir").glob("*.py"))
TRAINING = sorted((ROOT / "training").glob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_LINES, MAX_LOOP_LINES = 60, 110


def relative(path):
    return path.relative_to(ROOT).as_posix()


def imports(path):
    """Every import anywhere in a file: (dots in front, module, names)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module, [alias.name for alias in node.names]


@pytest.mark.parametrize("name", sorted(MODEL_FILES))
def test_model_files_import_nothing_but_torch_transformers_and_each_other(name):
    """They are copied to the Hub flat: any other import becomes a requirement of every user."""
    for level, module, _ in imports(ROOT / "modeling_pir" / f"{name}.py"):
        if level:
            assert level == 1 and module in MODEL_FILES, f"{name}.py imports {'.' * level}{module or ''}"
        else:
            assert module.split(".")[0] in MODEL_IMPORTS, f"{name}.py imports {module}"


@pytest.mark.parametrize("path", PACKAGE, ids=relative)
def test_the_package_imports_itself_by_file_and_no_other_part(path):
    for level, module, names in imports(path):
        if level:  # `from . import x` and deeper folders are lost when files are copied to the Hub
            assert level == 1 and module and "." not in module, f"{relative(path)} imports {names} by a folder"
        else:
            assert module.split(".")[0] not in {"modeling_pir", "training", "tests"}, f"{relative(path)}: {module}"


@pytest.mark.parametrize("path", TRAINING, ids=relative)
def test_training_imports_absolutely_and_no_test(path):
    for level, module, _ in imports(path):
        assert level == 0 and module.split(".")[0] != "tests", f"{relative(path)} imports {'.' * level}{module}"


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

import subprocess
import sys

import pytest

import modeling_pir

LOAD_AND_PICKLE = """
import pickle, sys
from transformers import AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor

for auto in (AutoModel, AutoModelForZeroShotImageClassification):
    model = auto.from_pretrained(sys.argv[1])
    assert type(model).__module__ == "modeling_pir.modeling_pir", type(model)
assert type(AutoProcessor.from_pretrained(sys.argv[1])).__name__ == "PIRProcessor"
assert type(pickle.loads(pickle.dumps(model.config))) is type(model.config)
"""


def run_fresh(script, *arguments):
    """Output of a script in a process of its own."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("before", ["", "import transformers", "import modeling_pir.layers_pir"])
@pytest.mark.parametrize("name", [name for name in modeling_pir.__all__ if name not in modeling_pir.PLACES])
def test_using_any_name_of_the_model_registers_with_the_auto_classes(
    tmp_path, tiny_model, tiny_processor, name, before
):
    tiny_model.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    run_fresh(f"{before}\nfrom modeling_pir import {name}\n{LOAD_AND_PICKLE}", tmp_path)


def test_the_package_and_its_commands_import_no_torch():
    script = """
import sys
import modeling_pir, modeling_pir.cli.main, modeling_pir.index
print({"torch", "transformers"} & set(sys.modules))
"""
    assert run_fresh(script).strip() == "set()"


def test_names_of_the_package_are_those_it_lists():
    for name in modeling_pir.__all__:
        assert getattr(modeling_pir, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'PIRNothing'"):
        _ = modeling_pir.PIRNothing

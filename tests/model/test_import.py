import subprocess
import sys

import pytest

import modeling_pir

LOAD_AND_PICKLE = """
def load_and_pickle(folder):
    import pickle
    from transformers import AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor

    for auto in (AutoModel, AutoModelForZeroShotImageClassification):
        model = auto.from_pretrained(folder)
        assert type(model).__module__ == "modeling_pir.modeling_pir", type(model)
    assert type(AutoProcessor.from_pretrained(folder)).__name__ == "PIRProcessor"
    assert type(pickle.loads(pickle.dumps(model.config))) is type(model.config)
"""
# transformers takes seconds to import: the children of one process share it, and nothing else.
EACH_NAME_IN_A_CHILD = """
import os, sys
import transformers
import transformers.masking_utils, transformers.modeling_layers
from transformers import AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor, PreTrainedModel

folder, *names = sys.argv[1:]
for name in names:
    child = os.fork()
    if child == 0:
        exec(f"from modeling_pir import {name}")
        load_and_pickle(folder)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
before = {name.partition(".")[0] for name in sys.modules}
from modeling_pir import PIRModel, PIRProcessor
print(sorted({name.partition(".")[0] for name in sys.modules} - before))
"""


def run_fresh(script, *arguments):
    """Output of a script in a process of its own."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_using_any_name_registers_and_imports_nothing_that_transformers_has_not(model_folder):
    printed = run_fresh(LOAD_AND_PICKLE + EACH_NAME_IN_A_CHILD, model_folder, *modeling_pir.__all__)
    assert printed.splitlines()[-1] == "['modeling_pir']"


@pytest.mark.parametrize("before", ["", "import modeling_pir.layers_pir"])
def test_it_registers_whatever_was_imported_before(model_folder, before):
    script = (
        f"{LOAD_AND_PICKLE}\n{before}\nfrom modeling_pir import PIRConfig\nimport sys\nload_and_pickle(sys.argv[1])"
    )
    run_fresh(script, model_folder)


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

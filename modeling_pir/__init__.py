"""PIR (Prior Instruction Representation): remote-sensing image-text retrieval for transformers.

Importing the package costs nothing: torch and transformers, which take seconds, are imported when one of the names
below is first used, or the program imports transformers itself. So `pir index` on an unchanged archive needs neither.
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .auto_classes import PIRConfig, PIRModel, PIROutput, PIRPreTrainedModel, PIRProcessor

__version__ = "0.1.0"

__all__ = ["PIRConfig", "PIRModel", "PIROutput", "PIRPreTrainedModel", "PIRProcessor"]

_MODEL_FILES = ("configuration_pir", "layers_pir", "loss_pir", "modeling_pir", "processing_pir")


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module(f"{__name__}.auto_classes"), name)
    if name in _MODEL_FILES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _RegisterAfterImport(MetaPathFinder):
    """Registers PIR as soon as transformers is imported, by whomever: `AutoModel.from_pretrained` has to know it.

    The model's files import transformers too, and cannot be imported a second time from within: where one of them comes
    first, registration waits for its end.
    """

    def __init__(self) -> None:
        self.watched = {"transformers", *(f"{__name__}.{name}" for name in _MODEL_FILES)}
        self.depth = 0  # of watched modules that are being imported

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """What the other finders say of a watched module, with registration after its import."""
        if name not in self.watched:
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next((spec for finder in others if (spec := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                self.depth += 1
                try:
                    execute(module)
                finally:
                    self.depth -= 1
                if not self.depth and self in sys.meta_path:
                    sys.meta_path.remove(self)
                    import_module(f"{__name__}.auto_classes")

            spec.loader.exec_module = execute_and_register
        return spec


if "transformers" in sys.modules:
    import_module(f"{__name__}.auto_classes")
else:
    sys.meta_path.insert(0, _RegisterAfterImport())

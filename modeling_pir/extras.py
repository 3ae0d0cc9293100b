"""Optional packages: the package, or one sentence that says which extra of this one brings it."""

from importlib import import_module
from types import ModuleType


def need(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: its name, dotted for a part of it, such as "rasterio.warp".
        extra: the extra of modeling-pir that brings it.
        purpose: what needs it, with its verb: "Georeferenced scenes need".

    Returns:
        The module that is named.

    Raises:
        ImportError: it is not installed; the sentence says how to.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{purpose} {package}: pip install 'modeling-pir[{extra}]'.") from error

"""PIR (Prior Instruction Representation): remote-sensing image-text retrieval for transformers.

Importing the package costs nothing: torch and transformers, which take seconds, are imported when one of the names
below is first used. That also registers PIR with the Auto classes of transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .auto_classes import (
        PIRConfig,
        PIRModel,
        PIROutput,
        PIRPreTrainedModel,
        PIRProcessor,
        PIRTextConfig,
        PIRTextModelWithProjection,
        PIRVisionConfig,
        PIRVisionModelWithProjection,
    )

__version__ = "0.1.0"

__all__ = [
    "PIRConfig",
    "PIRModel",
    "PIROutput",
    "PIRPreTrainedModel",
    "PIRProcessor",
    "PIRTextConfig",
    "PIRTextModelWithProjection",
    "PIRVisionConfig",
    "PIRVisionModelWithProjection",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module(f"{__name__}.auto_classes"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

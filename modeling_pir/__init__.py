"""PIR (Prior Instruction Representation): remote-sensing image-text retrieval for transformers.

Importing the package costs nothing: torch and transformers, which take seconds, are imported when one of its names is
first used. That also registers PIR with the Auto classes of transformers.
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
    from .index.pir_index import PIRIndex
    from .index.questions.query import Query
    from .inference.encoder import Encoder, load_encoder

__version__ = "0.1.0"

__all__ = [
    "Encoder",
    "PIRConfig",
    "PIRIndex",
    "PIRModel",
    "PIROutput",
    "PIRPreTrainedModel",
    "PIRProcessor",
    "PIRTextConfig",
    "PIRTextModelWithProjection",
    "PIRVisionConfig",
    "PIRVisionModelWithProjection",
    "Query",
    "load_encoder",
]
PLACES = {  # of the names that are not the model's
    "Encoder": "inference.encoder",
    "PIRIndex": "index.pir_index",
    "Query": "index.questions.query",
    "load_encoder": "inference.encoder",
}


def __getattr__(name: str) -> object:
    if name in __all__:
        auto_classes = import_module(f"{__name__}.auto_classes")  # registers, whichever name it is
        return getattr(import_module(f"{__name__}.{PLACES[name]}") if name in PLACES else auto_classes, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Register PIR with the Auto classes of transformers, as a side effect of importing this file."""

from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor

from .configuration_pir import PIRConfig, PIRTextConfig, PIRVisionConfig
from .modeling_pir import PIRModel, PIROutput, PIRPreTrainedModel
from .processing_pir import PIRProcessor
from .towers_pir import PIRTextModelWithProjection, PIRVisionModelWithProjection

AutoConfig.register("pir", PIRConfig)
AutoModel.register(PIRConfig, PIRModel)
AutoModelForZeroShotImageClassification.register(PIRConfig, PIRModel)
for config_class, model_class in (
    (PIRTextConfig, PIRTextModelWithProjection),
    (PIRVisionConfig, PIRVisionModelWithProjection),
):
    AutoConfig.register(config_class.model_type, config_class)
    AutoModel.register(config_class, model_class)
for config_class in (PIRConfig, PIRTextConfig, PIRVisionConfig):
    AutoProcessor.register(config_class, PIRProcessor)

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

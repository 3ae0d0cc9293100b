"""PIR (Prior Instruction Representation): remote-sensing image-text retrieval for transformers."""

from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor

from .configuration_pir import PIRConfig
from .modeling_pir import PIRModel, PIROutput, PIRPreTrainedModel
from .processing_pir import PIRProcessor

AutoConfig.register("pir", PIRConfig)
AutoModel.register(PIRConfig, PIRModel)
AutoModelForZeroShotImageClassification.register(PIRConfig, PIRModel)
AutoProcessor.register(PIRConfig, PIRProcessor)

__version__ = "0.1.0"

__all__ = ["PIRConfig", "PIRModel", "PIROutput", "PIRPreTrainedModel", "PIRProcessor"]

"""Registers PIR with the Auto classes of transformers; importing this file is what does it."""

from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor

from .configuration_pir import PIRConfig
from .modeling_pir import PIRModel, PIROutput, PIRPreTrainedModel
from .processing_pir import PIRProcessor

AutoConfig.register("pir", PIRConfig)


AutoModel.register(PIRConfig, PIRModel)


AutoModelForZeroShotImageClassification.register(PIRConfig, PIRModel)


AutoProcessor.register(PIRConfig, PIRProcessor)


__all__ = ["PIRConfig", "PIRModel", "PIROutput", "PIRPreTrainedModel", "PIRProcessor"]

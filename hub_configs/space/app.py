"""The search page as a Space: the variables PIR_MODEL and PIR_INDEX name the model and the index."""

import os

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.index import PIRIndex
from modeling_pir.page import launch

model = PIRModel.from_pretrained(os.environ["PIR_MODEL"])
processor = PIRProcessor.from_pretrained(os.environ["PIR_MODEL"])
index = PIRIndex.open(os.environ.get("PIR_INDEX", "index"), model, processor)
launch(index, model, processor, host="0.0.0.0", port=7860)

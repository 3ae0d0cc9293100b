"""The search page as a Space: indexes the folder `images` when it starts for the first time, then serves the page."""

import os

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.demo.page import launch
from modeling_pir.index.pir_index import PIRIndex

model = PIRModel.from_pretrained(os.environ["PIR_MODEL"])
processor = PIRProcessor.from_pretrained(os.environ["PIR_MODEL"])
if os.path.exists("index.lance"):
    index = PIRIndex.open("index.lance", model, processor)
else:
    index = PIRIndex.create("index.lance", model, processor)
index.update("images", progress=True)
launch(index, model, processor, host="0.0.0.0", port=7860)

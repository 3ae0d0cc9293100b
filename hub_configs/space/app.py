"""The search page as a Space: indexes the folder `images` when it starts for the first time, then serves the page."""

import os

from modeling_pir.demo.page import launch
from modeling_pir.index.pir_index import PIRIndex
from modeling_pir.inference.encoder import load_encoder

encoder = load_encoder(os.environ["PIR_MODEL"])
open_index = PIRIndex.open if os.path.exists("index.lance") else PIRIndex.create
index = open_index("index.lance", encoder)
index.update("images", progress=True)
launch(index, host="0.0.0.0", port=7860)

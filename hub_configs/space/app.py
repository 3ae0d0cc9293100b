"""The search page as a Space: indexes the folder `images` when it starts for the first time, then serves the page."""

import os

from modeling_pir.index.pir_index import PIRIndex
from modeling_pir.inference.encoder import load_encoder
from modeling_pir.serve.access import Access
from modeling_pir.serve.launch import launch, take_port

taken = take_port("0.0.0.0", int(os.environ.get("PORT", "7860")))  # `app_port` of README.md
encoder = load_encoder(os.environ["PIR_MODEL"])
open_index = PIRIndex.open if os.path.exists("index.lance") else PIRIndex.create
index = open_index("index.lance", encoder)
index.update("images", progress=True)
# Who may see a Space is a setting of its own; it has a name of the Hub's, and is shown inside a page of the Hub.
launch(index, taken, Access(hosts=(), frames=("https://huggingface.co",)), name=os.environ.get("SPACE_TITLE", "images"))

"""A machine with nothing but torch and transformers loads a model by id; run by test_hub_round_trip on its own.

    python -I hub_stranger.py REPO INPUTS.json OUT.json [REVISION]

Without a revision it only loads the model and embeds, which is what works offline, too.
"""

import importlib.machinery
import json
import sys

HIDDEN = {"modeling_pir", "training", "timm", "datasets", "accelerate", "matplotlib", "pandas", "peft", "evaluate"}


class HidingFinder(importlib.machinery.PathFinder):
    """Finds what is installed, but not what is hidden: for an import and for a look whether it is there."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname.split(".")[0] in HIDDEN:
            return None
        return super().find_spec(fullname, path, target)


sys.meta_path = [HidingFinder if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]

import torch  # noqa: E402
from huggingface_hub import constants  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoModel, AutoProcessor, pipeline  # noqa: E402

constants.DOWNLOAD_CHUNK_SIZE = 1024  # the model is so small that it would be one chunk, and could not be resumed


def embed(repo, images, texts, **kwargs):
    """Model and unit vectors, the model loaded by id."""
    model = AutoModel.from_pretrained(repo, trust_remote_code=True, **kwargs)
    processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True, **kwargs)
    with torch.inference_mode():
        output = model(**processor(images=images, text=texts, return_tensors="pt"))
    return model, {"images": output.image_embeds.tolist(), "texts": output.text_embeds.tolist()}


def main(repo, inputs, output, revision=None):
    given = json.loads(open(inputs).read())
    images = [Image.open(path).convert("RGB") for path in given["images"]]
    model, embeds = embed(repo, images, given["texts"])
    result = {"class": f"{type(model).__module__}.{type(model).__name__}", "main": embeds}
    if revision is not None:
        result["revision"] = embed(repo, images, given["texts"], revision=revision)[1]
        classify = pipeline("zero-shot-image-classification", model=repo, trust_remote_code=True)
        result["classes"] = classify(images[0], candidate_labels=given["labels"], hypothesis_template="a {} scene")
    result["hidden_but_imported"] = sorted(HIDDEN & set(sys.modules))
    if revision is not None:
        HIDDEN.difference_update({"datasets", "accelerate", "pandas", "peft"})  # what sentence-transformers builds on
        from sentence_transformers import SentenceTransformer

        searcher = SentenceTransformer(repo, trust_remote_code=True)
        result["sentence_transformers"] = {
            "images": searcher.encode(images).tolist(),
            "texts": searcher.encode(given["texts"]).tolist(),
        }
    with open(output, "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main(*sys.argv[1:])

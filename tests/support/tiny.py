"""A PIR of about 45,000 weights, its vocabulary, and the scenes and captions that the tests draw."""

import json
import string

import numpy as np
from PIL import Image, ImageDraw

from modeling_pir import PIRConfig

IMAGE_SIZE = 32  # pixels
SCENES = ("airport", "forest", "harbor", "parking")
COLORS = {"airport": "gray", "forest": "green", "harbor": "blue", "parking": "orange"}
WORDS = "a an the of is are in on by with two three four many some image scene overhead square large small next to"


def tiny_vocabulary():
    """Specials, the words of the captions, and every letter and digit as a piece, so that no text is unknown."""
    characters = string.ascii_lowercase + string.digits
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split(), *SCENES, *COLORS.values(), *".,-/"]
    pieces += [*characters, *(f"##{character}" for character in characters)]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def draw_scene(scene, number):
    """An RGB image of 48 x 40 pixels: `number` squares in the scene's colour on noise that belongs to the pair."""
    generator = np.random.default_rng([SCENES.index(scene), number])
    image = Image.fromarray(generator.integers(90, 130, (40, 48, 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    for x, y in generator.integers(0, 30, (number, 2)):
        draw.rectangle([int(x), int(y), int(x) + 9, int(y) + 9], fill=COLORS[scene])
    return image


def captions_of(scene, number):
    """Five captions of `draw_scene(scene, number)`; none is shared with another scene or number."""
    count = ("a", "two", "three", "four")[number - 1] if number <= 4 else str(number)
    color = COLORS[scene]
    return [
        f"{count} {color} square in the {scene} .",
        f"the {scene} with {count} {color} square .",
        f"an overhead image of the {scene} and {count} {color} square on it .",
        f"{count} large square , {color} , by the {scene} .",
        f"scene of {scene} next to {count} {color} square .",
    ]


def write_tiny_dataset(root):
    """Folder of an imagefolder data set: train, validation and test with 4 images of 4 scenes and 5 captions each."""
    for offset, split in enumerate(("train", "validation", "test")):
        folder = root / split
        folder.mkdir(parents=True)
        rows = []
        for index, scene in enumerate(SCENES):
            number = 1 + (index + offset) % len(SCENES)  # no image is in two splits
            name = f"{scene}_{number}.png"
            draw_scene(scene, number).save(folder / name)
            rows.append({"file_name": name, "captions": captions_of(scene, number), "scene": scene})
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def build_tiny_config(**overrides):
    """A fresh configuration: 64 + 1 image tokens of which 40 are kept, width 16, two heads."""
    fields = {
        "vision_config": {
            "model_type": "swin",
            "image_size": IMAGE_SIZE,
            "patch_size": 2,
            "embed_dim": 8,
            "depths": [1, 2],
            "num_heads": [1, 2],
            "window_size": 4,
        },
        "text_config": {
            "model_type": "bert",
            "vocab_size": len(tiny_vocabulary()),
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 64,
        },
        "instruction_config": {
            "model_type": "resnet",
            "layer_type": "basic",
            "embedding_size": 8,
            "hidden_sizes": [8, 8],
            "depths": [1, 1],
        },
        "projection_dim": 16,
        "num_attention_heads": 2,
        "feedforward_dim": 32,
        "filter_size": 40,
    }
    return PIRConfig(**fields | overrides)


def model_fields(config):
    """What a run's YAML says of a model, from its configuration."""
    towers = ("vision_config", "text_config", "instruction_config")
    fields = config.to_diff_dict()
    return {key: fields[key] for key in (*towers, "projection_dim", "num_attention_heads", "feedforward_dim")}

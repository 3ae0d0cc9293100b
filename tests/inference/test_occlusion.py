"""What a query loses when parts of an image are covered."""

import numpy as np
import torch
from PIL import Image

from modeling_pir.inference.encoder import Encoder
from modeling_pir.inference.occlusion import occlusion_map


class RednessEncoder(Encoder):
    """An image's embedding says how much of it is red."""

    family = "test"

    def encode_images(self, images):
        red = [(np.asarray(image)[..., 0] > 200).mean() for image in images]
        return torch.tensor([[share, 1.0] for share in red])

    def encode_texts(self, texts):
        return torch.tensor([[1.0, 0.0]] * len(texts))


def test_the_piece_that_the_query_is_about_stands_out():
    image = Image.new("RGB", (40, 30), "black")
    image.paste("red", (30, 0, 40, 10))
    model = torch.nn.Identity()
    model.device = torch.device("cpu")
    found = occlusion_map(RednessEncoder(model), image, np.array([1.0, 0.0]), cells=4)
    assert found.shape == (4, 4) and found.argmax() == 3 and found[0, 3] > 0
    np.testing.assert_allclose(np.delete(found.ravel(), [3, 7]), 0, atol=1e-6)

"""Recall of image-text retrieval for `evaluate`: how often the right one is among the first k, both ways."""

import datasets
import evaluate
import numpy as np
import torch

from .metrics import retrieval_metrics

_DESCRIPTION = """
Recall at k of image-text retrieval, both ways, and their mean, in percent. An image is answered by any of its texts, a
text by its own image; a wrong candidate that scores as high as the right one is ranked before it.
"""

_INPUTS = """
Args:
    predictions: (texts, images), the similarity of each text with every image; any scale, higher is closer
        (`logits_per_text` of a dual encoder).
    references: (texts,), the column of the image each text describes; every image needs a text.
    ks: places that count, (1, 5, 10).
Returns:
    i2t_R@k and t2i_R@k for every k, and mR, the mean of them all; percent.
Examples:
    >>> recall = evaluate.load("retrieval_recall")
    >>> recall.compute(predictions=[[0.9, 0.1], [0.2, 0.8]], references=[0, 1])["mR"]
    100.0
"""

_CITATION = ""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class RetrievalRecall(evaluate.Metric):
    """The metric; one row of the predictions is one text, so rows can be added in batches."""

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.Sequence(datasets.Value("float32")),
            "references": datasets.Value("int64"),
        }
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
        )

    def _compute(
        self, predictions: list[list[float]], references: list[int], ks: tuple[int, ...] = (1, 5, 10)
    ) -> dict[str, float]:
        similarity = torch.from_numpy(np.asarray(predictions, dtype=np.float32)).T  # (images, texts)
        return retrieval_metrics(similarity, torch.tensor(references), ks)

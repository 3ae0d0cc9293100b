"""Caption retrieval on RSICD and UCM-Captions as mteb tasks.

    import mteb
    from training.evaluation.mteb_tasks import RSICDI2TRetrieval, RSICDT2IRetrieval, load_mteb_encoder

    mteb.evaluate(load_mteb_encoder("FOLDER"), [RSICDT2IRetrieval(), RSICDI2TRetrieval()])

`hit_rate_at_k` is what the field calls recall at k: the share of queries with a right answer among the first k. (mteb's
own `recall_at_k` is the share of an image's captions among them.) Equal sentences of two images score the same; mteb
orders them by identifier, `strict_hit_rate_at_k` puts the wrong one first, as `training.evaluation.metrics` does.
"""

from typing import Any

from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from training.data.rows import fingerprint
from training.data.sources import load_image_captions
from training.evaluation.metrics import TIE_TOLERANCE
from training.evaluation.mteb_model import load_mteb_encoder

RSICD_CITATION = r"""
@article{lu2018exploring,
  author = {Lu, Xiaoqiang and Wang, Binqiang and Zheng, Xiangtao and Li, Xuelong},
  doi = {10.1109/TGRS.2017.2776321},
  journal = {IEEE Transactions on Geoscience and Remote Sensing},
  number = {4},
  pages = {2183--2195},
  title = {Exploring Models and Data for Remote Sensing Image Caption Generation},
  volume = {56},
  year = {2018},
}
"""
UCM_CITATION = r"""
@inproceedings{qu2016deep,
  author = {Qu, Bo and Li, Xuelong and Tao, Dacheng and Lu, Xiaoqiang},
  booktitle = {International Conference on Computer, Information and Telecommunication Systems (CITS)},
  doi = {10.1109/CITS.2016.7546397},
  title = {Deep Semantic Understanding of High Resolution Remote Sensing Image},
  year = {2016},
}
"""
SHARED = {
    "type": "Any2AnyRetrieval",
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
    "main_score": "hit_rate_at_1",
    "domains": ["Scene", "Written"],
    "task_subtypes": ["Image Text Retrieval"],
    "license": "not specified",
    "annotations_creators": "human-annotated",
    "dialect": [],
    "modalities": ["text", "image"],
    "sample_creation": "found",
}
TO_IMAGE = SHARED | {"category": "t2i", "prompt": {"query": "Find an overhead image that matches the given caption."}}
TO_TEXT = SHARED | {"category": "i2t", "prompt": {"query": "Find a caption that describes the given overhead image."}}
RSICD = {
    "reference": "https://doi.org/10.1109/TGRS.2017.2776321",
    "dataset": {"path": "arampacha/rsicd", "revision": "main"},  # of the Hub; a folder is named by its content
    "date": ("2017-01-01", "2017-12-31"),
    "bibtex_citation": RSICD_CITATION,
}
UCM = {
    "reference": "https://doi.org/10.1109/CITS.2016.7546397",
    "dataset": {"path": "ucm-captions", "revision": "main"},  # not on the Hub: give a folder
    "date": ("2010-01-01", "2016-12-31"),
    "bibtex_citation": UCM_CITATION,
}


class CaptionedImageRetrieval(AbsTaskRetrieval):
    """Retrieval among captioned images: every caption is a query or a document of its own, also where two are equal.

    Args:
        source: where the images are, a folder or what else `load_image_captions` takes; None for the data set on the
            Hub that the task names.
        kwargs: passed on to mteb.
    """

    k_values = (1, 3, 5, 10, 20, 100)

    def __init__(self, source: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source or self.metadata.dataset["path"]

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Load the test split; where a folder was given, the fingerprint of what it holds becomes the data's revision.

        Raises:
            ValueError: see `load_image_captions`.
        """
        if self.data_loaded:
            return
        rows = load_image_captions(self.source, "test")
        if self.source != self.metadata.dataset["path"]:
            dataset = self.metadata.dataset | {"revision": fingerprint(rows)}
            self.metadata = self.metadata.model_copy(update={"dataset": dataset})
        image_ids = [f"image-{index}" for index in range(len(rows))]
        captions = list(zip(image_ids, rows["captions"], strict=True))
        texts_of = {image: [f"{image}-{place}" for place in range(len(texts))] for image, texts in captions}
        texts = Dataset.from_dict(
            {
                "id": [text_id for text_ids in texts_of.values() for text_id in text_ids],
                "text": [text for _, texts in captions for text in texts],
            }
        )
        images = rows.select_columns(["image"]).add_column("id", image_ids)
        if self.metadata.category == "t2i":
            relevant = {text_id: {image: 1} for image, text_ids in texts_of.items() for text_id in text_ids}
            split = {"queries": texts, "corpus": images, "relevant_docs": relevant}
        else:
            relevant = {image: dict.fromkeys(text_ids, 1) for image, text_ids in texts_of.items()}
            split = {"queries": images, "corpus": texts, "relevant_docs": relevant}
        self.dataset = {"default": {"test": split | {"top_ranked": None}}}
        self.data_loaded = True

    def task_specific_scores(
        self,
        scores: dict[str, dict[str, float]],
        qrels: dict[str, dict[str, int]],
        results: dict[str, dict[str, float]],
        hf_split: str,
        hf_subset: str,
    ) -> dict[str, float]:
        """`strict_hit_rate_at_k`: the hit rate with the wrong one in front where a right and a wrong answer tie."""
        ranks = []
        for query, similarities in results.items():
            own = [similarity for answer, similarity in similarities.items() if answer in qrels[query]]
            wrong = [similarity for answer, similarity in similarities.items() if answer not in qrels[query]]
            # mteb keeps as many answers as the largest k: a query without a right one among them is a miss at every k.
            rank = sum(other >= max(own) - TIE_TOLERANCE for other in wrong) if own else max(self.k_values)
            ranks.append(rank)
        return {f"strict_hit_rate_at_{k}": sum(rank < k for rank in ranks) / len(ranks) for k in (1, 5, 10)}


class RSICDT2IRetrieval(CaptionedImageRetrieval):
    """A caption of RSICD finds its image."""

    metadata = TaskMetadata(
        name="RSICDT2IRetrieval", description="Retrieve overhead images by their captions (RSICD).", **RSICD, **TO_IMAGE
    )


class RSICDI2TRetrieval(CaptionedImageRetrieval):
    """An image of RSICD finds one of its captions."""

    metadata = TaskMetadata(
        name="RSICDI2TRetrieval", description="Retrieve captions by overhead images (RSICD).", **RSICD, **TO_TEXT
    )


class UCMCaptionsT2IRetrieval(CaptionedImageRetrieval):
    """A caption of UCM-Captions finds its image."""

    metadata = TaskMetadata(
        name="UCMCaptionsT2IRetrieval",
        description="Retrieve overhead images by their captions (UCM-Captions).",
        **UCM,
        **TO_IMAGE,
    )


class UCMCaptionsI2TRetrieval(CaptionedImageRetrieval):
    """An image of UCM-Captions finds one of its captions."""

    metadata = TaskMetadata(
        name="UCMCaptionsI2TRetrieval",
        description="Retrieve captions by overhead images (UCM-Captions).",
        **UCM,
        **TO_TEXT,
    )


__all__ = [
    "RSICDI2TRetrieval",
    "RSICDT2IRetrieval",
    "UCMCaptionsI2TRetrieval",
    "UCMCaptionsT2IRetrieval",
    "load_mteb_encoder",
]

"""Caption retrieval on RSICD and UCM-Captions as tasks of mteb, so that its runner measures any of its models on them.

    import mteb
    from sentence_transformers import SentenceTransformer
    from training.evaluation.mteb_tasks import RSICDI2TRetrieval, RSICDT2IRetrieval

    mteb.evaluate(SentenceTransformer("FOLDER"), [RSICDT2IRetrieval(), RSICDI2TRetrieval()])

`hit_rate_at_k` is what the field calls recall at k: the share of queries with a right answer among the first k. (mteb's
own `recall_at_k` is the share of an image's five captions among them.)
"""

from typing import Any

from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from training.data import load_image_captions

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
    "dataset": {"path": "arampacha/rsicd", "revision": "main"},
    "date": ("2017-01-01", "2017-12-31"),
    "bibtex_citation": RSICD_CITATION,
}
UCM = {
    "reference": "https://doi.org/10.1109/CITS.2016.7546397",
    "dataset": {"path": "ucm", "revision": "main"},
    "date": ("2010-01-01", "2016-12-31"),
    "bibtex_citation": UCM_CITATION,
}


class CaptionedImageRetrieval(AbsTaskRetrieval):
    """Retrieval among captioned images: every caption is a query or a document of its own, also where two are equal.

    Args:
        source: where the images are: a folder, or what else `load_image_captions` takes; None for the task's data set
            on the Hub.
        kwargs: passed on to mteb.
    """

    def __init__(self, source: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source or self.metadata.dataset["path"]

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Load the test split; the data set's revision becomes the fingerprint of what was loaded."""
        if self.data_loaded:
            return
        rows = load_image_captions(self.source, "test", None, None)
        # mteb orders equal scores by descending identifier, as text: numbers of one length keep the data set's order.
        image_ids = [f"image-{index:05}" for index in range(len(rows))]
        text_ids = [
            [f"{name}-{place}" for place in range(len(texts))] for name, texts in zip(image_ids, rows["captions"])
        ]
        texts = Dataset.from_dict(
            {
                "id": [text_id for of_image in text_ids for text_id in of_image],
                "text": [text for of_image in rows["captions"] for text in of_image],
            }
        )
        images = rows.select_columns(["image"]).add_column("id", image_ids)
        if self.metadata.category == "t2i":
            queries, corpus = texts, images
            relevant = {text_id: {image: 1} for image, of_image in zip(image_ids, text_ids) for text_id in of_image}
        else:
            queries, corpus = images, texts
            relevant = {image: dict.fromkeys(of_image, 1) for image, of_image in zip(image_ids, text_ids)}
        split = {"corpus": corpus, "queries": queries, "relevant_docs": relevant, "top_ranked": None}
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


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

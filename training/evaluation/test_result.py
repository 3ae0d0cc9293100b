"""The one evaluation of a run on its test split."""

from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.hub.pretrained import load_pretrained, weights_hash
from training.config import TrainConfig
from training.evaluation.bootstrap import split_statistics
from training.evaluation.metrics import chance_metrics
from training.evaluation.object_keeping import object_keeping
from training.evaluation.split_embeddings import SplitEmbeddings, embed_split, embeddings_metrics


def load_best(config: TrainConfig) -> tuple[PIRModel, PIRProcessor]:
    """The model that the run kept, on the device of this process, and its processor."""
    folder = Path(config.output_dir) / "best"
    model, processor = load_pretrained(folder)
    return model.to(PartialState().device), processor


def measure_test(
    config: TrainConfig, rows: Dataset, epoch: int, model: PIRModel, processor: PIRProcessor
) -> tuple[dict[str, Any], SplitEmbeddings]:
    """Evaluate the model that a run kept on test; a run does so once.

    Args:
        config: of the run.
        rows: of the test split.
        epoch: that the model is of.
        model: of `load_best`.
        processor: its processor.

    Returns:
        The metrics in percent, with the 95 % `mR_interval` over test images, those of chance, the hash of the weights,
        those `before` a fine-tuning, and what
        `object_keeping` measured where the rows have boxes; and the embeddings.
    """
    embeddings = embed_split(model, processor, rows, config.evaluation_batch_size)
    test = {"split": "test", "epoch": epoch, "weights_sha256": weights_hash(Path(config.output_dir) / "best")}
    test |= embeddings_metrics(embeddings)
    test["mR_interval"] = split_statistics(embeddings)[0]["intervals"]["recall"]["mR"]
    test["chance"] = chance_metrics(embeddings.text_to_image)
    if config.init_from is not None:
        test["before"] = metrics_before(config, rows)
    if model.config.has_instruction and "boxes" in rows.column_names:
        test["objects"] = object_keeping(model, processor, rows, config.evaluation_batch_size)
    return test, embeddings


def metrics_before(config: TrainConfig, rows: Dataset) -> dict[str, float]:
    """Test metrics of the model that a fine-tuning started from, on the same images and captions."""
    model, processor = load_pretrained(config.init_from)
    return embeddings_metrics(
        embed_split(model.to(PartialState().device), processor, rows, config.evaluation_batch_size)
    )

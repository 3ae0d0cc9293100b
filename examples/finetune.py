# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "accelerate>=1.10", "datasets>=4.0", "pillow>=11.0", "timm>=1.0.15", "torch>=2.8", "torchvision>=0.23",
#   "transformers>=5.20,<6",
# ]
# ///
"""Fine-tune a published PIR on your own captions with transformers' Trainer, without a checkout.

    uv run finetune.py --model ORG/PIR --data MY_FOLDER --output-dir finetuned
    hf jobs uv run --flavor a10g-small finetune.py --model ORG/PIR --data ORG/CAPTIONS --push-to-hub ORG/NAME

The data has the columns `image` and `captions` (a list) or `caption`, in a split `train`: a data set on the Hub, or a
folder of images with metadata.jsonl. Selection on validation, augmentation and a report are in `training.train`.
"""

import argparse
import random
from pathlib import Path

from datasets import Dataset, load_dataset
from transformers import AutoModel, AutoProcessor, ProcessorMixin, Trainer, TrainingArguments


class Collator:
    """Batch images, each with one of its captions, chosen at random every time."""

    def __init__(self, processor: ProcessorMixin) -> None:
        self.processor = processor

    def __call__(self, rows: list[dict]) -> dict:
        """Model inputs of the rows, with `return_loss=True`."""
        images = [row["image"].convert("RGB") for row in rows]
        captions = [row["captions"] if "captions" in row else [row["caption"]] for row in rows]
        inputs = self.processor(images=images, text=[random.choice(texts) for texts in captions], return_tensors="pt")
        return dict(inputs) | {"return_loss": True}


def load_rows(data: str) -> Dataset:
    """Load the training rows.

    Raises:
        ValueError: no column of captions.
    """
    rows = load_dataset("imagefolder" if Path(data).is_dir() else data, **local(data), split="train")
    if not {"captions", "caption"} & set(rows.column_names):
        raise ValueError(
            f"{data} has the columns {rows.column_names}: name the column of sentences `captions` or `caption`."
        )
    return rows


def local(data: str) -> dict[str, str]:
    """The argument of `load_dataset` for a local folder."""
    return {"data_dir": data} if Path(data).is_dir() else {}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="Hub id or folder of a published PIR")
    parser.add_argument("--data", required=True, help="Hub id, or folder of images with metadata.jsonl")
    parser.add_argument("--output-dir", default="finetuned")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--push-to-hub", metavar="ORG/NAME", help="repository to upload the result to")
    args = parser.parse_args()
    model = AutoModel.from_pretrained(args.model, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(args.model, trust_remote_code=True)
    settings = TrainingArguments(
        args.output_dir, num_train_epochs=args.epochs, per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate, lr_scheduler_type="cosine", dataloader_drop_last=True,
        remove_unused_columns=False, save_strategy="no", logging_steps=10, report_to="none",
    )  # fmt: skip
    rows = load_rows(args.data)
    Trainer(model, settings, Collator(processor), train_dataset=rows, processing_class=processor).train()
    for part in (model, processor):
        part.save_pretrained(args.output_dir)
        if args.push_to_hub:
            part.push_to_hub(args.push_to_hub)
    print(f"{args.output_dir} contains the fine-tuned model.")


if __name__ == "__main__":
    main()

"""Cache for the outputs of frozen towers, computed once and shared by runs.

Where both towers are frozen and no image is augmented, they give the same for an image or a caption in every epoch, and
all that an epoch has to compute are VIR, LCA and the projections: minutes on a CPU, for any number of runs.
"""

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save, save_file
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchEncoding
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_pir import PIRModel, PIRProcessor
from modeling_pir.hub.whole_folder import whole_file
from training.config import TrainConfig

Fields = dict[str, torch.Tensor]  # of a tower's output, for one image or one text
FIELDS = ("last_hidden_state", "pooler_output")
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def with_features(
    model: PIRModel, processor: PIRProcessor, config: TrainConfig, mixed_precision: str
) -> "PIRProcessor | FeatureProcessor":
    """Let a model's frozen towers look up what they have seen before, and its processor hand over what they made.

    Args:
        model: its towers are changed in place: what they are called with first is computed as before. Its weights,
            and so what is saved of it, stay as they are.
        processor: of the model.
        config: of the run.
        mixed_precision: that the run computes in, by accelerate's name: "no", "bf16" or "fp16".

    Returns:
        The processor to train and evaluate with; `processor` itself where `config.feature_cache` is None.

    Raises:
        ValueError: the towers' output is not the same whenever they are asked.
    """
    if config.feature_cache is None:
        return processor
    towers = [model.vision_model, model.text_model]
    if model.instruction_model is not None:
        towers.append(model.instruction_model)
    for tower in towers:
        trained = [name for name, weight in tower.named_parameters() if weight.requires_grad]
        if trained or any(module.training for module in tower.modules()):
            reason = f"its {trained[0]!r} is trained" if trained else "its BatchNorm or dropout is live"
            raise ValueError(
                f"feature_cache is {config.feature_cache!r}, but the {type(tower).__name__} is not frozen ({reason}): "
                "freeze it whole, or leave feature_cache out."
            )
    if not model.config.mask_padding:
        raise ValueError(
            f"feature_cache is {config.feature_cache!r}, but with mask_padding=false a caption's tokens depend on the "
            "others of its batch: leave feature_cache or mask_padding out."
        )
    return FeatureProcessor(model, processor, Path(config.feature_cache), mixed_precision)


class FeatureStore:
    """Outputs of one frozen tower by what it was shown: in memory, mapped from the files of a folder.

    A file is written once, whole, so that several runs may read and add to a folder at a time.

    Args:
        tower: frozen and in evaluation mode.
        folder: of all towers; each has its own in it, by its weights, the precision and `settings`.
        mixed_precision: that its outputs are computed and kept in, see [`with_features`].
        settings: what else its outputs depend on.
    """

    def __init__(self, tower: nn.Module, folder: Path, mixed_precision: str, settings: str = "") -> None:
        self.tower, self.parent, self.precision, self.settings = tower, folder, mixed_precision, settings
        self.compute = tower.forward

    @cached_property
    def folder(self) -> Path:
        """Of this tower; its weights are read at the first look-up, when whatever is loaded into it has been."""
        weights = save({name: values.contiguous() for name, values in self.tower.state_dict().items()})
        digest = hashlib.sha256(weights + f"{self.settings}{self.precision}".encode())
        return self.parent / digest.hexdigest()[:32]

    @cached_property
    def rows(self) -> dict[str, Fields]:
        """Fields by key; tensors mapped from the disk, read when they are used."""
        rows: dict[str, Fields] = {}
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            for name, values in load_file(path).items():
                key, field = name.split(".")
                rows.setdefault(key, {})[field] = values
        return rows

    def look_up(self, keys: list[str], run_tower: Callable[[list[int]], list[Fields]]) -> list[Fields]:
        """The outputs for some keys.

        Args:
            keys: of images or texts.
            run_tower: makes the outputs of those at some places of `keys`, which are not known yet.

        Returns:
            The fields of each, on the CPU.
        """
        places = {key: place for place, key in enumerate(keys) if key not in self.rows}
        if places:
            new = dict(zip(places, run_tower(list(places.values())), strict=True))
            tensors = {f"{key}.{field}": values for key, fields in new.items() for field, values in fields.items()}
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(self.folder / f"{_key(*sorted(new))}.safetensors") as path:
                save_file(tensors, path)
            self.rows.update(new)
        return [self.rows[key] for key in keys]

    def run(self, **inputs: torch.Tensor) -> Fields:
        """Run the tower itself on a batch; its fields are tensors that a later backward pass may keep."""
        device = next(self.tower.parameters()).device
        dtype = PRECISIONS.get(self.precision)
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, dtype, enabled=bool(dtype)):
            inputs = {name: values.to(device, copy=True) for name, values in inputs.items()}
            outputs = self.compute(**inputs, return_dict=True)
            found = {field: getattr(outputs, field, None) for field in FIELDS}
            return {name: values.to("cpu", dtype).contiguous() for name, values in found.items() if values is not None}


class FeatureProcessor:
    """A processor whose `pixel_values` are what the frozen towers make of the images: one row of numbers for each.

    The vision tower and the prior take such rows, (images, numbers, 1, 1), apart again; real images still go through
    them. Texts are processed as ever, the text tower knows them by their tokens.

    Args:
        model: with frozen towers.
        processor: of the model, to which everything else is handed on.
        folder: where outputs are kept.
        mixed_precision: see [`with_features`].
    """

    def __init__(self, model: PIRModel, processor: PIRProcessor, folder: Path, mixed_precision: str) -> None:
        self.processor = processor
        settings = processor.image_processor.to_json_string()
        self.image_stores = [(FeatureStore(model.vision_model, folder, mixed_precision, settings), FIELDS)]
        if model.instruction_model is not None:
            prior = FeatureStore(model.instruction_model, folder, mixed_precision, settings)
            self.image_stores.append((prior, ("pooler_output",)))
        self.places: dict[tuple[FeatureStore, str], tuple[slice, torch.Size]] = {}  # of a field in a row, its shape
        for store, fields in self.image_stores:
            store.tower.forward = self._image_forward(store, fields)
        text_store = FeatureStore(model.text_model, folder, mixed_precision)
        text_store.tower.forward = _text_forward(text_store)

    def __getattr__(self, name: str) -> object:
        return getattr(self.processor, name)

    def __call__(
        self,
        images: list[Image.Image | torch.Tensor] | None = None,
        text: str | list[str] | None = None,
        **options: object,
    ) -> BatchEncoding:
        """See [`PIRProcessor`]; images are decoded ones."""
        batch = BatchEncoding() if text is None else self.processor(text=text, **options)
        if images is not None:
            batch["pixel_values"] = self._image_rows(images)
        return batch

    def _image_rows(self, images: list[Image.Image | torch.Tensor]) -> torch.Tensor:
        keys = [_image_key(image) for image in images]
        parts, start = [], 0
        for store, fields in self.image_stores:

            def run_tower(places: list[int], store: FeatureStore = store) -> list[Fields]:
                inputs = self.processor(images=[images[place] for place in places], return_tensors="pt")
                pixel_values = inputs["pixel_values"].contiguous(memory_format=torch.channels_last)
                outputs = store.run(pixel_values=pixel_values)
                return [{name: values[row].clone() for name, values in outputs.items()} for row in range(len(places))]

            found = store.look_up(keys, run_tower)
            for field in [field for field in fields if field in found[0]]:
                values = torch.stack([row[field] for row in found])
                parts.append(values.flatten(1).float())
                self.places[store, field] = slice(start, start + parts[-1].shape[1]), values.shape[1:]
                start += parts[-1].shape[1]
        return torch.cat(parts, dim=1)[:, :, None, None]

    def _image_forward(self, store: FeatureStore, fields: tuple[str, ...]) -> Callable:
        def forward(pixel_values: torch.Tensor, **options: object) -> BaseModelOutputWithPooling:
            if pixel_values.shape[-2:] != (1, 1):  # an image, as of who draws the pictures of a report
                return store.compute(pixel_values, **options)
            outputs = {}
            for field in [field for field in fields if (store, field) in self.places]:
                place, shape = self.places[store, field]
                outputs[field] = pixel_values[:, place].reshape(-1, *shape)
            return BaseModelOutputWithPooling(**outputs)

        return forward


def _text_forward(store: FeatureStore) -> Callable:
    def forward(
        input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **options: object
    ) -> BaseModelOutputWithPooling:
        if attention_mask is None or options.get("position_ids") is not None:
            return store.compute(input_ids=input_ids, attention_mask=attention_mask, **options)
        lengths = attention_mask.sum(dim=1).tolist()
        rows = [row[:length] for row, length in zip(input_ids.cpu().numpy(), lengths, strict=True)]

        def run_tower(places: list[int]) -> list[Fields]:
            outputs = store.run(input_ids=input_ids[places], attention_mask=attention_mask[places])
            states = outputs.pop("last_hidden_state")
            found = [{"last_hidden_state": states[row, : lengths[place]].clone()} for row, place in enumerate(places)]
            for name, values in outputs.items():
                found = [fields | {name: values[row].clone()} for row, fields in enumerate(found)]
            return found

        found = store.look_up([_key(row) for row in rows], run_tower)
        weight = next(store.tower.parameters())
        states = pad_sequence([fields["last_hidden_state"] for fields in found], batch_first=True)
        states = F.pad(states, (0, 0, 0, input_ids.shape[1] - states.shape[1]))  # (texts, length, width)
        outputs = {"last_hidden_state": states.to(weight)}
        if "pooler_output" in found[0]:
            outputs["pooler_output"] = torch.stack([fields["pooler_output"] for fields in found]).to(weight)
        return BaseModelOutputWithPooling(**outputs)

    return forward


def _image_key(image: Image.Image | torch.Tensor) -> str:
    """Of a decoded image: a tensor (3, height, width) uint8, or one of PIL."""
    if isinstance(image, Image.Image):
        return _key(image.mode, str(image.size), image.tobytes())
    return _key(str(tuple(image.shape)), image.contiguous().numpy())


def _key(*parts: str | bytes | np.ndarray) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()

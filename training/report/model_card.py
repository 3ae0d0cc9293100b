"""The card of a published run, with numbers from that run only."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from modeling_pir import PIRConfig, PIRModel, PIRProcessor
from modeling_pir.processing_pir import image_size
from training.config import TrainConfig
from training.data.catalog import NAMES, known_dataset
from training.evaluation.metrics import METRICS
from training.evaluation.object_keeping import describe_objects
from training.run.folder import Run

CARDS = Path(__file__).parents[2] / "hub_configs"
PICTURES = ("gallery.png", "belief.png", "curves.png")
OWN_PICTURES = ("curves.png",)  # those that show no image of the data set
LICENSE = "apache-2.0"  # of the code and the weights
DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}


@dataclass(frozen=True)
class Wishes:
    """What a publisher wants on the card.

    Attributes:
        repo_id: where the model will be, org/name.
        folder: where it lies in a checkout, whose code it needs; None for a repository, which holds the code.
        with_pictures: show images of the data, whose owner may not want a copy or whose licence may not allow one; the
            drawn sample's are always shown.
        data_name: what the publisher calls their data; None for the name of its folder.
        data_licence: likewise, its licence.
    """

    repo_id: str
    folder: str | None = None
    with_pictures: bool = False
    data_name: str | None = None
    data_licence: str | None = None


def describe_data(config: TrainConfig, wishes: Wishes) -> dict[str, Any]:
    """What the card says of the data.

    Args:
        config: of the run.
        wishes: how the publisher names an own data set.

    Returns:
        `name`, `id` and `description`; `hub_id`, `split_source` and `paper`, or None.
    """
    known_name = config.split_list or config.data
    if known_name in NAMES:
        facts = known_dataset(known_name)
        description = f"{facts.name} ({facts.paper}). Licence of its images and captions: {facts.licence}."
        return {
            "name": facts.name,
            "id": facts.hub_id or known_name,
            "hub_id": facts.hub_id,
            "description": description,
            "split_source": facts.split_source,
            "paper": facts.paper,
        }
    name = public_value(config.data)
    data = {"name": name, "id": name, "hub_id": None, "split_source": None, "paper": None}
    if config.data == "sample":
        data["name"] = "the drawn sample"
        data["description"] = (
            "Scenes drawn by the project's own code, with captions that follow from the drawing: the results show that "
            "the model learns, not how it does on real images."
        )
    elif Path(config.data).exists() or config.data.count("/") != 1:
        data |= {"name": wishes.data_name or name, "id": wishes.data_name or name}
        licence = f"Its licence: {wishes.data_licence}." if wishes.data_licence else "Its licence is not stated."
        data["description"] = f"A custom data set, {wishes.data_name or f'`{name}`'}. {licence}"
    else:
        data["hub_id"] = config.data
        data["description"] = (
            f"[{config.data}](https://huggingface.co/datasets/{config.data}), revision "
            f"`{config.data_revision or 'main'}`. Its page says under which licence."
        )
    return data


def public_value(value: Any) -> Any:
    """A configuration's value without the folders of this machine: of a local path only its name is left."""
    if isinstance(value, dict):
        return {key: public_value(item) for key, item in value.items()}
    if isinstance(value, str) and (Path(value).is_absolute() or value.startswith(("~", ".")) or Path(value).exists()):
        return Path(value).name
    return value


def describe_model(folder: Path) -> dict[str, Any]:
    """What the card says of the architecture, from the folder's configurations."""
    config, processor = PIRConfig.from_pretrained(folder), PIRProcessor.from_pretrained(folder)
    with torch.device("meta"):  # counted without memory or weights
        num_parameters = PIRModel(config).num_parameters()
    return {
        "num_parameters": num_parameters,
        "vision": config.vision_config.model_type,
        "text": config.text_config.model_type,
        "instruction": config.instruction_config.model_type if config.has_instruction else None,
        "projection_dim": config.projection_dim,
        "image_size": image_size(processor.image_processor)[0],
        "max_length": processor.text_kwargs["max_length"],
    }


def eval_results(run: Run, data: dict[str, Any]) -> list[EvalResult]:
    """The run's test metrics as the Hub's leaderboards read them."""
    results = []
    for key in METRICS:
        direction, _, recall = key.partition("_")
        name = f"{DIRECTIONS[direction]} {recall} (percent)" if recall else "mean recall (percent)"
        results.append(
            EvalResult(
                task_type="image-text-retrieval",
                task_name="Image-text retrieval",
                dataset_type=data["id"],
                dataset_name=data["name"],
                dataset_split="test",
                metric_type=key,
                metric_name=name,
                metric_value=round(run.test[key], 2),
            )
        )
    return results


def card_data(run: Run, name: str, data: dict[str, Any], sources: list[str]) -> ModelCardData:
    """The card's metadata, with the results.

    Args:
        run: a checked run.
        name: of the model.
        data: of [`describe_data`].
        sources: models that the training started from.
    """
    return ModelCardData(
        language="en",
        license=LICENSE,
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["pir", "remote-sensing", "image-text-retrieval", "sentence-transformers", "custom_code"],
        datasets=[data["hub_id"]] if data["hub_id"] else None,
        base_model=[source for source in sources if run.config.init_from or source.count("/") == 1] or None,
        model_name=name,
        eval_results=eval_results(run, data),
    )


def result_rows(test: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Rows of the card's table: the model, what it was fine-tuned from, chance."""
    rows = {"**this model**": test}
    if "before" in test:
        rows["before fine-tuning"] = test["before"]
    return rows | {"a random order": test["chance"]}


def launch_command(environment: dict[str, Any]) -> str:
    """The command that repeats a run, in its precision and on its number of processes."""
    precision = environment["precision"]
    short = {"bfloat16 autocast": "bf16", "float16 autocast": "fp16", "float32": None}.get(precision, precision)
    processes = environment["processes"]
    run = "-m training.train --config config.yaml"
    if short is None and processes == 1:
        return f"python {run}"
    precision = f"--mixed_precision {short or 'no'}"
    if " CPU" not in environment["device"]:
        return f"accelerate launch --num_processes {processes} {precision} {run}"
    threads = environment["torch_threads"]
    if processes == 1:  # without the number accelerate gives a CPU process one thread
        return f"accelerate launch --cpu {precision} --num_cpu_threads_per_process {threads} {run}"
    # accelerate's launcher would start a single CPU process, however many it is asked for.
    variables = f"ACCELERATE_USE_CPU=true ACCELERATE_MIXED_PRECISION={short or 'no'} OMP_NUM_THREADS={threads}"
    return f"{variables} torchrun --standalone --nproc_per_node {processes} {run}"


def shown_pictures(run: Run, wishes: Wishes) -> list[str]:
    """The run's pictures that may be published."""
    is_drawn = run.config.data == "sample" and wishes.folder is None  # a folder of the checkout stays small
    names = PICTURES if wishes.with_pictures or is_drawn else OWN_PICTURES
    return [name for name in names if (run.folder / name).is_file()]


def model_card(run: Run, wishes: Wishes) -> ModelCard:
    """Write the card of a run.

    Args:
        run: a checked run.
        wishes: of the publisher.

    Returns:
        The card; every number of its results, recipe and costs is read from the run folder.
    """
    data, name = describe_data(run.config, wishes), wishes.repo_id.split("/")[-1]
    backbones = list((run.config.backbones or {}).values())
    sources = [public_value(source) for source in ([run.config.init_from] if run.config.init_from else backbones)]
    starts = run.environment["starts"]
    environment = Environment(
        loader=FileSystemLoader(CARDS), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.select_template(
        [f"pir-{run.config.split_list or run.config.data}/README.md", "model_card.md"]
    )
    text = template.render(
        card_data=card_data(run, name, data, sources),
        name=name,
        repo_id=wishes.folder or wishes.repo_id,
        in_checkout=wishes.folder is not None,
        trust="" if wishes.folder else ", trust_remote_code=True",
        model=describe_model(run.model_folder),
        data=data,
        config=run.config,
        config_yaml=yaml.safe_dump(public_value(dataclasses.asdict(run.config)), sort_keys=False).strip(),
        command=launch_command(run.environment),
        environment=run.environment,
        splits=run.environment["splits"],
        test=run.test,
        rows=result_rows(run.test),
        metric_names=METRICS,
        pictures=shown_pictures(run, wishes),
        objects=describe_objects(run.test["objects"]) if "objects" in run.test else None,
        starts={part: words for part, words in starts.items() if part not in ("instruction", "base")},
        base=starts.get("base"),
        start=", ".join(f"`{source}`" for source in sources) or "random weights",
    )
    return ModelCard(re.sub(r"\n{3,}", "\n\n", text))

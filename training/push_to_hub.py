"""Publish a run: its best model, loadable without this package, with a card whose every number is the run's own.

    python -m training.push_to_hub --model runs/sample --repo org/pir-sample --dry-run   # shows it, uploads nothing
    python -m training.push_to_hub --model runs/sample --repo org/pir-sample
    python -m training.push_to_hub --model runs/sample --repo org/pir-sample --output-dir kept   # a folder, no upload
    python -m training.push_to_hub --model kept --repo org/other                                 # published from there

A run without metrics, with metrics of other weights or made from uncommitted code is refused. The card is filled from
hub_configs/pir-DATA/README.md where the data set has one, else from hub_configs/model_card.md.
"""

import argparse
import dataclasses
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from modeling_pir import PIRConfig, PIRModel, PIRProcessor
from modeling_pir.convert_backbones import whole_folder
from modeling_pir.hub import (
    check_model_folder,
    check_repo_id,
    copy_model,
    upload,
    weights_hash,
    write_hub_folder,
)
from training.config import TrainConfig, load_config
from training.known import NAMES, known_dataset
from training.record import METRICS, describe_objects, describe_starts

CARDS = Path(__file__).parents[1] / "hub_configs"
PICTURES = ("gallery.png", "belief.png", "curves.png")
OWN_PICTURES = ("curves.png",)  # those that show no image of the data set, whose licence may not allow a copy
LICENSE = "apache-2.0"  # of the code and the weights
DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}


@dataclasses.dataclass
class Run:
    """A finished run folder, or what `--output-dir` kept of one.

    Attributes:
        folder: of the run.
        config: what was asked for.
        environment: where it ran and on what (environment.json).
        test: its result on the test split (test.json).
    """

    folder: Path
    config: TrainConfig
    environment: dict[str, Any]
    test: dict[str, Any]

    @property
    def model_folder(self) -> Path:
        """The best model and its processor."""
        return self.folder if (self.folder / "config.json").is_file() else self.folder / "best"


def load_run(folder: str | Path) -> Run:
    """Read a run and refuse what cannot be published.

    Args:
        folder: what `training.train` wrote.

    Returns:
        The run.

    Raises:
        ValueError: no run, no metrics, metrics of other weights, uncommitted code, or a model that is not whole.
    """
    folder = Path(folder)
    has_model = (folder / "best").is_dir() or (folder / "config.json").is_file()
    if not (folder / "environment.json").is_file() or not has_model:
        raise ValueError(f"{folder} is no run folder with a best model: name one that training.train wrote.")
    results = folder / ("metrics.json" if (folder / "config.json").is_file() else "test.json")
    if not results.is_file():
        raise ValueError(f"{folder} has no metrics (test.json): let the training finish, it evaluates at the end.")
    config = load_config(folder / "config.yaml")
    # Older runs do not say what they started from; the towers' folders may still be there.
    environment = {"starts": describe_starts(config)} | json.loads((folder / "environment.json").read_text())
    run = Run(
        folder,
        config,
        environment,
        json.loads(results.read_text()),
    )
    check_model_folder(run.model_folder)
    if run.test.get("weights_sha256") != weights_hash(run.model_folder):
        raise ValueError(
            f"The metrics in {results} are not of the weights in {run.model_folder}: publish "
            "the folder as the training left it, or train again."
        )
    if run.environment["commit"] is None or run.environment["uncommitted_changes"]:
        state = "unknown code" if run.environment["commit"] is None else "code with uncommitted changes"
        raise ValueError(f"{folder} was made by {state}, nobody could repeat it: commit the code and train again.")
    return run


def describe_data(config: TrainConfig) -> dict[str, Any]:
    """What the card says of the data.

    Args:
        config: of the run.

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
        data["description"] = f"An own data set, `{data['name']}`. The run does not record its licence."
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
        "image_size": processor.image_processor.size["height"],
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
        base_model=[source for source in sources if source.count("/") == 1] or None,
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


def model_card(run: Run, repo_id: str, pictures: Sequence[str] = PICTURES) -> ModelCard:
    """Write the card of a run.

    Args:
        run: a checked run.
        repo_id: where the card will be.
        pictures: that may be shown; those that the run has are.

    Returns:
        The card; every number of its results, recipe and costs is read from the run folder.
    """
    data, name = describe_data(run.config), repo_id.split("/")[-1]
    backbones = list((run.config.backbones or {}).values())
    sources = [public_value(source) for source in ([run.config.init_from] if run.config.init_from else backbones)]
    environment = Environment(
        loader=FileSystemLoader(CARDS), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.select_template(
        [f"pir-{run.config.split_list or run.config.data}/README.md", "model_card.md"]
    )
    text = template.render(
        card_data=card_data(run, name, data, sources),
        name=name,
        repo_id=repo_id,
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
        pictures=[picture for picture in pictures if (run.folder / picture).is_file()],
        objects=describe_objects(run.test["objects"]) if "objects" in run.test else None,
        starts={part: words for part, words in run.environment["starts"].items() if part != "instruction"},
        start=", ".join(f"`{source}`" for source in sources) or "random weights",
    )
    return ModelCard(re.sub(r"\n{3,}", "\n\n", text))


def stage(run: Run, repo_id: str, folder: Path) -> None:
    """Write everything that is uploaded into a folder; the run is only read.

    Args:
        run: a checked run.
        repo_id: where it will be.
        folder: an empty folder.
    """
    write_hub_folder(run.model_folder, folder)
    model_card(run, repo_id).save(folder / "README.md")
    (folder / "metrics.json").write_text(json.dumps(run.test, indent=2))
    for picture in PICTURES:
        if (run.folder / picture).is_file():
            shutil.copyfile(run.folder / picture, folder / picture)


def keep(run: Run, repo_id: str, folder: Path) -> None:
    """Write a run's model into a folder of its own, from which it loads and can be published later.

    Beside model, processor, card and metrics there are `config.yaml` and `environment.json`, of which a card is made.
    The model's code is added at publishing, and pictures that show images of the data set stay in the run.

    Args:
        run: a checked run.
        repo_id: that the card names.
        folder: a new folder.
    """
    with whole_folder(folder) as partial:
        copy_model(run.model_folder, partial)
        model_card(run, repo_id, OWN_PICTURES).save(partial / "README.md")
        for name, facts in (("metrics.json", run.test), ("environment.json", run.environment)):
            (partial / name).write_text(json.dumps(facts, indent=2) + "\n")
        values = public_value(dataclasses.asdict(run.config)) | {"adam_betas": list(run.config.adam_betas)}
        (partial / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        for picture in OWN_PICTURES:
            if (run.folder / picture).is_file():
                shutil.copyfile(run.folder / picture, partial / picture)


def push_to_hub(folder: str | Path, repo_id: str, private: bool = False, dry_run: bool = False) -> str:
    """Publish a run.

    Args:
        folder: of the run.
        repo_id: "org/name".
        private: make a new repository private.
        dry_run: upload nothing.

    Returns:
        Address of the commit; with `dry_run`, the files that would be uploaded and the card.

    Raises:
        ValueError: a run that cannot be published, or an upload that failed.
    """
    check_repo_id(repo_id)
    run = load_run(folder)
    with tempfile.TemporaryDirectory() as staging:
        stage(run, repo_id, Path(staging))
        if dry_run:
            files = sorted(path for path in Path(staging).iterdir())
            lines = [f"{path.stat().st_size:>13,} bytes  {path.name}" for path in files]
            return "\n".join([*lines, "", "README.md:", "", (Path(staging) / "README.md").read_text()])
        message = f"PIR at epoch {run.test['epoch'] + 1}: test mR {run.test['mR']:.2f}"
        return upload(staging, repo_id, message, private).commit_url


def main(arguments: list[str] | None = None) -> None:
    """Run the command; bad input gets one sentence."""
    parser = argparse.ArgumentParser("python -m training.push_to_hub", description="Publish a run on the Hub.")
    parser.add_argument("--model", required=True, metavar="RUN", help="run folder of training.train")
    parser.add_argument("--repo", required=True, help="repository, org/name; it is made where it does not exist")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--output-dir", type=Path, help="keep the model in this folder instead of uploading it")
    parser.add_argument("--dry-run", action="store_true", help="show what would be uploaded, and the card")
    values = parser.parse_args(arguments)
    if values.output_dir is not None and (values.dry_run or values.private):
        parser.error("--output-dir uploads nothing: leave --dry-run and --private out.")
    try:
        if values.output_dir is not None:
            check_repo_id(values.repo)
            keep(load_run(values.model), values.repo, values.output_dir)
            print(f"{values.output_dir} loads with PIRModel.from_pretrained.")
            return
        print(push_to_hub(values.model, values.repo, values.private, values.dry_run))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

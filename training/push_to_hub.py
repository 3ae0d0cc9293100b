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
import shutil
import tempfile
from pathlib import Path

import yaml

from modeling_pir.errors import one_sentence
from modeling_pir.hub.publish import check_repo_id, copy_model, upload, write_hub_folder
from modeling_pir.hub.whole_folder import whole_folder
from training.report.model_card import PICTURES, model_card, public_value
from training.run.folder import Run, load_run

OWN_PICTURES = ("curves.png",)  # those that show no image of the data set, whose licence may not allow a copy


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
    with one_sentence():
        if values.output_dir is not None:
            check_repo_id(values.repo)
            keep(load_run(values.model), values.repo, values.output_dir)
            print(f"{values.output_dir} loads with PIRModel.from_pretrained.")
            return
        print(push_to_hub(values.model, values.repo, values.private, values.dry_run))


if __name__ == "__main__":
    main()

"""Publish a run: its best model, loadable without this package, with a card whose numbers come from the run.

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
from modeling_pir.hub.pretrained import write_checksums
from modeling_pir.hub.publish import (
    check_repo_id,
    copy_model,
    upload,
    write_hub_folder,
    write_sentence_transformers_files,
)
from modeling_pir.hub.whole_folder import whole_folder
from training.report.eval_results import write_eval_results
from training.report.model_card import Wishes, model_card, public_value, shown_pictures
from training.run.folder import Run, load_run


def stage(run: Run, wishes: Wishes, folder: Path) -> None:
    """Write everything that is uploaded into a folder; the run is only read.

    Args:
        run: a checked run.
        wishes: of the publisher.
        folder: an empty folder.
    """
    write_hub_folder(run.model_folder, folder)
    model_card(run, wishes).save(folder / "README.md")
    write_eval_results(run, wishes, folder)
    (folder / "metrics.json").write_text(json.dumps(run.test, indent=2))
    for picture in shown_pictures(run, wishes):
        shutil.copyfile(run.folder / picture, folder / picture)
    write_checksums(folder)  # anew: of a kept folder, whose metrics.json has just been written again, they were others


def keep(run: Run, wishes: Wishes, folder: Path) -> None:
    """Write a run's model into a folder of its own, from which it loads and can be published later.

    Beside model, processor, card and metrics there are `config.yaml` and `environment.json`, of which a card is made.
    The model's code is added at publishing, and pictures that show images of the data set stay in the run.

    Args:
        run: a checked run.
        wishes: of the publisher, `folder` among them.
        folder: a new folder.
    """
    with whole_folder(folder) as partial:
        copy_model(run.model_folder, partial)
        write_sentence_transformers_files(partial)
        model_card(run, wishes).save(partial / "README.md")
        for name, facts in (("metrics.json", run.test), ("environment.json", run.environment)):
            (partial / name).write_text(json.dumps(facts, indent=2) + "\n")
        values = public_value(dataclasses.asdict(run.config)) | {"adam_betas": list(run.config.adam_betas)}
        (partial / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        for picture in shown_pictures(run, wishes):
            shutil.copyfile(run.folder / picture, partial / picture)


def push_to_hub(folder: str | Path, wishes: Wishes, private: bool = False, dry_run: bool = False) -> str:
    """Publish a run.

    Args:
        folder: of the run.
        wishes: of the publisher.
        private: make a new repository private.
        dry_run: upload nothing.

    Returns:
        Address of the commit; with `dry_run`, the files that would be uploaded and the card.

    Raises:
        ValueError: a run that cannot be published, or an upload that failed.
    """
    check_repo_id(wishes.repo_id)
    run = load_run(folder)
    with tempfile.TemporaryDirectory() as staging:
        stage(run, wishes, Path(staging))
        if dry_run:
            files = sorted(path for path in Path(staging).rglob("*") if path.is_file())
            lines = [f"{path.stat().st_size:>13,} bytes  {path.relative_to(staging).as_posix()}" for path in files]
            return "\n".join([*lines, "", "README.md:", "", (Path(staging) / "README.md").read_text()])
        message = f"PIR at epoch {run.test['epoch'] + 1}: test mR {run.test['mR']:.2f}"
        return upload(staging, wishes.repo_id, message, private).commit_url


def main(arguments: list[str] | None = None) -> None:
    """Run the command; bad input gets one sentence."""
    parser = argparse.ArgumentParser("python -m training.push_to_hub", description="Publish a run on the Hub.")
    parser.add_argument("--model", required=True, metavar="RUN", help="run folder of training.train")
    parser.add_argument("--repo", required=True, help="repository, org/name; created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create the repository as private")
    parser.add_argument("--output-dir", type=Path, help="keep the model in this folder instead of uploading it")
    parser.add_argument("--dry-run", action="store_true", help="show what would be uploaded, and the card")
    parser.add_argument(
        "--with-pictures", action="store_true", help="also upload pictures that show images of your data"
    )
    parser.add_argument("--data-name", help="what the card calls your data (default: the name of its folder)")
    parser.add_argument("--data-licence", help="licence of your data, for the card")
    values = parser.parse_args(arguments)
    folder = None
    if values.output_dir is not None:  # a card names no folder of this machine
        folder = values.output_dir.name if values.output_dir.is_absolute() else values.output_dir.as_posix()
    wishes = Wishes(values.repo, folder, values.with_pictures, values.data_name, values.data_licence)
    if values.output_dir is not None and (values.dry_run or values.private):
        parser.error("--output-dir uploads nothing: leave --dry-run and --private out.")
    with one_sentence():
        if values.output_dir is not None:
            check_repo_id(values.repo)
            keep(load_run(values.model), wishes, values.output_dir)
            print(f"{values.output_dir} loads with PIRModel.from_pretrained.")
            return
        print(push_to_hub(values.model, wishes, values.private, values.dry_run))


if __name__ == "__main__":
    main()

"""Build the search page without a server: a folder that opens in a browser or is served as a static Space.

    pir export MODEL exported
    pir export-rows cities.parquet --index cities
    python -m training.build_static_page --exported exported --images cities.parquet --output page
    hf upload ORG/NAME page --repo-type space --repo-sdk static

Its sources are in `hub_configs/space_static/`; npm, which has to be installed, brings the libraries in the versions
that `package.json` there names, and esbuild joins them to one script. A browser lets a page from a disk run scripts
beside it but not read files, so model and images are written as scripts, in base64.
"""

import argparse
import base64
import shutil
import subprocess
import tempfile
from pathlib import Path

from modeling_pir.errors import one_sentence

SOURCES = Path(__file__).parents[1] / "hub_configs" / "space_static"
RUNTIME = {"ort.wasm": "ort-wasm-simd-threaded.wasm", "ort.mjs": "ort-wasm-simd-threaded.mjs"}
PROCESSOR = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
FORMS = {"quantized": "_quantized", "fp32": ""}


def write_as_script(source: Path, output: Path, name: str) -> None:
    """Write a file as a script that hands its bytes to the page under a name."""
    content = base64.b64encode(source.read_bytes()).decode()
    (output / "files" / f"{name}.js").write_text(f'provideFile("{name}", "{content}");\n')


def install_libraries(folder: Path) -> Path:
    """Fetch what `package.json` names by npm; returns its `node_modules`.

    Raises:
        ValueError: npm is missing or fails.
    """
    if shutil.which("npm") is None:
        raise ValueError("npm is missing, which brings the page's libraries: install Node.js.")
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--prefix", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"npm cannot fetch the page's libraries: {' '.join(done.stderr.split())[-300:]}")
    return folder / "node_modules"


def build(exported: Path, images: Path, output: Path, forms: list[str]) -> None:
    """Write the page.

    Args:
        exported: folder of `modeling_pir.convert.export_encoders`.
        images: Parquet file of `pir export-rows`, of the same model.
        output: folder to write; it must not exist.
        forms: of the weights, "quantized" and "fp32"; the page takes the first of these unless its address asks for
            `?weights=fp32`.

    Raises:
        ValueError: a missing file, an existing folder, or npm fails.
    """
    parts = {name: exported / name for name in PROCESSOR}
    for form in forms:
        for side in ("text_model", "vision_model"):
            name = f"{side}{FORMS[form]}.onnx"
            parts[name] = exported / "onnx" / name
    parts["index.parquet"] = images
    for path in parts.values():
        if not path.is_file():
            raise ValueError(f"{path} is missing: export the model, or the images by `pir export-rows`.")
    if output.exists():
        raise ValueError(f"{output} exists: name a new folder.")
    with tempfile.TemporaryDirectory() as folder:
        workshop = Path(shutil.copytree(SOURCES, Path(folder) / "page"))
        modules = install_libraries(workshop)
        runtime = modules / "onnxruntime-web" / "dist"
        for name in ("vendor", "files"):
            (output / name).mkdir(parents=True)
        bundle = [modules / ".bin" / "esbuild", workshop / "src" / "page.mjs", "--bundle", "--minify", "--format=iife"]
        subprocess.run([*bundle, "--log-level=warning", f"--outfile={output / 'page.js'}"], check=True)
        shutil.copyfile(runtime / "ort.wasm.min.js", output / "vendor" / "ort.wasm.min.js")
        for name in ("index.html", "README.md"):
            shutil.copyfile(workshop / name, output / name)
        for name, path in ({name: runtime / file for name, file in RUNTIME.items()} | parts).items():
            write_as_script(path, output, name)


def main(arguments: list[str] | None = None) -> None:
    """Run the command; bad input gets one sentence."""
    parser = argparse.ArgumentParser("python -m training.build_static_page", description=__doc__.splitlines()[0])
    parser.add_argument("--exported", type=Path, required=True, help="folder written by `pir export`")
    parser.add_argument("--images", type=Path, required=True, help="Parquet file written by `pir export-rows`")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--weights", nargs="+", choices=tuple(FORMS), default=["quantized"])
    args = parser.parse_args(arguments)
    with one_sentence():
        build(args.exported, args.images, args.output, args.weights)
    print(f"Open {args.output / 'index.html'} in a browser, or upload {args.output} as a static Space.")


if __name__ == "__main__":
    main()

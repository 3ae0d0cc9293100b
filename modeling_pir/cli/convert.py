"""`pir convert` reads checkpoints of other code; `pir export` writes the two encoders in other formats."""

import argparse
import json

from .options import Subparsers, add_command


def add_convert(subparsers: Subparsers) -> None:
    """Options of `pir convert`."""
    parser = add_command(
        subparsers,
        "convert",
        _convert,
        "convert a checkpoint of the official PIR code or of open_clip to a model folder",
        "pir convert RemoteCLIP-ViT-B-32.pt remoteclip",
    )
    parser.add_argument(
        "checkpoint", help=".pth of PIR, or .pt or .safetensors of open_clip (RemoteCLIP, GeoRSCLIP...)"
    )
    parser.add_argument("out_dir", help="folder to write; must not exist yet")
    parser.add_argument("--tokenizer", help="Hub id or folder (default: the one the checkpoint was trained with)")
    group = parser.add_argument_group("PIR")
    group.add_argument("--heads", type=int, help="attention heads of VIR and LCA, for a bare state dict (official: 8)")
    group.add_argument("--filter-size", type=int, help="tokens VIR keeps, for a bare state dict (official: 40)")
    group.add_argument("--text-heads", type=int, help="attention heads of BERT (default: one per 64 channels)")
    group.add_argument("--verify", action="store_true", help="compare the result with the official computation")
    group = parser.add_argument_group("open_clip")
    group.add_argument(
        "--quick-gelu",
        action=argparse.BooleanOptionalAction,
        help="whether the model uses QuickGELU (default: decided by the file's name)",
    )


def _convert(args: argparse.Namespace) -> int:
    """Convert, and say what was done."""
    from ..convert.convert_pir_checkpoint_to_hf import DEFAULT_TOKENIZER, Flags, convert
    from ..convert.open_clip import convert_open_clip, holds_open_clip

    if holds_open_clip(args.checkpoint):
        done = convert_open_clip(args.checkpoint, args.out_dir, args.quick_gelu, args.tokenizer)
        done += ["to index and search with it:"] + [
            f"  pir index FOLDER --index archive.lance --model {args.out_dir}",
            '  pir search "planes beside a terminal" --index archive.lance',
        ]
        print(json.dumps({"out_dir": args.out_dir, "done": done}) if args.json else "\n".join(done))
        return 0
    flags = Flags(args.heads, args.text_heads, args.filter_size)
    done = convert(args.checkpoint, args.out_dir, args.tokenizer or DEFAULT_TOKENIZER, flags, args.verify)
    if args.json:
        print(json.dumps({"out_dir": args.out_dir, "done": done}))
    else:
        done.append(f"{args.out_dir} loads with PIRModel.from_pretrained and PIRProcessor.from_pretrained.")
        print("\n".join(done))
    return 0


def add_export(subparsers: Subparsers) -> None:
    """Options of `pir export`."""
    parser = add_command(
        subparsers,
        "export",
        _export,
        "export both sides to ONNX (for onnxruntime and transformers.js) and torch.export, checked against the model",
        "pir export org/pir-rsicd exported",
    )
    parser.add_argument("model", metavar="MODEL", help="Hub id or folder")
    parser.add_argument("output", metavar="OUT", help="folder to write")


def _export(args: argparse.Namespace) -> int:
    """Export, and say how close the result is."""
    from ..convert.export_encoders import export

    found = export(args.model, args.output)
    if args.json:
        print(json.dumps({"output": args.output, "found": found}))
        return 0
    for name, of_side in found.items():
        print(f"{args.output}/onnx/{name}.onnx and {name}.pt2: at most {of_side['difference']:.1e} from the model")
        for form in ("quantized", "fp16"):
            print(f"{args.output}/onnx/{name}_{form}.onnx: cosine to the model's vectors at least {of_side[form]:.4f}")
    return 0

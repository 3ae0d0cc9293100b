r"""Prune a pretrained BERT to some of its layers and word pieces, as a small text tower.

    python -m training.model.prune_text --text-model sentence-transformers/all-MiniLM-L6-v2 --layers 0 1 2 \
        --vocab-size 3000 --data FOLDER --split-list rsicd --output-dir towers/text

Two thirds of such a model are embeddings of words that no caption has. The pieces of the training captions are kept,
every single character (so that any word can still be spelled), and then the most frequent pieces of the rest: BERT's
vocabularies are sorted by frequency. What is kept is the source's number for number.
"""

import argparse
import json
from pathlib import Path

from transformers import AutoTokenizer, BertModel, BertTokenizer, PreTrainedTokenizerBase

from modeling_pir import PIRProcessor
from modeling_pir.errors import one_sentence
from modeling_pir.hub.whole_folder import whole_folder
from modeling_pir.modeling_pir import load_tower
from modeling_pir.processing_pir import clean_caption
from training.data.sources import load_image_captions
from training.model.provenance import PRUNED_FILE


def choose_pieces(tokenizer: PreTrainedTokenizerBase, captions: list[str], vocab_size: int) -> list[str]:
    """The pieces to keep, in the order of the source.

    Args:
        tokenizer: WordPiece, its vocabulary sorted by frequency.
        captions: all of whose pieces are kept.
        vocab_size: pieces to keep.

    Returns:
        `vocab_size` pieces, or all of a smaller vocabulary.

    Raises:
        ValueError: captions and single characters alone need more.
    """
    number_of = tokenizer.get_vocab()
    pieces = sorted(number_of, key=number_of.get)
    used = {number for ids in tokenizer(sorted(set(captions)))["input_ids"] for number in ids}
    needed = set(tokenizer.all_special_tokens) | {pieces[number] for number in used}
    # ASCII: the vocabulary's other thousands of single characters are scripts that no caption is written in.
    needed |= {piece for piece in pieces if len(piece.removeprefix("##")) == 1 and piece.isascii()}
    if len(needed) > vocab_size:
        raise ValueError(
            f"vocab_size is {vocab_size}, but the captions' pieces and single characters are {len(needed)}: give more."
        )
    others = [piece for piece in pieces if piece not in needed and not piece.startswith("[unused")]
    kept = needed | set(others[: vocab_size - len(needed)])
    return [piece for piece in pieces if piece in kept]


def prune_tower(tower: BertModel, layers: list[int], rows: list[int], max_length: int) -> BertModel:
    """A smaller tower with the source's weights.

    Args:
        tower: the source.
        layers: to keep, from 0, in this order.
        rows: of the word embeddings to keep.
        max_length: positions to keep.

    Returns:
        A new tower without pooling layer.

    Raises:
        ValueError: a layer or position that the source has not.
    """
    depth, positions = tower.config.num_hidden_layers, tower.config.max_position_embeddings
    if not layers or not set(layers) <= set(range(depth)):
        raise ValueError(f"layers is {layers}, but the text model has layers 0 to {depth - 1}.")
    if not 0 < max_length <= positions:
        raise ValueError(f"max_length is {max_length}, but the text model reads 1 to {positions} tokens.")
    config = tower.config.__class__(**tower.config.to_dict())
    config.num_hidden_layers, config.vocab_size, config.max_position_embeddings = len(layers), len(rows), max_length
    pruned = BertModel(config, add_pooling_layer=False)
    state = {}
    for name, tensor in tower.state_dict().items():
        if not name.startswith("encoder.layer."):
            state[name] = tensor
            continue
        number, rest = name.removeprefix("encoder.layer.").split(".", 1)
        for place in (place for place, layer in enumerate(layers) if layer == int(number)):
            state[f"encoder.layer.{place}.{rest}"] = tensor
    state["embeddings.word_embeddings.weight"] = state["embeddings.word_embeddings.weight"][rows]
    state["embeddings.position_embeddings.weight"] = state["embeddings.position_embeddings.weight"][:max_length]
    pruned.load_state_dict({name: state[name] for name in pruned.state_dict()})
    return pruned.eval()


def prune(
    text_model: str,
    layers: list[int],
    captions: list[str],
    vocab_size: int,
    output_dir: str,
    name: str | None = None,
) -> Path:
    """Write a small tower with its tokenizer: what `backbones: {text: ...}` and `tokenizer:` of a run read.

    Args:
        text_model: Hub id or folder of a BERT.
        layers: to keep.
        captions: of the training split, cleaned as in training.
        vocab_size: pieces to keep.
        output_dir: new folder.
        name: what reports and cards call the source; None for its id, or the name of its folder.

    Returns:
        The folder; `pruned.json` in it says what it was made from.

    Raises:
        ValueError: no BERT, or nothing that can be cut so.
    """
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    tower = load_tower(text_model, "text")
    if not isinstance(tower, BertModel):
        raise ValueError(f"{text_model!r} is a {type(tower).__name__}, but only BERT's layers and words can be cut.")
    pieces = choose_pieces(tokenizer, captions, vocab_size)
    number_of = tokenizer.get_vocab()
    max_length = PIRProcessor.text_kwargs["max_length"]
    pruned = prune_tower(tower, layers, [number_of[piece] for piece in pieces], max_length)
    pruned.config.pad_token_id = pieces.index(tokenizer.pad_token)
    small = BertTokenizer(vocab={piece: row for row, piece in enumerate(pieces)}, model_max_length=max_length)
    with whole_folder(output_dir) as folder:
        pruned.save_pretrained(folder)
        small.save_pretrained(folder)
        source = name or (Path(text_model).name if Path(text_model).is_dir() else text_model)
        facts = {"source": source, "layers": layers, "of_layers": tower.config.num_hidden_layers}
        facts |= {"pieces": len(pieces), "of_pieces": len(number_of)}
        (folder / PRUNED_FILE).write_text(json.dumps(facts, indent=2) + "\n")
    return Path(output_dir)


def main() -> None:
    """Run the command; bad input gets one sentence."""
    parser = argparse.ArgumentParser("python -m training.model.prune_text", description=__doc__.split("\n\n")[0])
    parser.add_argument("--text-model", required=True, help="Hub id or folder of a BERT")
    parser.add_argument("--name", help="name in reports and cards (default: the id, or the folder's name)")
    parser.add_argument("--layers", type=int, nargs="+", required=True, help="layers to keep, from 0")
    parser.add_argument("--vocab-size", type=int, default=3000, help="word pieces to keep (default: 3000)")
    parser.add_argument("--data", required=True, help="data whose training captions choose the word pieces")
    parser.add_argument("--split-list", help="published split: rsicd, rsitmd or ucm")
    parser.add_argument("--output-dir", required=True, help="folder to write")
    args = parser.parse_args()
    with one_sentence():
        rows = load_image_captions(args.data, "train", args.split_list)
        captions = [clean_caption(caption) for captions in rows["captions"] for caption in captions]
        folder = prune(args.text_model, args.layers, captions, args.vocab_size, args.output_dir, args.name)
        tower = load_tower(str(folder), "text")
    size = sum(parameter.numel() for parameter in tower.parameters()) / 1e6
    print(f"{folder}: {len(args.layers)} layers, {tower.config.vocab_size} pieces, {size:.1f} M parameters.")


if __name__ == "__main__":
    main()

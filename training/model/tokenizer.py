"""The tokenizer of a run: learned from the training captions, or that of a checkpoint."""

import warnings

from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase

from modeling_pir import PIRProcessor
from modeling_pir.processing_pir import clean_caption
from training.config import TrainConfig

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def train_tokenizer(captions: list[str], vocab_size: int, max_length: int) -> BertTokenizer:
    """Learn an uncased WordPiece vocabulary.

    Args:
        captions: the training captions.
        vocab_size: pieces, at most.
        max_length: tokens a text is cut to.

    Returns:
        A BertTokenizer.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    characters = sorted({character for caption in captions for character in caption.lower() if not character.isspace()})
    # The trainer numbers characters in the order of a hash table and breaks ties between equally frequent pieces by
    # those numbers, so two trainings differ. Named beforehand, they have fixed numbers.
    first_pieces = [*SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters)]
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=first_pieces, show_progress=False)
    tokenizer.train_from_iterator(sorted(captions), trainer)
    return BertTokenizer(vocab=tokenizer.get_vocab(), model_max_length=max_length)


def build_tokenizer(config: TrainConfig, train_split: Dataset) -> PreTrainedTokenizerBase:
    """The tokenizer of a run: that of a checkpoint, or one learned from the training captions."""
    if config.tokenizer != "train":
        return AutoTokenizer.from_pretrained(config.tokenizer)
    if config.backbones is not None:
        warnings.warn("A new vocabulary has no use for a pretrained text tower's word embeddings.", stacklevel=2)
    captions = [caption for captions in train_split["captions"] for caption in captions]
    if config.caption_cleaning:
        captions = [clean_caption(caption) for caption in captions]
    max_length = PIRProcessor.text_kwargs["max_length"]
    return train_tokenizer(captions, config.vocab_size, max_length)

"""A sentence-transformers model with random weights, small enough to train in a second."""

import re
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from p4r_qdrant.encoder.fingerprint import PROBES, TWIN


def save_tiny_model(folder: Path, words: str, *, seed: int = 0) -> Path:
    """A BERT of two layers, 32 wide, that knows these words, and those that tell encoders apart."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    known = special + sorted(
        set(re.findall(r"\w+|[^\w\s]", " ".join([words, *PROBES, TWIN]).lower()))
    )
    vocabulary = {word: number for number, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(seed)
    bert = BertModel(
        BertConfig(
            vocab_size=len(known),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=48,
            hidden_dropout_prob=0.1,
        )
    )
    parts = folder / "parts"
    bert.save_pretrained(parts)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=48,
    ).save_pretrained(parts)
    transformer = Transformer(str(parts))
    model = SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension())], device="cpu"
    )
    model.save(str(folder / "model"))
    return folder / "model"

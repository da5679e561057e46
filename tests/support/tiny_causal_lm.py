"""A causal language model with random weights, small enough to tune in a second."""

import re
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_PIECE = r"\w+|[^\w\s]|\s"


def save_tiny_causal_lm(
    folder: Path, words: str, *, positions: int = 512, seed: int = 0, writes: bool = False
) -> Path:
    """A Llama of two layers, 64 wide, that knows these words.

    writes: its tokens hold blanks and line breaks too, so that it can write any text of its words.
    """
    special = ["[PAD]", "[UNK]", "[EOS]"]
    known = special + sorted(set(re.findall(_PIECE if writes else r"\w+|[^\w\s]+", words)))
    vocabulary = {word: number for number, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    if writes:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), "isolated")
        tokenizer.decoder = decoders.Fuse()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(known),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=positions,
            initializer_range=0.2,
            eos_token_id=special.index("[EOS]"),
            bos_token_id=None,
            pad_token_id=special.index("[PAD]"),
        )
    )
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]"
    ).save_pretrained(folder)
    return folder

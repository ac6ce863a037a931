"""Tiny random bases of real architectures, and small data files whose texts say their labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

SPECIALS = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
_NOISE = """
the a of and to in it is was for on with as his her they be at one have this from by hot
word what some we can out other were all there when up use your how said each she which do their time will way about
many then them
"""
NOISE = _NOISE.split()
EMOTIONS = ["anger", "anticipation", "disgust", "fear", "joy", "love", "optimism", "pessimism"]
EMOTIONS += ["sadness", "surprise", "trust"]
SENTIMENTS = ["negative", "neutral", "positive"]
WORDS = [*NOISE, *EMOTIONS, *SENTIMENTS]
VOCABULARY = 128

# Each side of every linear layer is a multiple of 64, bitsandbytes' block size.
DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": None,
}
ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", DECODER),
    "mistral": ("mistral", DECODER | {"sliding_window": 16}),
    "gemma": ("gemma", DECODER | {"pad_token_id": 0}),
    "gemma3": (
        "gemma3_text",
        DECODER
        | {"pad_token_id": 0, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
        | {"query_pre_attn_scalar": 32},
    ),
    "gemma3-bidirectional": (
        "gemma3_text",
        DECODER
        | {"pad_token_id": 0, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
        | {"query_pre_attn_scalar": 32, "use_bidirectional_attention": True},
    ),
    "gemma2": ("gemma2", DECODER | {"pad_token_id": 0, "sliding_window": 16, "query_pre_attn_scalar": 32}),
    "falcon": (
        "falcon",
        {name: DECODER[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
        | {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
    ),
    "qwen3": ("qwen3", DECODER),
    "phi3": ("phi3", DECODER | {"pad_token_id": 0}),
    "olmo2": ("olmo2", DECODER | {"pad_token_id": 0}),
    "gpt-neox": ("gpt_neox", DECODER | {"pad_token_id": 0}),
    "electra": ("electra", ENCODER | {"embedding_size": 64}),
    "mpnet": ("mpnet", ENCODER | {"pad_token_id": 1}),
    "deberta-v2": ("deberta-v2", ENCODER | {"type_vocab_size": 0, "relative_attention": True}),
    "bert": ("bert", ENCODER),
    "roberta": ("roberta", ENCODER | {"type_vocab_size": 1}),
    "xlm-roberta": ("xlm-roberta", ENCODER | {"type_vocab_size": 1}),
    "distilbert": (
        "distilbert",
        {"vocab_size": VOCABULARY, "dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4, "pad_token_id": 0}
        | {"max_position_embeddings": 256},
    ),
}


def tiny_model(folder: Path, architecture: str) -> Path:
    """Save a random base of that architecture with a tokenizer, like a released base: config, safetensors, no head."""
    kind, settings = ARCHITECTURES[architecture]
    config = AutoConfig.for_model(kind, **settings)
    decoder = "bos_token_id" in settings
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (AutoModelForCausalLM if decoder else AutoModel).from_config(config)
    model.save_pretrained(folder)
    tiny_tokenizer(decoder).save_pretrained(folder)
    return folder


def tiny_tokenizer(decoder: bool) -> PreTrainedTokenizerFast:
    """Tokens are whole words. Decoders' texts begin with `<s>`, encoders' end with `</s>`; decoders have no pad."""
    vocabulary = {word: i for i, word in enumerate([*SPECIALS, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A" if decoder else "<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    specials = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    if not decoder:
        specials |= {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials)


def tiny_rows(labels: Sequence[str], n: int, seed: int, *, single: str | None = None) -> list[dict[str, Any]]:
    """Rows with a column `text` and a 0/1 column per label, or (single) one column of that name with a label.

    A text has random words and, for each label that is set, the label's own word.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        on = [labels[i % len(labels)]]
        if single is None:
            on += [label for label in labels if label not in on and rng.random() < 0.2]
        words = [*rng.choice(NOISE, size=rng.integers(4, 12)), *on]
        text = " ".join(rng.permutation(words)) + f" {i} {seed}"  # no text occurs twice
        columns = {single: on[0]} if single else {label: int(label in on) for label in labels}
        rows.append({"text": text, **columns})
    return rows


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows in the format of the path's ending: CSV, TSV (no quoting), Parquet or JSONL."""
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as stream:
            plain: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
            writer = csv.DictWriter(stream, list(rows[0]), **(plain if path.suffix == ".tsv" else {}))
            writer.writeheader()
            writer.writerows(rows)
    return path

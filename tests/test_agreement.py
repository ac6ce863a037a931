"""Do training, `predict` and the code of an exported model card give every text the same labels?

They do whatever the base's configuration and tokenizer say, and however far from zero the logits are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tokenizers import AddedToken
from transformers import AutoTokenizer, Gemma3Config, PreTrainedTokenizerBase

from peftsweep.config import ModelConfig, TrainConfig
from peftsweep.engine.packed_model import PackedModel
from peftsweep.errors import DataError, ExportError
from peftsweep.export import Classifier, exporting
from peftsweep.export import manifest as manifests
from peftsweep.export.model_card import code_blocks
from peftsweep.export.verification import check_card
from peftsweep.methods import METHODS
from peftsweep.models import linear_names, load_base, load_tokenizer, revision_of
from peftsweep.storage import StudyRecord, TrialRecord
from peftsweep.study import results
from peftsweep.task import Task, probabilities, thresholds_from_probabilities
from peftsweep.trial_state import TrialState
from tests.architectures import tiny_base
from tests.packs import CPU
from tests.test_base_as_asked import HELD, save_quantised
from tests.tiny import NOISE, VOCABULARY, tiny_model, tiny_tokenizer

MULTI, SINGLE = Task("multi-label", ("anger", "joy", "trust")), Task("single-label", ("anger", "joy", "trust"))
PARAMS = TrainConfig(rank=2)
RNG = np.random.default_rng(5)
TEXTS = [" ".join(RNG.choice(NOISE, 1 + i % 11)) for i in range(40)]
TEXTS += ["<pad>", "joy <pad> joy", "the a <pad>", "</s>", "joy </s> joy </s>", "<s> joy", "<mask> <unk> what", "<unk>"]


class Trained:
    """A trial as a sweep leaves it, but without the sweep: a random adapter, and the logits that a pack gives."""

    def __init__(self, base: Path, task: Task, to: Path, method: str = "lora", scale: float = 1.0) -> None:
        self.task, self.to = task, to
        model = {"id": str(base), "dtype": "float32"}
        loaded = load_base(ModelConfig(**model), task, four_bit=METHODS[method].four_bit, device=CPU)
        tokenizer = load_tokenizer(ModelConfig(**model))
        self.ids = [np.array(ids) for ids in tokenizer(TEXTS, truncation=True, max_length=24)["input_ids"]]
        kind = METHODS[method](loaded.model, linear_names(loaded.model))
        packed = PackedModel(loaded.model, kind, [PARAMS], 1, sorted(self.ids, key=len), self.ids)
        every = frozenset(layer.name for layer in packed.stack.layers)
        packed.stack.start(0, PARAMS, every, torch.Generator().manual_seed(0))
        weights = packed.stack.split(0, packed.stack.weights[0], PARAMS)
        draws = torch.Generator().manual_seed(1)
        for name, part in weights.items():
            part.normal_(std=scale if name.partition(":")[0] in packed.heads else 0.3, generator=draws)
        rows = packed.pack_texts([0], [np.arange(len(self.ids))], packed.corpus(self.ids))
        with torch.no_grad():
            self.logits = packed.logits(rows, packed.context.no_dropout)[: len(self.ids)].numpy()
        wrong = np.random.default_rng(0).random(self.logits.shape) < 0.1
        self.labels: Any = (self.logits > np.median(self.logits, axis=0)) ^ wrong
        if not task.multi_label:
            self.labels = self.logits.argmax(axis=1)
        kind.export(to / "trial" / "adapter", weights=weights, params=PARAMS, source=str(base), revision=None)
        packed.release()
        data = {"train": "train.csv", "text": "text", "max_length": 24}
        data |= {"labels": list(task.labels) if task.multi_label else "label"}
        shared = StudyRecord.model_validate(
            {"config": {"model": model, "method": method, "data": data, "space": {}}, "fingerprint": "0123"}
            | {"experiment": "e", "labels": list(task.labels), "kind": task.kind, "base": revision_of(loaded)}
            | {"described": {"dtype": "float32"}}
        )
        own = TrialRecord.model_validate({"number": 0, "state": TrialState.RUNNING, "drawn": {}, "reported": {}})
        self.chosen = results.Finished("small", 0, to / "trial", own, shared)

    def export(self, *, merge: bool = False) -> Path:
        folder = self.to / "out"
        folder.mkdir()
        rows = self.logits, self.labels, self.ids
        exporting._write(self.chosen, rows, folder, str(folder), merge=merge, note=lambda text: None)
        return folder


def labels_by_card(folder: Path, texts: list[str]) -> list[tuple[str, ...]]:
    """The labels that the code of the card gives."""
    names: dict[str, Any] = {"texts": texts}
    for block in re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL):
        exec(block, names)
    return [(found,) if isinstance(found, str) else tuple(found) for found in names["found"]]


def assert_labels_agree(trained: Trained, folder: Path) -> None:
    """Compare the labels of all texts, except those that rounding alone decides."""
    found, logits = manifests.read(folder), trained.logits
    expected = [tuple(label for label, on in zip(found.labels, row, strict=True) if on) for row in found.on(logits)]
    assert len(set(expected)) > (2 if found.task.multi_label else 1)
    best = np.sort(logits, axis=1)
    far = np.abs(logits - found.cuts).min(axis=1) if found.cuts is not None else best[:, -1] - best[:, -2]
    clear = np.flatnonzero(far > 1e-4 * np.abs(logits).max())
    assert len(clear) >= len(TEXTS) - 2
    theirs = [each.labels for each in Classifier(folder).predict(TEXTS)]
    assert [theirs[i] for i in clear] == [expected[i] for i in clear]
    mixed = np.random.default_rng(1).permutation(clear)
    assert labels_by_card(folder, [TEXTS[i] for i in mixed]) == [expected[i] for i in mixed]


def llama(folder: Path, pad: int | None, pads_with: str | None, side: str = "right") -> Path:
    """A decoder whose configuration and tokenizer name different padding tokens."""
    tiny_model(folder, "llama")
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {"pad_token_id": pad}))
    tokenizer = tiny_tokenizer(decoder=True)
    tokenizer.add_special_tokens({"mask_token": "<mask>"} | ({} if pads_with is None else {"pad_token": pads_with}))
    tokenizer.padding_side = side
    tokenizer.save_pretrained(folder)
    return folder


def roberta(folder: Path) -> Path:
    """An encoder that counts positions from token 0 and whose tokenizer pads on the left, with another token."""
    tiny_model(folder, "roberta")
    tokenizer = AutoTokenizer.from_pretrained(folder, pad_token="<mask>", padding_side="left")
    tokenizer.save_pretrained(folder)
    return folder


def gemma3(folder: Path) -> Path:
    """A base that also reads images, and whose configuration for texts has no padding token."""
    base = tiny_base(Gemma3Config)
    base.config.text_config.pad_token_id = None
    base.save_pretrained(folder)
    tiny_tokenizer(decoder=True).save_pretrained(folder)
    return folder


BASES: dict[str, Callable[[Path], Path]] = {
    "its own": lambda folder: llama(folder, pad=1, pads_with="<mask>"),
    "on the left": lambda folder: llama(folder, pad=None, pads_with=None, side="left"),
    "no token": lambda folder: llama(folder, pad=VOCABULARY, pads_with=None),
    "a word": lambda folder: llama(folder, pad=9, pads_with="<pad>"),
    "roberta": roberta,
    "gemma3": gemma3,
}


@pytest.mark.parametrize("base", BASES)
def test_all_three_agree_on_the_padding_token(tmp_path: Path, base: str) -> None:
    trained = Trained(BASES[base](tmp_path / "base"), MULTI if base != "a word" else SINGLE, tmp_path)
    assert_labels_agree(trained, trained.export())


@pytest.mark.parametrize("task", [MULTI, SINGLE], ids=lambda task: task.kind)
@pytest.mark.parametrize("merge", [False, True])
def test_labels_agree_for_logits_whose_probabilities_round_to_zero_or_one(
    tmp_path: Path, merge: bool, task: Task
) -> None:
    trained = Trained(llama(tmp_path / "base", pad=0, pads_with="<pad>"), task, tmp_path, scale=300.0)
    assert np.abs(trained.logits).max() > 500 and (np.abs(trained.logits) > 37).mean() > 0.8
    assert_labels_agree(trained, trained.export(merge=merge))


def test_labels_agree_on_a_base_stored_in_4_bits(tmp_path: Path) -> None:
    save_quantised(tiny_model(tmp_path / "base", "llama"), tmp_path / "held", HELD["nf4"])
    trained = Trained(tmp_path / "held", MULTI, tmp_path, "qlora")
    assert_labels_agree(trained, trained.export())
    assert "BitsAndBytesConfig" not in (tmp_path / "out" / "README.md").read_text()


def test_an_export_that_stock_code_reads_differently_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Trained(llama(tmp_path / "base", pad=1, pads_with="<mask>"), MULTI, tmp_path)
    save = PreTrainedTokenizerBase.save_pretrained

    def save_uncorrected(tokenizer: Any, *given: Any, **options: Any) -> Any:
        tokenizer.pad_token = "<mask>"  # undo the correction that the export makes
        return save(tokenizer, *given, **options)

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", save_uncorrected)
    with pytest.raises(ExportError, match=r"model card .*logits"):
        trained.export()


def test_a_card_with_other_code_is_refused(tmp_path: Path) -> None:
    """The check runs the text of the card, as a reader would copy it."""
    trained = Trained(llama(tmp_path / "base", pad=0, pads_with="<pad>"), MULTI, tmp_path)
    folder = trained.export()
    text, found = (folder / "README.md").read_text(), manifests.read(folder)
    ours = np.array(trained.logits)
    check_card(code_blocks(text), TEXTS, ours, found, exact=True)
    for own, other, said in [
        (
            "padding=True",
            "padding=False",
            "the code of the model card does not run: ValueError: Unable to create tensor",
        ),
        ("peft.PeftModel", "peft.NoSuch", "the code of the model card does not run: AttributeError: "),
        ("pad_token_id=0", "pad_token_id=7", "logits of `peftsweep predict`: they"),
        ("logit > cut]", "logit > cut + 9]", "does not give the labels of `peftsweep predict`: the folder is not kept"),
    ]:
        assert own in text
        with pytest.raises(ExportError, match=re.escape(said)):
            check_card(code_blocks(text.replace(own, other)), TEXTS, ours, found, exact=True)


def test_the_error_says_why_an_export_fails(tmp_path: Path) -> None:
    base = llama(tmp_path / "base", pad=0, pads_with="<pad>")
    trained = Trained(base, MULTI, tmp_path)
    before, held = trained.logits.copy(), [int((ids == 0).any()) for ids in trained.ids]
    assert sum(held) == 3

    def refusal() -> str:
        with pytest.raises(ExportError, match=r" of 48 texts differ") as caught:
            trained.export()
        (tmp_path / "out").rename(tmp_path / f"out-{len(list(tmp_path.iterdir()))}")
        return str(caught.value)

    trained.logits[np.array(held) == 1] += 1
    assert "3 of 48 texts differ" in (said := refusal()) and "each contains the padding token" in said
    trained.logits[:] = before
    trained.logits[7] += 1
    assert "1 of 48 texts differ" in (said := refusal()) and "the first that differs is validation row 8." in said
    trained.logits[:] = before + 1
    assert (
        "48 of 48 texts differ" in (said := refusal())
        and "the adapter's files or the base's code have changed since" in said
    )


def test_a_token_that_the_base_lacks_is_named(tmp_path: Path) -> None:
    base = llama(tmp_path / "base", pad=0, pads_with="<pad>")
    tokenizer = AutoTokenizer.from_pretrained(base)
    more = [f"<extra_{i}>" for i in range(VOCABULARY - len(tokenizer) + 2)]
    tokenizer.add_tokens([AddedToken(token) for token in more])
    tokenizer.save_pretrained(base)
    classifier = Classifier(Trained(base, MULTI, tmp_path).export())
    assert len(classifier.predict([more[-3]])) == 1
    with pytest.raises(DataError, match=rf"^text 2: has '{more[-1]}', a token that the base does not have$"):
        classifier.predict(["joy", f"joy {more[-1]}"])


def test_a_folder_of_version_0_1_0_still_predicts(tmp_path: Path) -> None:
    trained = Trained(llama(tmp_path / "base", pad=0, pads_with="<pad>"), MULTI, tmp_path)
    folder = trained.export()
    new, ordered = manifests.read(folder), np.sort(trained.logits.astype(np.float64), axis=0)
    assert ordered.min() > -36 and ordered.max() < 36
    middle = len(ordered) // 2
    cuts = ordered[middle - 1 : middle + 1].mean(axis=0)  # each label is on in half of the rows
    shares = tuple(0.5 * (1 + np.tanh(0.5 * cuts)))  # thresholds as version 0.1.0 stored them
    old = new.model_copy(update={"thresholds": shares, "cuts": None, "pad": None})
    old.write(folder)
    assert not {"cuts", "pad"} & json.loads((folder / manifests.NAME).read_text()).keys()
    found = [each.labels for each in Classifier(folder).predict(TEXTS)]
    on = 0.5 * (1 + np.tanh(0.5 * trained.logits.astype(np.float64))) > np.array(shares)
    assert found == [tuple(label for label, is_on in zip(old.labels, row, strict=True) if is_on) for row in on]
    assert on.mean(axis=0).min() > 0 and on.mean(axis=0).max() < 1


def test_probabilities_and_thresholds_at_both_extremes() -> None:
    logits = np.array([-800.0, -40.0, -1.0, 0.0, 1.0, 36.0, 800.0])
    shares = probabilities(logits)
    assert shares[0] == 0 and 0 < shares[1] < 1e-17 and shares[3] == 0.5 and shares[-1] == 1
    assert thresholds_from_probabilities(list(shares[2:5])) == pytest.approx(logits[2:5])
    assert thresholds_from_probabilities([shares[5]]) == pytest.approx([36], abs=0.2)
    assert thresholds_from_probabilities([0.0, np.nextafter(1.0, 0.0), 1.0]) == pytest.approx(
        [-37.43, 36.74, np.inf], abs=0.01
    )


def test_a_manifest_with_invalid_thresholds_is_refused() -> None:
    said = {"version": "1", "study": "s", "trial": 0, "method": "lora", "model": {"id": "b"}, "base": "0", "text": "t"}
    said |= {"kind": "multi-label", "labels": ["a", "b"], "thresholds": [0.5, 0.5], "max_length": 9, "merged": False}
    said |= {"fingerprint": "0", "scores": {}, "files": {}}
    assert manifests.Manifest.model_validate(said | {"cuts": [-50.0, 3.5], "pad": 0}).cuts == (-50.0, 3.5)
    for wrong in ({"cuts": [1.0]}, {"cuts": [1.0, float("nan")]}, {"cuts": [1.0, float("inf")]}, {"pad": -1}):
        with pytest.raises(ValidationError):
            manifests.Manifest.model_validate(said | wrong)

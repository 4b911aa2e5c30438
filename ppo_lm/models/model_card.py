"""README.md beside an adapter: the lines that load it without ppo_lm."""

from __future__ import annotations

from pathlib import Path

from ppo_lm.models.adapter_check import CONFIG_FILE
from ppo_lm.models.base_model import BaseModel

CARD = "README.md"

POLICY = """# A policy trained with ppo_lm

A LoRA adapter on `{name}`. {remark}It loads without ppo_lm, from the path `folder` of this folder:

```python
import torch
from peft import {classes}
from transformers import AutoModelForCausalLM

base = {base}
model = PeftModel.from_pretrained(base, folder)
```
"""

ANSWERING = """
The tokenizer is in the same folder:

```python
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
prompt = tokenizer("How do I boil an egg?", return_tensors="pt")
answer = model.generate(prompt.input_ids, attention_mask=prompt.attention_mask, max_new_tokens=64)
print(tokenizer.decode(answer[0]))
```
"""

CLASSIFIER = """# A reward model trained with ppo_lm

A LoRA adapter on `{name}` and a head, as a sequence classifier. {remark}It loads without ppo_lm, from the path `folder`
of this folder, and gives the same scores for token ids of prompt and response, the end token included, that are padded
on the right with `pad_token_id`:

```python
import torch
from peft import {classes}
from transformers import AutoModelForSequenceClassification

base = {base}
model = PeftModel.from_pretrained(base, folder).eval()


def scores(input_ids, attention_mask):
    return model(input_ids=input_ids, attention_mask=attention_mask).logits[:, 0] + {shift}
```

While the base loads, transformers reports that `score.weight` is missing: the head is in this folder, and loaded last.
The scale of the scores is in the head. Classifiers of transformers have no bias, so their mean, on the completions that
`ppo-lm reward` normalised on, is the number that is added.
"""

GGUF = "Its base is a GGUF file, which `from_pretrained` reads only with `gguf_file`. "


def write_policy_card(base: BaseModel, folder: Path) -> None:
    """Write the card of the policy's adapter in `folder`, with the lines that generate if the tokenizer is there."""
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    _write(folder, POLICY + (ANSWERING if has_tokenizer else ""), base, "AutoModelForCausalLM", {})


def write_classifier_card(base: BaseModel, folder: Path, shift: float) -> None:
    """Write the card of a reward model's adapter and head in `folder`. `shift`: to add to the classifier's logits."""
    options = {"num_labels": 1, "pad_token_id": base.pad_token_id}
    _write(folder, CLASSIFIER, base, "AutoModelForSequenceClassification", options, shift=shift)


def _write(
    folder: Path, template: str, base: BaseModel, loader: str, options: dict[str, int], **numbers: float
) -> None:
    line, classes = _load(base, loader, options)
    remark = GGUF if "gguf_file" in line else ""
    text = template.format(name=base.name, remark=remark, base=line, classes=classes, **numbers)
    (folder / CARD).write_text(text, encoding="utf-8")


def _load(base: BaseModel, loader: str, options: dict[str, int]) -> tuple[str, str]:
    """(the expression that loads the base, the classes of peft that it needs)."""
    more = "".join(f", {name}={value}" for name, value in options.items()) + f", dtype={base.dtype}"
    place = Path(base.name)
    if place.suffix == ".gguf":
        return f"{loader}.from_pretrained({str(place.parent)!r}, gguf_file={place.name!r}{more})", "PeftModel"
    if (place / CONFIG_FILE).is_file():
        auto = loader.replace("AutoModel", "AutoPeftModel")
        return f"{auto}.from_pretrained({base.name!r}{more}).merge_and_unload()", f"{auto}, PeftModel"
    return f"{loader}.from_pretrained({base.name!r}{more})", "PeftModel"

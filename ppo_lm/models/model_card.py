"""README.md beside a model: the lines that load it without ppo_lm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ppo_lm.fast.quantisation import NF4, NONE
from ppo_lm.markdown import code
from ppo_lm.models.adapter_check import CONFIG_FILE, check_adapter_folder
from ppo_lm.models.base_model import BaseModel
from ppo_lm.models.base_stamp import read_stamp

CARD = "README.md"

POLICY = """# A policy trained with ppo_lm

A LoRA adapter on {name}. {remark}It loads without ppo_lm, from the path `folder` of this folder:

{lines}"""

ONLY_HERE = """# Trained with ppo_lm

A LoRA adapter on {name}. {reason}
"""

ADAPTER = """```python
import torch
from peft import {classes}
from transformers import AutoModelForCausalLM{config}

base = {base}
model = PeftModel.from_pretrained(base, {place})
```
"""

MERGED = """```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({place}, dtype="auto")
```
"""

ANSWERING = """
The tokenizer is in the same folder:

```python
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({place})
prompt = tokenizer("How do I boil an egg?", return_tensors="pt")
answer = model.generate(prompt.input_ids, attention_mask=prompt.attention_mask, max_new_tokens=64)
print(tokenizer.decode(answer[0]))
```
"""

CLASSIFIER = """# A reward model trained with ppo_lm

A LoRA adapter on {name} and a head, as a sequence classifier. {remark}It loads without ppo_lm, from the path `folder`
of this folder, and gives the same scores for token ids of prompt and response, the end token included, that are padded
on the right with `pad_token_id`:

```python
import torch
from peft import {classes}
from transformers import AutoModelForSequenceClassification{config}

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
QUANTISED = (
    "It was trained on this base in {kind}. The layers of bitsandbytes, which hold it below, round more than ppo_lm's; "
    "`base = base.dequantize()` before the adapter is loaded gives the numbers of the run, and takes the memory of a "
    "base that is not quantised. "
)
LOADED_HERE = (
    "It was trained on weights in {kind} that transformers cannot load in the same way, so it loads with ppo_lm only."
)


def write_policy_card(base: BaseModel, folder: Path) -> None:
    """Write the card of the policy's adapter in `folder`, with the lines that generate if the tokenizer is there."""
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    reason = why_only_here(base.name, base.quantisation)
    if reason:
        _write(folder, ONLY_HERE.format(name=code(base.name), reason=reason))
        return
    lines = adapter_lines(base.name, base.dtype, base.quantisation)
    text = POLICY.format(name=code(base.name), remark=remark_on(lines, base.quantisation), lines=lines)
    _write(folder, text + (answering_lines() if has_tokenizer else ""))


def why_only_here(base: str, quantisation: str) -> str | None:
    """A sentence if transformers and peft cannot load an adapter on the model `base` as it was trained; else None."""
    place, quantised = Path(base), quantisation
    while quantised == NONE and (place / CONFIG_FILE).is_file():
        stamp = read_stamp(place)
        quantised = NONE if stamp is None else stamp.quantisation
        place = Path(check_adapter_folder(place)["base_model_name_or_path"])
    is_plain = Path(base).suffix != ".gguf" and not (Path(base) / CONFIG_FILE).is_file()
    return None if quantised == NONE or is_plain else LOADED_HERE.format(kind=quantised)


def adapter_lines(base: str, dtype: torch.dtype, quantisation: str = NONE, place: str = "folder") -> str:
    """A block of Python that loads an adapter on the model `base` as `model`. `place`: the arguments that name its
    folder."""
    line, classes = _base_loader(base, dtype, "AutoModelForCausalLM", quantisation)
    return ADAPTER.format(base=line, classes=classes, config=_config_class(quantisation), place=place)


def merged_lines(place: str) -> str:
    """A block of Python that loads a transformers model as `model`. `place`: see `adapter_lines`."""
    return MERGED.format(place=place)


def answering_lines(place: str = "folder") -> str:
    """A block of Python in which `model` answers with the tokenizer that is in its folder."""
    return ANSWERING.format(place=place)


def write_classifier_card(base: BaseModel, folder: Path, shift: float) -> None:
    """Write the card of a reward model's adapter and head in `folder`. `shift`: to add to the classifier's logits."""
    reason = why_only_here(base.name, base.quantisation)
    if reason:
        _write(folder, ONLY_HERE.format(name=code(base.name), reason=reason))
        return
    options = {"num_labels": 1, "pad_token_id": base.pad_token_id}
    line, classes = _base_loader(
        base.name, base.dtype, "AutoModelForSequenceClassification", base.quantisation, options
    )
    text = CLASSIFIER.format(
        name=code(base.name),
        remark=remark_on(line, base.quantisation),
        base=line,
        classes=classes,
        config=_config_class(base.quantisation),
        shift=shift,
    )
    _write(folder, text)


def _write(folder: Path, text: str) -> None:
    (folder / CARD).write_text(text, encoding="utf-8")


def remark_on(lines: str, quantisation: str) -> str:
    """Sentences about a base that `lines` load from a GGUF file, or quantised; empty for any other."""
    return (GGUF if "gguf_file=" in lines else "") + (
        QUANTISED.format(kind=quantisation) if quantisation != NONE else ""
    )


def _config_class(quantisation: str) -> str:
    return "" if quantisation == NONE else ", BitsAndBytesConfig"


def _config(quantisation: str) -> str:
    """What makes transformers quantise as ppo_lm does."""
    if quantisation == NF4:
        return 'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)'
    return "BitsAndBytesConfig(load_in_8bit=True)"


def _base_loader(
    base: str, dtype: torch.dtype, loader: str, quantisation: str, options: Mapping[str, int] | None = None
) -> tuple[str, str]:
    """(the expression that loads the base, the classes of peft that it needs)."""
    more = "".join(f", {name}={value}" for name, value in (options or {}).items()) + f", dtype={dtype}"
    more += f", quantization_config={_config(quantisation)}" if quantisation != NONE else ""
    place = Path(base)
    if place.suffix == ".gguf":
        return f"{loader}.from_pretrained({str(place.parent)!r}, gguf_file={place.name!r}{more})", "PeftModel"
    if (place / CONFIG_FILE).is_file():
        auto = loader.replace("AutoModel", "AutoPeftModel")
        return f"{auto}.from_pretrained({base!r}{more}).merge_and_unload()", f"{auto}, PeftModel"
    return f"{loader}.from_pretrained({base!r}{more})", "PeftModel"

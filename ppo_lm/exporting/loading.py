"""The lines of a model card that load each part."""

from __future__ import annotations

import shlex
from pathlib import Path

from ppo_lm.config.export_config import ADAPTER, GGUF, MERGED, REWARD, VALUE
from ppo_lm.exporting.places import Places
from ppo_lm.exporting.source import Source
from ppo_lm.exporting.vllm import largest_rank
from ppo_lm.fast.quantisation import NONE
from ppo_lm.markdown import block, code
from ppo_lm.models.adapter_check import check_adapter_folder
from ppo_lm.models.model_card import adapter_lines, answering_lines, merged_lines, remark_on, why_only_here
from ppo_lm.models.score_head import HEAD_FILE

DOWNLOAD = "from huggingface_hub import hf_hub_download"
HEAD = """```python
{imports}

head = load_file({file})


def values(input_ids, attention_mask):
    states = model.get_decoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    return states.float() @ head["weight"][0] + head["bias"]
```"""


def describe_loading(source: Source, places: Places, folder: Path, name: str) -> list[str]:
    """Lines of Markdown with a section for each part of the export in `folder`."""
    sections = {
        ADAPTER: lambda: _adapter(source, places, folder, name),
        MERGED: lambda: _merged(places),
        VALUE: lambda: _value(source, places),
        REWARD: lambda: _reward(places),
        GGUF: lambda: [f"For llama.cpp: {', '.join(code(file.name) for file in sorted(folder.glob('*.gguf')))}."],
    }
    lines = ["In Python, `folder` is the path of this folder; in a shell, it is the working folder.", ""]
    if places.repository is not None:
        download = shlex.join(["hf", "download", places.repository, "--local-dir", "."])
        lines = [f"In a shell, the working folder is one that {code(download)} has filled.", ""]
    for part in places.parts:
        lines += [f"### {part}", "", *sections[part](), ""]
    return lines[:-1]


def _adapter(source: Source, places: Places, folder: Path, name: str) -> list[str]:
    place = places.arguments(ADAPTER)
    reason = why_only_here(source.base, source.quantisation)
    if reason:
        return [f"A LoRA adapter on {code(source.base)}. {reason}"]
    lines = adapter_lines(source.base, source.dtype, source.quantisation, place)
    rank = largest_rank(check_adapter_folder(folder / ADAPTER))
    if source.quantisation != NONE:
        served = [f"In vLLM, serve {MERGED} instead, so that the base is the one that was quantised."]
    elif rank is None:
        served = ["vLLM cannot load it: its rank or its scale is not one that vLLM supports for all layers."]
    else:
        module = f"{name}={places.repository_or_path(ADAPTER)}"
        options = ["--enable-lora", "--max-lora-rank", str(rank), "--lora-modules", module]
        served = ["In vLLM:", "", block(shlex.join(["vllm", "serve", source.base, *options]), "sh")]
    return [
        f"A LoRA adapter on {code(source.base)}. {remark_on(lines, source.quantisation)}In plain peft:",
        "",
        lines.rstrip(),
        *answering_lines(place).rstrip().splitlines(),
        "",
        *served,
    ]


def _merged(places: Places) -> list[str]:
    place = places.arguments(MERGED)
    lines = merged_lines(place) + answering_lines(place)
    return ["A plain transformers model:", "", *lines.rstrip().splitlines()]


def _value(source: Source, places: Places) -> list[str]:
    place = places.arguments(VALUE)
    imports, file = "from safetensors.torch import load_file", f'f"{{folder}}/{VALUE}/{HEAD_FILE}"'
    if places.repository is not None:
        within = HEAD_FILE if places.root == VALUE else f"{VALUE}/{HEAD_FILE}"
        imports, file = f"{DOWNLOAD}\n{imports}", f"hf_hub_download({places.repository!r}, {within!r})"
    quantised = [] if source.quantisation == NONE else ["--quantise_base", source.quantisation]
    command = ["ppo-lm", "train", "--model_name", source.base, "--value_model", places.path(VALUE), *quantised]
    reason = why_only_here(source.base, source.quantisation)
    without = [
        "Without ppo_lm, the value of the state before each token, and after the last one:",
        "",
        adapter_lines(source.base, source.dtype, source.quantisation, place).rstrip(),
        "",
        HEAD.format(imports=imports, file=file),
    ]
    return [
        "The value model, from which a PPO run of the same model can start:",
        "",
        block(shlex.join(command), "sh"),
        "",
        *([reason] if reason else without),
    ]


def _reward(places: Places) -> list[str]:
    place = places.path(REWARD)
    return [
        f"The reward model: `ppo-lm train --reward {place}`. If transformers has a sequence classifier for this "
        f"architecture, `{place}/classifier/README.md` has the lines that load it without ppo_lm.",
    ]

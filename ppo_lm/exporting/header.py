"""The metadata that the Hugging Face hub reads from a model card."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ppo_lm.config.export_config import ADAPTER, GGUF, MERGED, REWARD
from ppo_lm.exporting.measured import Measured, count_examples
from ppo_lm.exporting.places import Places
from ppo_lm.exporting.source import Source
from ppo_lm.reading import as_path
from ppo_lm.run import trace

ON_HUB = re.compile(r"[\w][\w.-]*/[\w][\w.-]*", re.ASCII)
DATA = ("prompts", "demonstrations", "preferences")  # the settings that name data
STAGE_TAGS = {
    "train": ["ppo", "rlhf", "reinforcement-learning"],
    "sft": ["sft"],
    "reward": ["reward-model", "rlhf"],
    "value": ["value-model", "rlhf"],
}


def card_header(source: Source, places: Places, evaluations: Sequence[Measured], name: str) -> str:
    """The YAML between the first two lines of dashes. It names no licence: that is the owner's to choose."""
    from huggingface_hub import ModelCardData

    parts, root = places.parts, trace(source.base).root
    adapters_only = not {MERGED, GGUF} & set(parts)
    known, data_names = is_on_hub(root), _data_names(source)
    data = ModelCardData(
        base_model=root if known else None,
        base_model_relation=_relation(source.base == root, adapters_only) if known else None,
        library_name="peft" if adapters_only else "transformers",
        pipeline_tag=_pipeline(parts),
        datasets=[name for name in data_names if is_on_hub(name)] or None,
        tags=["ppo_lm", *STAGE_TAGS[source.stage], *(["lora"] if source.adapted else [])],
        model_name=name,
        eval_results=_results(source, evaluations) or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def is_on_hub(name: object) -> bool:
    """Whether a text is a hub id, OWNER/NAME, rather than something on this machine."""
    if not isinstance(name, str) or not ON_HUB.fullmatch(name):
        return False
    place = as_path(name)
    return place is not None and not place.exists()


def _relation(is_direct: bool, adapters_only: bool) -> str:
    """The hub's word for what was made of the base."""
    return "adapter" if is_direct and adapters_only else "finetune"


def _pipeline(parts: Sequence[str]) -> str | None:
    if {ADAPTER, MERGED, GGUF} & set(parts):
        return "text-generation"
    return "text-classification" if REWARD in parts else None


def _data_names(source: Source) -> list[str]:
    """What the settings name as data."""
    named = (source.settings.get(setting) for setting in DATA)
    return [name for name in named if isinstance(name, str)]


def _results(source: Source, evaluations: Sequence[Measured]) -> list:
    """The last evaluation of each kind."""
    from huggingface_hub import EvalResult

    names = _data_names(source)
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=names[0] if names and is_on_hub(names[0]) else "other",
            dataset_name=f"{count_examples(source.record, 'held_out')} held-out examples",
            metric_type=metric,
            metric_name=f"{metric}, {evaluation.kind}",
            metric_value=value,
        )
        for evaluation in evaluations
        for metric, value in evaluation.after.items()
        if value is not None
    ]

"""OpenRLHF: prompts as JSON lines, options of a command line."""

from __future__ import annotations

import json
from pathlib import Path

from ppo_lm.exporting.elsewhere.openrlhf_settings import ESTIMATORS, HELD_OUT, TRAIN, map_settings
from ppo_lm.exporting.elsewhere.program import Program
from ppo_lm.exporting.elsewhere.prompts import Row
from ppo_lm.saving import escaped, write_text

ENDING = '''
ENDS = {ends}


def reward_func(queries, prompts, labels):
    """What OpenRLHF calls for each response, in lists of one: `queries` are prompts and responses together."""
    [query], [label] = queries, labels
    prompt = json.loads(label)["decoded"]
    if not query.startswith(prompt):
        raise ValueError(f"the prompt {{prompt!r}} is not the start of {{query!r}}")
    completion = query[len(prompt) :]
    end = next((end for end in ENDS if completion.endswith(end)), None)
    value = score(label, completion.removesuffix(end or ""), terminated=end is not None)
    return {{"rewards": value, "scores": value, "extra_logs": {{}}}}
'''


def write_prompts(rows: list[Row], file: Path, split: str) -> None:
    """JSON lines: the prompt as it is, or as a conversation, and a label with what reward functions get."""
    lines = [json.dumps({"prompt": row.whole, "label": row.given}, ensure_ascii=False) for row in rows]
    write_text(file, "".join(escaped(line) + "\n" for line in lines))


def write_option(name: str, value: object) -> list[str]:
    """The words of an option; none if it is a flag that is off."""
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    values = value if isinstance(value, list) else [value]
    return [f"--{name}", *map(str, values)]


OPENRLHF = Program(
    name="OpenRLHF",
    version="0.11.2",
    module="openrlhf.cli.train_ppo_ray",
    address="https://github.com/OpenRLHF/OpenRLHF",
    estimators=ESTIMATORS,
    files=(TRAIN, HELD_OUT),
    critic="sequence",
    map_settings=map_settings,
    write_prompts=write_prompts,
    write_option=write_option,
    reward_ending=lambda ends: ENDING.format(ends=ends),
    tells=("terminated",),
    reward_template=None,
    quoting="",
    gpus=[f"--{model}.num_gpus_per_node {{gpus}}" for model in ("actor", "ref", "critic", "reward")]
    + ["--vllm.num_engines {gpus}"],
    counts_prompts=False,
)

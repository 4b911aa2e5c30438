"""verl: prompts in Parquet files, options in Hydra's grammar."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ppo_lm.exporting.elsewhere.program import Program
from ppo_lm.exporting.elsewhere.prompts import Row
from ppo_lm.exporting.elsewhere.verl_settings import CONTENTS, ESTIMATORS, HELD_OUT, TRAIN, VERSION, map_settings

PLAIN = re.compile(r"[\w./-]+", re.ASCII)  # text that Hydra reads without quotes
ESCAPES = """QUOTE=\\'
HERE="${HERE//$QUOTE/\\\\$QUOTE}"
"""
ENDING = '''

def compute_score(data_source, solution_str, ground_truth, extra_info=None, **others):
    """What verl calls for each response."""
    return score(ground_truth, solution_str)
'''


def write_prompts(rows: list[Row], file: Path, split: str) -> None:
    """The Parquet file that verl's RLHFDataset reads: a conversation per row, and what reward functions get."""
    import pyarrow
    from pyarrow import parquet

    records = [
        {
            "data_source": "ppo_lm",
            "prompt": row.messages,
            "reward_model": {"style": "rule", "ground_truth": row.given},
            "extra_info": {"split": split, "index": index},
        }
        for index, row in enumerate(rows)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(records), file)


def write_option(name: str, value: object) -> list[str]:
    """An option in Hydra's grammar."""
    return [f"{name}={_in_hydra(value)}"]


def _in_hydra(value: object) -> str:
    if isinstance(value, str) and not PLAIN.fullmatch(value):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_in_hydra, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_in_hydra(each)}' for key, each in value.items())}}}"
    return "null" if value is None else str(value)


def reward_template(chat_template: str | None) -> str:
    """The chat template with which verl gives a reward model what it was trained to read: prompt, response and end
    token, and nothing after it. `chat_template`: the model's own, if prompts are conversations."""
    if chat_template is None:
        return CONTENTS + "{{ eos_token }}"
    return f"{{% set written %}}{chat_template}{{% endset %}}{{{{ written.rstrip() }}}}"


VERL = Program(
    name="verl",
    version=VERSION,
    module="verl.trainer.main_ppo",
    address="https://github.com/volcengine/verl",
    estimators=ESTIMATORS,
    files=(TRAIN, HELD_OUT),
    critic="token",
    map_settings=map_settings,
    write_prompts=write_prompts,
    write_option=write_option,
    reward_ending=lambda ends: ENDING,
    tells=(),
    reward_template=reward_template,
    quoting=ESCAPES,
    gpus=["trainer.n_gpus_per_node={gpus}"],
    counts_prompts=True,
)

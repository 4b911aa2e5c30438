"""README.md of an export to another program: what is in the folder, what differs, what each setting is called there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ppo_lm.config import PPOConfig
from ppo_lm.exporting.elsewhere.mapping import IN_THE_FILES, OUR_OWN, InFolder, Mapped
from ppo_lm.exporting.elsewhere.program import Program
from ppo_lm.markdown import code, plain

INTRODUCTION = """# {run} for {name}

What {name} needs to repeat a run of ppo\\_lm. Its settings are those of [{name} {version}]({address}); other versions
may have others. What has never been run is {name}'s training itself, which needs GPUs and Ray.

```sh
GPUS=8 bash train.sh
```

Options at the end of the command override those in the script. How much memory is used where, and how models are placed
on several GPUs, is for you to choose there.
"""
CONTINUE = (
    "`policy/` is what the run has trained. To go on from it, name it as the model in `train.sh`: the KL penalty then "
    "measures the distance to it instead of to the SFT model."
)


def write_readme(
    program: Program,
    run: str,
    config: PPOConfig,
    files: Mapping[str, str],
    mapped: Sequence[Mapped],
    remarks: Sequence[str],
) -> str:
    """The text. `files`: what each file or folder is. `remarks`: what differs, a sentence each, without full stop."""
    shown = {name for each in mapped if each.options for name in each.settings}
    lines = [
        INTRODUCTION.format(run=plain(run), name=program.name, version=program.version, address=program.address),
        "## Files",
        "",
        *(f"* `{name}`: {words}" for name, words in files.items()),
        "",
        *([CONTINUE, ""] if "policy" in files else []),
        f"## What is different in {program.name}",
        "",
        *(f"* {plain(remark)}." for remark in remarks),
        "* The same seed gives other random numbers, and so other responses.",
        "",
        "## Settings",
        "",
        f"| ppo\\_lm | {program.name} |",
        "|---|---|",
        *(_row(each, config) for each in mapped if each.options),
        "",
        f"In the files of this folder: {_names_without(shown, IN_THE_FILES)}.",
        "",
        f"About ppo\\_lm itself, so left out: {_names_without(shown, OUR_OWN)}.",
    ]
    return "\n".join(lines) + "\n"


def _row(mapped: Mapped, config: PPOConfig) -> str:
    ours = ", ".join(code(f"{name} {getattr(config, name)}") for name in mapped.settings)
    theirs = ", ".join(code(f"{name} {_shown(value)}") for name, value in mapped.options.items())
    return f"| {_in_cell(ours)} | {_in_cell(theirs)} |"


def _in_cell(text: str) -> str:
    return text.replace("|", "\\|")


def _shown(value: object) -> object:
    return value.path if isinstance(value, InFolder) else value


def _names_without(shown: Collection[str], names: Sequence[str]) -> str:
    return ", ".join(code(name) for name in names if name not in shown)

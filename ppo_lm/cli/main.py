"""The command line: one subcommand a stage."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from jsonargparse import ArgumentParser, set_parsing_settings

from ppo_lm.config import CollectConfig, EvaluateConfig, PPOConfig, RewardConfig, SFTConfig, ValueConfig
from ppo_lm.errors import ConfigError, UserError, first_line

set_parsing_settings(docstring_parse_attribute_docstrings=True)  # each field's help is the line under it

EMBEDDED_SETTINGS = Path(__file__).parents[1] / "embedded" / "settings"
LISTS = {"--reward": PPOConfig, "--models": EvaluateConfig}  # options that may be given several times, and of what
LEFT_OUT = {  # of the embedded settings, where another option stands (with any value but embedded, or with this one)
    "train.yaml": {
        "--prompts": "monitor",
        **dict.fromkeys(
            (
                "--reward",
                "--model_name",
                "--advantage_estimator=rloo",
                "--advantage_estimator=group",
                "--value_backbone=shared",
            ),
            "value_model",
        ),
    },
    "reward.yaml": {"--preferences": "demonstrations"},
}


def main(arguments: list[str] | None = None, prog: str | None = None) -> None:
    """Run a subcommand; a user's mistake ends it with one sentence and exit code 1. `prog` is the name to show in its
    usage line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    commands = {
        "sft": sft,
        "reward": reward,
        "value": value,
        "train": train,
        "evaluate": evaluate,
        "collect": collect,
        "doctor": doctor,
        "build-embedded": build_embedded,
    }
    if not arguments or arguments[0] not in commands:
        known = bool(arguments) and arguments[0] in ("-h", "--help")
        print(USAGE, file=None if known else sys.stderr)
        raise SystemExit(0 if known else 2)
    try:
        commands[arguments[0]](arguments[1:], prog or f"ppo-lm {arguments[0]}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # as a shell does: 128 + SIGINT


USAGE = """usage: ppo-lm COMMAND [options]; `ppo-lm COMMAND --help` lists the options

  sft             supervised fine-tuning, from demonstrations
  reward          a reward model, from preferences
  value           a value model, from demonstrations and a reward
  train           PPO, from prompts and a reward
  evaluate        compare policies on held-out prompts
  collect         judge pairs of completions in a browser
  doctor          look for the known ways in which PPO fails in a run's folder
  build-embedded  build the small model that comes with the package

Without --config and a model, sft, reward, value, train and evaluate do the embedded task; --config embedded names its settings."""


def sft(arguments: list[str], prog: str) -> None:
    """Supervised fine-tuning, from `--config FILE.yaml` and any field of `SFTConfig` as an option."""
    config, folder = read_run(SFTConfig, arguments, prog, "Supervised fine-tuning of a language model.", "sft.yaml")
    from ppo_lm.sft import run_sft

    run_sft(config, resume=folder)


def reward(arguments: list[str], prog: str) -> None:
    """A reward model, from `--config FILE.yaml` and any field of `RewardConfig` as an option."""
    config, folder = read_run(RewardConfig, arguments, prog, "A reward model from preferences.", "reward.yaml")
    from ppo_lm.reward_modeling import run_reward

    run_reward(config, resume=folder)


def value(arguments: list[str], prog: str) -> None:
    """A value model, from `--config FILE.yaml` and any field of `ValueConfig` as an option."""
    config, folder = read_run(
        ValueConfig, arguments, prog, "A value model from demonstrations and what scores them.", "value.yaml"
    )
    from ppo_lm.value_modeling import run_value

    run_value(config, resume=folder)


def train(arguments: list[str], prog: str) -> None:
    """PPO, from `--config FILE.yaml` and any field of `PPOConfig` as an option."""
    config, folder = read_run(PPOConfig, arguments, prog, "PPO fine-tuning of a language model.", "train.yaml")
    if config.prompts is None:
        raise ConfigError(['prompts is not set; name a file, a hub data set, or "embedded"'])
    from ppo_lm.ppo_trainer import PPOTrainer

    PPOTrainer(config).train(resume=folder)


def read_run(kind: type, arguments: list[str], prog: str, description: str, embedded: str):
    """The configuration, and the folder of `--resume FOLDER` or None."""
    folder = find_resume(arguments)
    if folder is None:
        config = read_config(
            kind,
            arguments,
            prog,
            f"{description} A run that did not end goes on with --resume FOLDER, which takes no other option.",
            embedded,
        )
    else:
        config = kind(**read_settings(folder / "config.yaml", "--resume"))
    _quiet_transformers()
    if folder is not None:
        from ppo_lm.run import load_checkpoint, lock_run_folder

        lock_run_folder(
            folder
        ).release()  # another process at work in it, or nothing to go on from, is said before a model is loaded
        load_checkpoint(folder)
    return config, folder


def find_resume(arguments: list[str]) -> Path | None:
    """The folder of `--resume FOLDER`, or None without it. Raises `ConfigError` if it is given with anything else, or
    is no run's folder."""
    joined = _join(arguments)
    named = [argument for argument in joined if argument.split("=")[0] == "--resume"]
    if not named:
        return None
    if len(joined) > 1:
        raise ConfigError(
            ["--resume takes no other option: a resumed run keeps the settings of its config.yaml"], "--resume"
        )
    folder = Path(named[0].partition("=")[2]).expanduser()
    if not (folder / "config.yaml").is_file():
        raise ConfigError(
            [f"there is no run in {str(folder)!r}: it has no config.yaml; name the folder that the paused run printed"],
            "--resume",
        )
    return folder


def read_settings(file: Path, option: str) -> dict:
    """The settings in the YAML file that `option` names. Raises `ConfigError` if it cannot be read."""
    import yaml

    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError([f"{file} cannot be read: {first_line(error)}"], option) from None
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise ConfigError([f"{file} holds no settings; it must be one `field: value` a line"], option)
    return settings


def evaluate(arguments: list[str], prog: str) -> None:
    """Compare policies, from `--config FILE.yaml` and any field of `EvaluateConfig` as an option."""
    config = read_config(EvaluateConfig, arguments, prog, "Compare policies on held-out prompts.", "evaluate.yaml")
    _quiet_transformers()
    from ppo_lm.comparison import run_comparison

    run_comparison(config)


def collect(arguments: list[str], prog: str) -> None:
    """Collect preferences, from `--config FILE.yaml` and any field of `CollectConfig` as an option."""
    config = read_config(CollectConfig, arguments, prog, "Judge pairs of completions in a browser.")
    _quiet_transformers()
    from ppo_lm.collection import run_collection

    run_collection(config)


def doctor(arguments: list[str], prog: str) -> None:
    """Print what the folder of a PPO run shows, a line each."""
    parser = ArgumentParser(
        prog=prog, description="Look for the known ways in which PPO fails in the folder of a run, finished or not."
    )
    parser.add_argument("run", type=str, help="the run's folder")
    folder = Path(parser.parse_args(arguments).run).expanduser()
    from ppo_lm.tracking import examine

    print("\n".join(examine(folder)))


def build_embedded(arguments: list[str], prog: str) -> None:
    """Build the embedded model from nothing but its grammar into a folder."""
    parser = ArgumentParser(
        prog=prog, description="Build the embedded model and its reward model, from random weights."
    )
    parser.add_argument("--output_dir", type=str, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seeds the weights and the order of the data")
    settings = parser.parse_args(arguments)
    from ppo_lm.cli.build_embedded import build_embedded as build

    for name, value in build(Path(settings.output_dir), settings.seed).items():
        print(f"{name}: {value:.4f}")


def read_config(kind: type, arguments: list[str], prog: str, description: str, embedded: str | None = None):
    """Defaults, then the file, then the options, as a `kind`. Raises `ConfigError`; unknown options and fields end with
    a usage line, exit code 2.

    `embedded` is the file with the settings of the embedded task, for `--config embedded` and for a command that names
    no model.
    """
    if embedded is not None:
        description += " Without --config and a model: the embedded task."
    parser = ArgumentParser(prog=prog, description=description, exit_on_error=True, allow_abbrev=False)
    parser.add_argument(
        "--config",
        action="config",
        help="a YAML file with any of the fields below" + (', or "embedded"' if embedded else ""),
    )
    parser.add_class_arguments(kind, instantiate=False)
    arguments = _join(arguments)
    if embedded is not None:
        arguments = _with_embedded_settings(arguments, f"--config={EMBEDDED_SETTINGS / embedded}")
    for argument in arguments:
        if argument.startswith("--config="):
            read_settings(
                Path(argument.partition("=")[2]).expanduser(), "--config"
            )  # what jsonargparse says of such a file is no sentence
    values = vars(parser.parse_args(_join_lists(arguments, [name for name, of in LISTS.items() if of is kind])))
    return kind(**{name: value for name, value in values.items() if name != "config"})


def _with_embedded_settings(arguments: list[str], option: str) -> list[str]:
    """The settings of the embedded task where `--config embedded` stands, or first if neither file nor model is named;
    without those that do not go with what else is named."""
    named = {argument.split("=")[0] for argument in arguments}
    left_out = LEFT_OUT.get(Path(option.partition("=")[2]).name, {})
    others = (named | set(arguments)) - {
        argument.split("=")[0] for argument in arguments if argument.endswith("=embedded")
    }
    settings = [option, *dict.fromkeys(f"--{field}=null" for other, field in left_out.items() if other in others)]
    if not named & {"--config", "--model_name", "--models"}:
        return [*settings, *arguments]
    return [part for argument in arguments for part in (settings if argument == "--config=embedded" else [argument])]


def _join(arguments: list[str]) -> list[str]:
    """`--option value` as `--option=value`."""
    joined = []
    for argument in arguments:
        if joined and not argument.startswith("--") and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _join_lists(arguments: list[str], names: list[str]) -> list[str]:
    """The values of each option of `names`, given once or several times, as one list of texts; a value that is a list
    already, or null, stands alone."""
    rest, lists = [], {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in names and equals and value != "null" and not value.startswith("["):
            lists.setdefault(name, []).append(value)
        elif name in names:
            lists.pop(name, None)  # the last one counts
            rest.append(argument)
        else:
            rest.append(argument)
    return rest + [f"{name}={json.dumps(values)}" for name, values in lists.items()]


def _quiet_transformers() -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

"""Answers to given prompts, and a conversation with whoever is at the terminal."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import TextIO

import torch

from ppo_lm.base_setup import make_budget
from ppo_lm.comparison.contestants import Bases, load_policies, read_contestants
from ppo_lm.config import GenerateConfig
from ppo_lm.data import PromptSet, load_prompts
from ppo_lm.data.encoding import pad
from ppo_lm.data.examples import show_prompt
from ppo_lm.data.fitting import encode_prompts
from ppo_lm.errors import ConfigError, DataError, Problems
from ppo_lm.evaluation import training_sampling
from ppo_lm.generation.streaming import stream
from ppo_lm.models import PolicyModel
from ppo_lm.reading import user_path
from ppo_lm.rollout import StopStrings, draw_uniforms, pick_engine, read_completions
from ppo_lm.saving import append_record
from ppo_lm.signals import keyboard_interrupt_on_signals
from ppo_lm.terminal import printable


def run_generation(config: GenerateConfig, source: TextIO | None = None, quiet: bool = False) -> list[dict]:
    """Answer the configuration's prompts with each of its models; without prompts, the lines of `source` (None: stdin),
    each as soon as it is there. Unless `quiet`, or written to `config.out`, the answers are printed.

    Returns a row for each given prompt: the prompt, its other columns, and the `completions` by the models' names.
    """
    problems = Problems("GenerateConfig")
    prompts = problems.attempt(_read_prompts, config)
    contestants = problems.attempt(read_contestants, config, PromptSet([]), 1)
    problems.attempt(_check_out, config)
    problems.raise_all()
    assert contestants is not None  # or `raise_all` would have raised
    for contestant in contestants:
        if contestant.note and not quiet:
            print(f"note: {printable(contestant.note)}", file=sys.stderr)
    policies = load_policies(contestants, Bases(config))
    if prompts is None:
        _converse(config, policies, source or sys.stdin)
        return []
    made = []
    for row in _answers(config, policies, prompts):
        made.append(row)
        if config.out:
            append_record(user_path(config.out, "out"), row)
        elif not quiet:
            _show(row)
    return made


def _read_prompts(config: GenerateConfig) -> PromptSet | None:
    if config.prompt:
        return PromptSet(config.prompt)
    if config.prompts is None:
        return None
    prompts = load_prompts(config.prompts, config)[0]
    return prompts.select(list(range(min(config.limit or len(prompts), len(prompts)))))


def _check_out(config: GenerateConfig) -> None:
    if config.out is None:
        return
    file = user_path(config.out, "out")
    if file.exists():
        raise ConfigError.of(f"out is {config.out!r}, which exists; choose another file")
    if not file.parent.is_dir():
        raise ConfigError.of(f"out is {config.out!r}, but there is no folder {str(file.parent)!r}; create it")


def _answers(config: GenerateConfig, policies: dict[str, PolicyModel], prompts: PromptSet) -> Iterator[dict]:
    """A row for each prompt, batch by batch."""
    settings = training_sampling(config)
    random = {name: torch.Generator().manual_seed(config.seed) for name in policies}
    engines = {name: pick_engine(policy, make_budget(policy.base, None)) for name, policy in policies.items()}
    for name, engine in engines.items():
        engine.update_weights(policies[name])
    stops = {name: StopStrings(policy.base.tokenizer, settings) for name, policy in policies.items()}
    for start in range(0, len(prompts), config.batch_size):
        batch = prompts.select(list(range(start, min(start + config.batch_size, len(prompts)))))
        completions = {}
        for name, policy in policies.items():
            base = policy.base
            ids, mask = pad(
                encode_prompts(batch.prompts, base, settings.max_new_tokens),
                base.pad_token_id,
                side="left",
                device=base.device,
            )
            uniforms = draw_uniforms(len(ids), settings, random[name], base.device)
            sampled = engines[name].sample(ids, mask, settings, uniforms)
            completions[name] = read_completions(sampled, base, stops[name]).texts
        for row, prompt in enumerate(batch.prompts):
            columns = {name: values[row] for name, values in batch.columns.items()}
            answers = {name: texts[row] for name, texts in completions.items()}
            yield {"prompt": prompt, **columns, "completions": answers}


def _show(row: dict) -> None:
    print(f"\n{printable(show_prompt(row['prompt']))}")
    for name, text in row["completions"].items():
        print(f"\n[{printable(name)}] {printable(text.strip())}")
    sys.stdout.flush()


def _converse(config: GenerateConfig, policies: dict[str, PolicyModel], source: TextIO) -> None:
    """Answer line by line; models with a chat template remember their conversation until an empty line."""
    settings = training_sampling(config)
    random = {name: torch.Generator().manual_seed(config.seed) for name in policies}
    turns: dict[str, list] = {name: [] for name in policies}
    if source.isatty():
        print(
            "Type a prompt and press Enter. An empty line starts a new conversation,\n"
            "Ctrl-C stops an answer, Ctrl-D ends.",
            file=sys.stderr,
        )
        chatting = [name for name, policy in policies.items() if policy.base.tokenizer.chat_template is not None]
        if chatting:
            print(
                f"{printable(', '.join(chatting))}: what you type is a message in the model's chat template; --prompt\n"
                "continues a text as it is.",
                file=sys.stderr,
            )
    for line in _lines(source):
        if not line.strip():
            turns = {name: [] for name in policies}
            continue
        for name, policy in policies.items():
            chat = policy.base.tokenizer.chat_template is not None
            turn = [*turns[name], {"role": "user", "content": line}] if chat else line
            try:
                ids = encode_prompts([turn], policy.base, settings.max_new_tokens)[0]
            except DataError as error:
                print(f"error: {printable(str(error))}", file=sys.stderr)
                continue
            print(f"[{printable(name)}] ", end="", flush=True)
            said = ""
            with _stops_at_ctrl_c(source):
                for part in stream(policy, ids, settings, random[name]):
                    print(printable(part), end="", flush=True)
                    said += part
            print()
            if chat:
                turns[name] = [*turn, {"role": "assistant", "content": said}]


@contextlib.contextmanager
def _stops_at_ctrl_c(source: TextIO) -> Iterator[None]:
    """If somebody types the prompts, Ctrl-C ends the block rather than the process."""
    if not source.isatty():
        yield
        return
    try:
        with keyboard_interrupt_on_signals():
            yield
    except KeyboardInterrupt as interrupt:
        if interrupt.args != ("SIGINT",):
            raise SystemExit(128 + signal.SIGTERM) from None  # as in a shell


def _lines(source: TextIO) -> Iterator[str]:
    while True:
        if source.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = source.readline()
        if not line:
            return
        yield line.rstrip("\n")

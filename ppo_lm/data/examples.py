"""Prompts, demonstrations and preferences, read from records in TRL's standard and conversational formats."""

from __future__ import annotations

import os.path
from dataclasses import dataclass
from typing import TypeGuard

from ppo_lm.data.sources import RowProblem

Message = dict  # {"role": "user", "content": "..."}
Prompt = str | list  # a text, a conversation (a list of Message that ends with the user's), or a list of token ids
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Demonstration:
    """A prompt and a completion written by a person. After a text prompt, the completion includes its leading space
    (2403.17031)."""

    prompt: Prompt
    completion: str


@dataclass(frozen=True)
class Preference:
    """Two completions of one prompt, and which is better. `source` says where the comparison came from, if known."""

    prompt: Prompt
    chosen: str
    rejected: str
    source: str | None = None


def read_prompt(record: dict, column: str) -> Prompt:
    """The prompt of a record: its `column`, or the turns of `messages` before a final assistant turn. Raises
    `RowProblem`."""
    if column not in record and "messages" in record:
        messages = _check_messages(record["messages"], "messages")
        return _check_prompt(messages[:-1] if messages[-1]["role"] == "assistant" else messages, "messages")
    return _check_prompt(_get(record, column), column)


def is_token_ids(prompt: Prompt) -> TypeGuard[list[int]]:
    """Whether a prompt is a list of token ids. Models read them as they are; rewards get the decoded text."""
    return isinstance(prompt, list) and all(isinstance(token, int) for token in prompt)


def read_prompt_or_ids(record: dict, column: str) -> Prompt:
    """Like `read_prompt`, but also accepts token ids in the record's `column`. Raises `RowProblem`."""
    ids = record.get(column)
    return ids if ids and is_token_ids(ids) else read_prompt(record, column)


def read_demonstration(record: dict, prompt_column: str, completion_column: str) -> Demonstration:
    """Read a prompt and its completion, or the conversation in `messages`. Raises `RowProblem`."""
    if completion_column not in record and "messages" in record:
        prompt, completion = _split_conversation(record["messages"], "messages")
        return Demonstration(prompt, completion)
    prompt = read_prompt(record, prompt_column)
    return Demonstration(prompt, _completion_after(prompt, _get(record, completion_column), completion_column))


def read_preference(
    record: dict, prompt_column: str, chosen_column: str, rejected_column: str, source_column: str | None = None
) -> Preference:
    """Read two completions of one prompt. If the record has no prompt, it is what both texts share at the start. Raises
    `RowProblem`."""
    chosen, rejected = _get(record, chosen_column), _get(record, rejected_column)
    if isinstance(chosen, list) and isinstance(rejected, list) and len(chosen) > 1:
        prompt, better = _split_conversation(chosen, chosen_column)
        other, worse = _split_conversation(rejected, rejected_column)
        if prompt != other:
            raise RowProblem(
                f"has different turns before the last one in {chosen_column!r} and {rejected_column!r}; both must "
                "answer the same conversation"
            )
    elif prompt_column in record:
        prompt = read_prompt(record, prompt_column)
        better, worse = (
            _completion_after(prompt, chosen, chosen_column),
            _completion_after(prompt, rejected, rejected_column),
        )
    elif isinstance(chosen, str) and isinstance(rejected, str):
        prompt, better, worse = _split_common_start(
            _check_text(chosen, chosen_column), _check_text(rejected, rejected_column)
        )
    else:
        raise RowProblem(
            f"has no column {prompt_column!r}, and its completions contain no prompt; it has {', '.join(record)}"
        )
    if better == worse:
        raise RowProblem(f"has the same text in {chosen_column!r} and {rejected_column!r}, so neither is better")
    source = None if source_column is None or record.get(source_column) is None else str(record[source_column])
    return Preference(prompt, better, worse, source)


def with_leading_space(prompt: Prompt, completion: str) -> str:
    """The completion, with a space in front if it follows a text and neither the text ends nor the completion starts
    with white space."""
    if isinstance(prompt, str) and not prompt[-1].isspace() and not completion[0].isspace():
        return " " + completion
    return completion


def show_prompt(prompt: Prompt, between: str = "\n") -> str:
    """A text as it is; a conversation turn by turn, separated by `between`."""
    return (
        prompt
        if isinstance(prompt, str)
        else between.join(f"{message['role']}: {message['content']}" for message in prompt)
    )


def wrap_completion(prompt: Prompt, completion: str) -> str | list[Message]:
    """The completion as TRL passes it to reward functions: a text after a text, an assistant message after a
    conversation."""
    return completion if isinstance(prompt, str) else [{"role": "assistant", "content": completion}]


def text_of(turns: str | list[Message]) -> str:
    """A text as it is; of a conversation, or of what `wrap_completion` makes, the last message."""
    return turns if isinstance(turns, str) else turns[-1]["content"]


def _get(record: dict, column: str):
    if column not in record:
        raise RowProblem(f"has no column {column!r}; it has {', '.join(record) or 'none'}")
    return record[column]


def _check_prompt(value, column: str) -> Prompt:
    if isinstance(value, list):
        messages = _check_messages(value, column)
        if messages[-1]["role"] == "assistant":
            raise RowProblem(f"ends with an assistant turn in {column!r}; a prompt must end with a user turn")
        return messages
    return _check_text(value, column)


def _check_text(value, column: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RowProblem(f"has no text in column {column!r}: {value!r:.40}")
    return value


def _completion_after(prompt: Prompt, value, column: str) -> str:
    if isinstance(value, list):
        if len(value) != 1:
            raise RowProblem(f"has {len(value)} messages in {column!r}; a completion is a single assistant message")
        message = _check_messages(value, column)[0]
        if message["role"] != "assistant":
            raise RowProblem(f"has a message by {message['role']!r} in {column!r}; a completion is the assistant's")
        value = message["content"]
    return with_leading_space(prompt, _check_text(value, column))


def _split_conversation(value, column: str) -> tuple[Prompt, str]:
    messages = _check_messages(value, column)
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise RowProblem(f"has no conversation in {column!r} that ends with an assistant turn")
    return _check_prompt(messages[:-1], column), messages[-1]["content"]


def _check_messages(value, column: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise RowProblem(f"has no messages in {column!r}: {value!r:.40}")
    before = None
    for number, message in enumerate(value, start=1):
        if (
            not isinstance(message, dict)
            or not isinstance(message.get("content"), str)
            or not message["content"].strip()
        ):
            raise RowProblem(
                f'has no text in message {number} of {column!r}; a message is {{"role": ..., "content": ...}}'
            )
        role = message.get("role")
        if role not in ROLES:
            raise RowProblem(
                f"has the role {role!r} in message {number} of {column!r}; the valid roles are {', '.join(ROLES)}"
            )
        if role == "system" and number > 1:
            raise RowProblem(f"has a system message at position {number} of {column!r}; it must come first")
        if role == before and role != "tool":
            raise RowProblem(
                f"has two messages by {role!r} in a row in {column!r} (messages {number - 1} and {number})"
            )
        before = role
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _split_common_start(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Split two texts where they diverge, at the last white space before that point, so that no word is split."""
    shared = os.path.commonprefix([chosen, rejected])  # compares characters, not path components
    end = (
        len(shared.rstrip())
        if shared[-1:].isspace()
        else max((i for i, c in enumerate(shared) if c.isspace()), default=0)
    )
    prompt = chosen[:end].rstrip()
    if not prompt:
        raise RowProblem("has no prompt: the two texts do not start alike; add a prompt column")
    return prompt, chosen[len(prompt) :], rejected[len(prompt) :]

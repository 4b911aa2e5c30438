"""Uploading an export to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ppo_lm.errors import ConfigError, UserError, first_line

KIB = 2**10  # bytes


def check_can_push() -> None:
    """Raise `ConfigError` if the hub may not be asked, or there is no token. Asks no network."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise ConfigError.of(
            "push_to_hub is set, but HF_HUB_OFFLINE forbids the network; unset it, or try with --dry_run true"
        )
    if get_token() is None:
        raise ConfigError.of(
            "push_to_hub is set, but there is no Hugging Face token; log in with `hf auth login` or set HF_TOKEN, or "
            "try with --dry_run true"
        )


def push(repository: str, uploads: Mapping[str, Path], private: bool) -> str:
    """Create the repository if it does not exist, and upload files by their path in it, in one commit. Returns its
    address. Raises `UserError` with the hub's reason."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    try:
        address = str(api.create_repo(repository, private=private, exist_ok=True))
        operations = [CommitOperationAdd(name, file) for name, file in uploads.items()]
        api.create_commit(repository, operations, commit_message="Upload with ppo-lm export")
    except Exception as error:  # many kinds: no network, no permission, a name that is taken, a full disk there
        raise UserError(
            f"push_to_hub {repository!r}: the hub said: {first_line(error)}; check the network, and with `hf auth "
            "whoami` that the token may write there"
        ) from error
    return address


def describe_upload(repository: str, uploads: Mapping[str, Path], private: bool) -> list[str]:
    """What `push` would upload: lines of text."""
    sizes = {name: file.stat().st_size for name, file in uploads.items()}
    kind = "private" if private else "public"
    files = f"{len(sizes)} files, {sum(sizes.values()) / KIB:,.1f} KiB"
    return [
        f"would be uploaded to {repository} (which is created as a {kind} repository if it does not exist), {files}:",
        *(f"{size / KIB:>14,.1f} KiB  {name}" for name, size in sizes.items()),
    ]

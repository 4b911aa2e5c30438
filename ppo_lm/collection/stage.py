"""`ppo-lm collect`: a person judges pairs of completions in a browser."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from pathlib import Path

from rich.console import Console

from ppo_lm.collection.answers import AnswerStore
from ppo_lm.collection.pairs import Pairs, load_pairs
from ppo_lm.collection.schedule import Schedule
from ppo_lm.config import CollectConfig
from ppo_lm.config.files import read_settings
from ppo_lm.config.settings import differences, with_current_names
from ppo_lm.errors import ConfigError, first_line, require, writing
from ppo_lm.reading import read_text, user_path
from ppo_lm.run import check_writable, write_config
from ppo_lm.run.folder import ANSWERS, CONFIG, lock_run_folder, unlock
from ppo_lm.saving import write_text
from ppo_lm.signals import keyboard_interrupt_on_signals
from ppo_lm.terminal import printable

FINGERPRINT = "pairs.sha256"
MAY_CHANGE = ("host", "port", "annotator", "output_dir")  # when a collection continues


def run_collection(config: CollectConfig) -> None:
    """Serve the page until interrupted. Every answer is on disk before the next pair is shown; running again with the
    same folder continues."""
    require("aiohttp", "ppo-lm collect", "collect")
    check_writable(config.output_dir)
    folder = user_path(config.output_dir, "output_dir")
    check_same_collection(config, folder)
    pairs, report = load_pairs(config)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = lock_run_folder(folder)
    check_same_pairs(pairs, folder)
    store = AnswerStore(folder)
    write_text(folder / FINGERPRINT, pairs.fingerprint() + "\n")
    from ppo_lm.collection.server import is_loopback, make_app

    write_config(folder, config)
    schedule = Schedule(min(config.count or len(pairs), len(pairs)), config.repeat_every, config.seed)
    token = None if is_loopback(config.host) else secrets.token_urlsafe(16)
    console = Console(highlight=False)
    console.print(printable("\n".join([*store.notices, *report.lines()])), markup=False, soft_wrap=True)
    console.print(
        printable(f"{len(store.answers)} of {schedule.tasks} answered. Preferences are written to {store.export}"),
        markup=False,
        soft_wrap=True,
    )
    try:
        with keyboard_interrupt_on_signals():
            asyncio.run(serve(make_app(pairs, schedule, store, config.annotator, token), config, token, console))
    except OSError as error:
        raise ConfigError(
            [f"cannot listen on {config.host}:{config.port}: {first_line(error)}; set another host or port"],
            "CollectConfig",
        ) from error
    except KeyboardInterrupt:
        console.print(f"{len(store.answers)} of {schedule.tasks} answered; run the same command to continue.")
    finally:
        unlock(lock)


async def serve(app, config: CollectConfig, token: str | None, console: Console) -> None:
    """Listen, print the address, and wait."""
    from aiohttp import web

    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, config.host, config.port)
    await site.start()
    port = runner.addresses[0][1]
    host = f"[{config.host}]" if ":" in config.host else config.host
    console.print(f"Open http://{host}:{port}/" + (f"?token={token}" if token else ""), markup=False, soft_wrap=True)
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def check_same_collection(config: CollectConfig, folder: Path) -> None:
    """Raise `ConfigError` if the folder holds a run, or a collection with other settings: its answers belong to other
    pairs."""
    file = folder / CONFIG
    if file.is_file() and not (folder / FINGERPRINT).is_file():
        raise ConfigError([f"output_dir {str(folder)!r} holds a run; choose another folder"], "CollectConfig")
    if not file.is_file() or not has_answers(folder):
        return
    then = with_current_names(CollectConfig, read_settings(file, "output_dir"))
    changed = differences(dataclasses.asdict(config), then, MAY_CHANGE)
    if changed:
        raise ConfigError(
            [
                f"output_dir {str(folder)!r} holds a collection with other settings ({'; '.join(changed)}); continue "
                "with those, or choose another folder"
            ],
            "CollectConfig",
        )


def check_same_pairs(pairs: Pairs, folder: Path) -> None:
    """Raise `ConfigError` if the folder's answers belong to other pairs, which would change the order."""
    file = folder / FINGERPRINT
    if has_answers(folder) and file.is_file() and read_text(file, errors="replace").strip() != pairs.fingerprint():
        raise ConfigError(
            [
                f"the pairs or prompts have changed since the answers in {str(folder)!r} were given; choose another "
                "output_dir for the new ones"
            ],
            "CollectConfig",
        )


def has_answers(folder: Path) -> bool:
    return (folder / ANSWERS).is_file() and (folder / ANSWERS).stat().st_size > 0

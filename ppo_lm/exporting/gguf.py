"""GGUF, by llama.cpp's own converter."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from ppo_lm.config import ExportConfig
from ppo_lm.errors import ConfigError, UserError
from ppo_lm.reading import Unreadable, read_json, user_path

NAMES = ("convert_hf_to_gguf.py", "convert-hf-to-gguf")
KINDS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}  # dtype of a model → the converter's name for it


def find_converter(config: ExportConfig) -> list[str]:
    """The command of the converter. Raises `ConfigError`, which says how to get one, if there is none."""
    if config.gguf_converter is not None:
        file = user_path(config.gguf_converter, "gguf_converter")
        if not file.is_file():
            raise ConfigError.of(f"gguf_converter is {config.gguf_converter!r}, but there is no such file")
        return _command(file)
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        again = shlex.join(["ppo-lm", "export", str(config.run), "--parts", "gguf"])
        raise ConfigError.of(
            f"parts names gguf, but neither {' nor '.join(NAMES)} is on the PATH; install the converter with `uv tool "
            f"install convert-hf-to-gguf` and run `{again}`, or name the script of a llama.cpp checkout with "
            "--gguf_converter"
        )
    return _command(Path(found))


def _command(file: Path) -> list[str]:
    return [sys.executable, str(file)] if file.suffix == ".py" else [str(file)]


def convert(converter: list[str], model: Path, folder: Path, name: str) -> Path:
    """Convert the transformers model in a folder, in its own dtype. Returns the file in `folder`. Raises `UserError`
    with the converter's last words if it fails."""
    kind = KINDS.get(_dtype_of(model), "auto")
    file = folder / f"{name}-{kind}.gguf"
    command = [*converter, str(model), "--outfile", str(file), "--outtype", kind]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise UserError(f"gguf: {converter[-1]} cannot be run: {error.strerror}; make it executable") from None
    if done.returncode or not file.is_file():
        said = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        reason = said[-1].strip() if said else f"exit code {done.returncode}"
        raise UserError(
            f"gguf: {converter[-1]} did not convert the merged model: {reason}; if llama.cpp does not know its "
            "architecture or its tokenizer, export the other parts"
        )
    return file


def _dtype_of(model: Path) -> str:
    try:
        return str(read_json(model / "config.json").get("dtype"))
    except (Unreadable, AttributeError):
        return ""

"""The files of a run that grow with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from ppo_lm.config.output_folder import ENVIRONMENT, HELD_OUT, SAMPLES, TOKEN_FILES, TOKENS
from ppo_lm.errors import UserError, writing
from ppo_lm.fingerprint import fingerprint
from ppo_lm.health.rows import METRICS, null_as_nan, parse_rows
from ppo_lm.reading import Unreadable, read_text
from ppo_lm.saving import append_record, escaped, remove, to_json, whole_file, write_json, write_text
from ppo_lm.tracking.environment import describe_environment
from ppo_lm.tracking.events import EvaluationDone, RunStart, SamplesDrawn, StepDone, StepSkipped, TokensSeen
from ppo_lm.tracking.recorder import RECORDERS, Recorder

LARGEST_RECORD = 2**34  # bytes of either; a long run that keeps every sample writes gigabytes


@RECORDERS.register("metrics")
class MetricsFile(Recorder):
    """`metrics.jsonl`, one row per step, skipped step and evaluation; `data_report.json` and `environment.json`."""

    folder: Path | None = None

    def start(self, event: RunStart) -> None:
        """Write the data report and the environment; a resumed run keeps its rows."""
        self.folder = event.folder
        if not self.folder:
            return
        write_json(self.folder / ENVIRONMENT, describe_environment())
        if event.reports:
            write_json(self.folder / "data_report.json", [report.as_dict() for report in event.reports])

    def step(self, event: StepDone) -> None:
        """A row of metrics."""
        self._append({"step": event.step, **event.metrics})

    def skipped(self, event: StepSkipped) -> None:
        """A row with the reason."""
        self._append({"step": event.step, "dropped": event.reason})

    def evaluation(self, event: EvaluationDone) -> None:
        """A row per evaluation."""
        for name, means in event.means.items():
            self._append({"step": event.step, "evaluation": name, **means})

    def _append(self, row: dict) -> None:
        if self.folder:
            append_record(self.folder / METRICS, row)


@RECORDERS.register("samples")
class SamplesFile(Recorder):
    """`samples.jsonl`, one row per response: prompt, completion, score and the parts of the score; and
    `held_out.jsonl`, the same of a few held-out responses in each evaluation."""

    folder: Path | None = None

    def start(self, event: RunStart) -> None:
        """Remember where to write."""
        self.folder = event.folder

    def samples(self, event: SamplesDrawn) -> None:
        """A row per response."""
        self._append(SAMPLES, event, {"step": event.step})

    def evaluation(self, event: EvaluationDone) -> None:
        """A row for each of a few held-out responses."""
        for name, samples in event.samples.items():
            self._append(HELD_OUT, samples, {"step": event.step, "evaluation": name})

    def _append(self, file: str, samples: SamplesDrawn, start: dict) -> None:
        if not self.folder:
            return
        for row, (prompt, text, score) in enumerate(zip(samples.prompts, samples.completions, samples.scores)):
            parts = {name: values[row] for name, values in samples.parts.items()}
            record = {**start, "prompt": prompt, "completion": text, "score": score, "rewards": parts}
            append_record(self.folder / file, record)


@RECORDERS.register("tokens")
class TokensFiles(Recorder):
    """`tokens/step-NNNNNN.safetensors`: the tensors of `TokensSeen`, and its texts as JSON in the file's metadata."""

    folder: Path | None = None

    def start(self, event: RunStart) -> None:
        """Remember where to write."""
        self.folder = event.folder

    def tokens(self, event: TokensSeen) -> None:
        """A file for the step."""
        if not self.folder:
            return
        with writing(self.folder / TOKENS):
            (self.folder / TOKENS).mkdir(exist_ok=True)
        responses = [
            {
                "prompt": prompt,
                "columns": columns,
                "completion": completion,
                "rewards": {name: values[row] for name, values in event.parts.items()},
                "pieces": pieces,
            }
            for row, (prompt, columns, completion, pieces) in enumerate(
                zip(event.prompts, event.prompt_columns, event.completions, event.pieces, strict=True)
            )
        ]
        texts = {
            "step": event.step,
            "kl_coef": event.kl_coef,
            "responses": responses,
            "vocabulary": event.vocabulary,
        }
        write_tensors(
            _tokens_file(self.folder, event.step), event.tensors, {"texts": escaped(to_json(texts, default=str))}
        )


def _tokens_file(folder: Path, step: int) -> Path:
    return folder / TOKENS / f"step-{step:06d}.safetensors"


def write_tensors(file: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Replace a safetensors file atomically."""
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    with whole_file(file) as unfinished:
        save_file(copies, unfinished, metadata)


def drop_later_steps(folder: Path, step: int) -> list[dict]:
    """Truncate metrics.jsonl, samples.jsonl and held_out.jsonl to what was recorded up to `step`, and remove
    half-written last lines and the tokens of later steps. Returns the remaining rows of metrics.jsonl."""
    kept: dict[str, list[dict]] = {}
    for name in (METRICS, SAMPLES, HELD_OUT):
        file = folder / name
        records, torn = parse_rows(file, _text_of(file))
        kept[name] = [record for record in records if record["step"] <= step]
        if len(kept[name]) < len(records) or torn:
            write_text(file, "".join(to_json(record) + "\n" for record in kept[name]))
    for file in (folder / TOKENS).glob(TOKEN_FILES):
        if file > _tokens_file(folder, step):
            remove(file)
    return [null_as_nan(row) for row in kept[METRICS]]


def recorded(folder: Path, up_to: int | None = None) -> str:
    """A hash of the lines of metrics.jsonl, on which a resumed run builds: all of them, or those up to a step."""
    file = folder / METRICS
    text = _text_of(file)
    lines = text.split("\n")[:-1]
    if up_to is not None:
        rows, _ = parse_rows(file, text)
        lines = [line for line, row in zip(lines, rows, strict=True) if row["step"] <= up_to]
    return fingerprint(lines)


def read_records(file: Path) -> list[dict]:
    """The rows of metrics.jsonl, samples.jsonl or held_out.jsonl; none if there is no such file, and without a
    half-written last line. Raises `UserError` if it is damaged."""
    return parse_rows(file, _text_of(file))[0]


def _text_of(file: Path) -> str:
    """What the file holds; nothing if there is none."""
    if not file.is_file():
        return ""
    try:
        return read_text(file, LARGEST_RECORD)
    except Unreadable as error:
        raise UserError(f"{file} cannot be read: it {error}") from None

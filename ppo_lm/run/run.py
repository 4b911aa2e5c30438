"""One context for every stage: its folder, its checkpoints, its recorders, and how it stops and resumes."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from filelock import FileLock

from ppo_lm.config.run_settings import FolderSettings, OptionalFolderSettings
from ppo_lm.data import DataReport, Prompt
from ppo_lm.distributed import by_itself, processes
from ppo_lm.errors import (
    CheckpointError,
    ConfigError,
    Interrupted,
    NumericalFault,
    PartError,
    ProcessLost,
    RecorderError,
    RewardError,
    RunPaused,
    RunStopped,
    SamplerError,
    StorageError,
    UserError,
    writing,
)
from ppo_lm.health import Finding
from ppo_lm.progress import phase
from ppo_lm.reading import user_path
from ppo_lm.run.checkpoint import (
    Checkpoint,
    finish_checkpoints,
    last_intact_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from ppo_lm.run.folder import (
    TRACEBACK,
    lock_run_folder,
    make_run_folder,
    remove_run,
    unlock,
    write_config,
)
from ppo_lm.run.interrupts import Interrupts
from ppo_lm.run.launch import program, training_program
from ppo_lm.run.parts import Parts
from ppo_lm.run.resume import (
    change_of_processes,
    check_same_everywhere,
    check_unfinished,
    data_changes,
    describe,
    find_changes,
    how_to_lengthen,
    length_changes,
    length_settings,
)
from ppo_lm.run.stateful import Stateful
from ppo_lm.run.trained_prompts import TrainingPrompts, record_prompts
from ppo_lm.saving import write_json, write_text
from ppo_lm.terminal.working import working
from ppo_lm.tracking import (
    Answer,
    CheckpointSaved,
    Column,
    EvaluationDone,
    Recorder,
    RunFinish,
    RunStart,
    SamplesDrawn,
    StepDone,
    StepSkipped,
    TokensSeen,
    write_tensors,
)
from ppo_lm.tracking.files import drop_later_steps, recorded
from ppo_lm.tracking.recorder import Broadcast, add_recorders
from ppo_lm.user_code import copied

Event = TypeVar("Event")
Result = TypeVar("Result")
USERS_PARTS = (RewardError, RecorderError, PartError)
BASES = ("adapter", "merged")  # in the folder of a run, models that others may have been trained on
LONG_HASHING = 2.0  # seconds, from which on it is said
PAUSES = (
    RewardError,
    NumericalFault,
    Interrupted,
    RecorderError,
    PartError,
    SamplerError,
    ProcessLost,
)  # errors after which a run can be resumed


class Run:
    """A run of any stage. Inside the `with` block its folder is locked, signals wait for the end of the step, and an
    error after which the run can be resumed is raised only once it is saved::

        with Run(config, steps=100, command="{} sft --resume {}", resume=resume, recorders=[Screen()]) as run:
            run.register("weights", Weights(model.parameters()))
            run.start("SFT on ...", reports=[report])
            for step in run.steps():
                run.record_step(step, {"loss": train_on_a_batch()})
            run.finish(lambda folder: model.save(folder / "model"))

    Resumed with the same settings, data and parts, it continues bit for bit. Only the settings of its length may be
    others: the learning rate is then that of a run of the new length.
    """

    def __init__(
        self,
        config: FolderSettings | OptionalFolderSettings,
        *,
        steps: int,
        command: str,
        longer_than: Callable[[int], str] | None = None,
        identity: Callable[[], Mapping[str, object]] = dict,
        resume: Path | None = None,
        overwrite: bool = False,
        allow_changes: bool = False,
        save_every: int = 0,
        keep_checkpoints: int = 2,
        recorders: Sequence[Recorder] = (),
    ):
        """`command`: how to resume, with `{}` for the program and for the folder as words for a shell, or `{folder}`.
        `longer_than`: returns what to raise for a run of more than a number of steps; None if any setting of the length
        will do. `identity`: returns whatever the numbers depend on besides the settings, such as the data, each under a
        name for messages; see `run.identity`. `resume`: the folder of an interrupted run. `overwrite`: replace a run
        that `config.output_dir` holds, which is refused otherwise. `allow_changes`: resume although settings or
        identity have changed. `save_every`: 0 saves only when the run pauses, and before `finish` writes the results.
        `recorders`: in addition to those that `config.recorders` names; `Stateful` ones are saved in every
        checkpoint."""
        self.config, self.total, self.command = config, steps, command
        self.longer_than = longer_than or (lambda steps: how_to_lengthen(config))
        self.save_every, self.keep_checkpoints = save_every, keep_checkpoints
        self.place = processes().place
        started = time.perf_counter()
        with working("hashing the models and the data"):
            self.description = describe(config, identity())
        check_same_everywhere(self.description)
        seconds = time.perf_counter() - started
        self.resumed = None if resume is None else user_path(resume, "resume")
        self.overwrite, self.allow_changes = overwrite, allow_changes
        self.folder: Path | None = None
        self.step = 0  # steps done so far
        self.history: list[dict] = []  # the rows of metrics.jsonl up to the checkpoint that was resumed
        self.notices = [f"hashing the models and the data took {seconds:.0f} s"] if seconds >= LONG_HASHING else []
        if self.place.size > 1:
            self.notices.append(f"{self.place.size} processes share the work of a step")
        self.parts = Parts()
        self.recorders = Broadcast(processes().together(lambda: self._make_recorders(recorders)))
        self._saved_state: dict | None = None  # of the last checkpoint
        self._interrupts = Interrupts()
        self._lock: FileLock | None = None
        self._started = False
        self._export: Callable[[Path], object] = lambda folder: None

    def _make_recorders(self, recorders: Sequence[Recorder]) -> list[Recorder]:
        return add_recorders(recorders, self.config.recorders) if self.place.is_first else []

    def __enter__(self) -> Run:
        if self.total:
            self._interrupts.__enter__()
        try:
            if self.resumed is not None:
                self._resume(self.resumed)
            elif self.config.output_dir:
                self._make_folder(user_path(self.config.output_dir, "output_dir"))
            else:
                self.notices.append("output_dir is not set, so nothing will be saved")
            for name, recorder in self.recorders.by_name().items():
                if isinstance(recorder, Stateful):
                    self.parts.register(f"recorder {name}", recorder, optional=True)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _make_folder(self, wanted: Path) -> None:
        def make() -> None:
            self._lock = make_run_folder(wanted, self.overwrite)
            write_config(wanted, self.config)

        processes().once(make)
        self.folder = wanted

    def _resume(self, folder: Path) -> None:
        def read() -> tuple[Checkpoint, list[str], bool]:
            if not folder.is_dir():
                raise CheckpointError(f"resume {str(folder)!r}: there is no such folder")
            self._lock = lock_run_folder(folder)
            checkpoint, damage = load_checkpoint(folder)
            check_unfinished(self.config, checkpoint, folder)
            rows = recorded(folder, checkpoint.state["step"])
            return checkpoint, damage, rows != checkpoint.state.get("rows")

        checkpoint, damage, has_other_rows = processes().once(read)
        self.folder = folder
        self.notices += damage
        changes = find_changes(self.config, self.description, checkpoint.state, self.place.size)
        changes += ["metrics.jsonl changed"] if has_other_rows else []
        if data_changes(self.description, checkpoint.state):
            raise CheckpointError(
                f"the run to resume has changed: {'; '.join(changes)}; a run cannot continue on other data: undo this, "
                "or start a new run in another folder, from the model that this one trained"
            )
        if changes and not self.allow_changes:
            raise CheckpointError(
                f"the run to resume has changed: {'; '.join(changes)}; undo this, or continue anyway with "
                "--allow_changes"
            )
        self.notices += [f"continuing with a change: {change}" for change in changes]
        self.notices += change_of_processes(checkpoint.state, self.place.size)
        self.once(lambda: (folder / TRACEBACK).unlink(missing_ok=True))  # of the error that paused the run
        self.parts, self._saved_state = Parts(checkpoint), checkpoint.state
        self.step, self.recorders.stop_reason = checkpoint.state["step"], checkpoint.state["stop_reason"]
        lengths = length_changes(self.config, checkpoint.state)
        if lengths:
            self._extend(folder, "; ".join(lengths))

    def _extend(self, folder: Path, change: str) -> None:
        if self.total <= self.step:
            raise CheckpointError(
                f"{change}, which makes {self.total} steps, but the run is already at step {self.step}; raise "
                f"{self.longer_than(self.step)}"
            )
        self.recorders.stop_reason = None
        self.notices.append(
            f"{change}: from step {self.step + 1} on, the learning rate is that of a run of {self.total} steps; if it "
            "had decayed, it rises again"
        )
        replaced = [f"{name}/" for name in BASES if (folder / name).is_dir()]
        if replaced:
            self.notices.append(
                f"{' and '.join(replaced)} in {folder} will be replaced when the run ends; reward models, value "
                "models, adapters and PPO runs that were trained on the present ones will then be refused; to keep "
                "using those, start a longer run in another folder instead"
            )

    def require_folder(self) -> Path:
        """The folder, for a stage that always writes one. Raises `ConfigError` if `output_dir` is not set."""
        if self.folder is None:
            raise ConfigError.of("output_dir is not set; set it to a folder")
        return self.folder

    def register(self, name: str, part: Stateful, *, undo: bool = False) -> None:
        """Save `part` in every checkpoint; in a resumed run, restore it from the checkpoint. All parts must be
        registered before `start`. `undo`: a failed step may leave it changed, so the run restores it; it is copied in
        every step, so it should be small. Raises `CheckpointError` if the checkpoint does not fit."""
        if self._started:
            raise RuntimeError(f"part {name!r} was registered after the start of the run")
        self.parts.register(name, part, undo=undo)

    def save_in_checkpoints(self, export: Callable[[Path], object]) -> None:
        """Have `export(folder)` write into the folder of every checkpoint what other programs can load."""
        self._export = export

    def start(
        self,
        headline: str,
        *,
        reports: Sequence[DataReport] = (),
        notices: Sequence[str] = (),
        trained_on: TrainingPrompts | None = None,
        columns: Sequence[Column] = (),
        lines: int = 0,
    ) -> None:
        """Tell the recorders that the run begins or continues; see `RunStart`. From here on, an error pauses the run.
        `trained_on`: recorded in the folder, so that `ppo-lm evaluate` knows."""
        self.history = self.once(lambda: self._prepare(trained_on))
        self._started = True
        self.parts.remember()
        event = RunStart(
            headline=headline,
            config=self.config,
            folder=self.folder,
            steps=self.total,
            done=self.step,
            reports=reports,
            notices=[*self.notices, *notices],
            history=self.history,
            columns=columns,
            lines=lines,
        )
        self._tell(Recorder.start, event)
        self.say(*self.once(self.recorders.notes))

    def _prepare(self, trained_on: TrainingPrompts | None) -> list[dict]:
        """Make the folder ready to go on from this step. Returns the history."""
        history = []
        if self.folder and self.resumed:
            history = drop_later_steps(self.folder, self.step)
            write_config(self.folder, self.config)
        if self.folder and trained_on:
            record_prompts(self.folder, trained_on)
        return history

    def once(self, work: Callable[[], Result]) -> Result:
        """Have the first of the run's processes do `work`, such as writing a file or telling the recorders. Returns
        what it returns in all of them, or raises its error."""

        def do() -> tuple[Result, str | None]:
            return work(), self.recorders.stop_reason

        result, self.recorders.stop_reason = processes().once(do)
        return result

    def _tell(self, method: Callable[[Any, Event], str | None], event: Event) -> None:
        self.once(lambda: self.recorders.tell(method, event))

    @property
    def is_over(self) -> bool:
        """Whether no step is left, or a recorder asked to stop."""
        return self.step >= self.total or self.recorders.stop_reason is not None

    def steps(self) -> Iterator[int]:
        """Yield the numbers of the remaining steps. Before each, a checkpoint is saved if one is due, and `Interrupted`
        is raised if a signal has arrived. Each step must be recorded before the next is requested."""
        while not self.is_over:
            self.parts.remember()
            self._interrupts.check()
            if self.save_every and self.step % self.save_every == 0:
                self.save()
                if self.is_over:
                    return
            next_step = self.step + 1
            yield next_step
            if self.step != next_step:
                raise RuntimeError(f"step {next_step} was not recorded")

    def record_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Step `step` is done."""
        self._done(step)
        self._tell(Recorder.step, StepDone(step, self.total, dict(metrics)))

    def record_skipped(self, step: int, prompts: Sequence[Prompt], fault: NumericalFault) -> None:
        """Step `step` was skipped. Its prompts, and its pairs as far as they were computed, are kept in `dropped/`."""
        aside = self.folder / "dropped" / f"step-{step:06d}" if self.folder else None
        if aside is not None:
            self.once(lambda: self._set_aside(aside, prompts, fault))
        self._done(step)
        self._tell(Recorder.skipped, StepSkipped(step, self.total, str(fault), aside))

    @staticmethod
    def _set_aside(aside: Path, prompts: Sequence[Prompt], fault: NumericalFault) -> None:
        with writing(aside):
            aside.mkdir(parents=True, exist_ok=True)
        write_json(aside / "prompts.json", {"fault": str(fault), "prompts": prompts})
        if fault.batch is not None:
            write_tensors(aside / "pairs.safetensors", fault.batch.columns())

    def _done(self, step: int) -> None:
        self.step = step
        self.parts.remember()

    def record_samples(self, samples: SamplesDrawn) -> None:
        """The responses of a step."""
        self._tell(Recorder.samples, _for_recorders(samples))

    def record_tokens(self, tokens: TokensSeen) -> None:
        """A few responses of a step, token by token."""
        self._tell(Recorder.tokens, replace(tokens, prompts=copied(tokens.prompts)))

    def record_evaluation(
        self,
        examples: int,
        means: Mapping[str, Mapping[str, float]],
        samples: Mapping[str, SamplesDrawn] | None = None,
    ) -> None:
        """Means over `examples` held-out examples, by the evaluation's name, and a few of them."""
        drawn = {name: _for_recorders(some) for name, some in (samples or {}).items()}
        self._tell(Recorder.evaluation, EvaluationDone(self.step, examples, means, drawn))

    def record_finding(self, finding: Finding) -> None:
        """A failure mode found in the metrics."""
        self._tell(Recorder.finding, finding)

    def say(self, *sentences: str) -> None:
        """Send notices to the recorders."""

        def tell() -> None:
            for sentence in sentences:
                self.recorders.tell(Recorder.notice, sentence)

        self.once(tell)

    def measure(
        self, name: str, examples: int, measure: Callable[[], dict[str, float]], *, after: int
    ) -> dict[str, float]:
        """Measure on held-out examples after the step `after`, once: a resumed run returns what it recorded before."""
        for row in self.history:
            if (row.get("evaluation"), row["step"]) == (name, after):
                return {key: value for key, value in row.items() if key not in ("step", "evaluation")}
        with phase("held-out evaluation"):
            numbers = measure()
        self.record_evaluation(examples, {name: numbers})
        return numbers

    def finish(
        self,
        save: Callable[[Path], Iterable[str] | None] | None = None,
        examples: Sequence[tuple[Prompt, Sequence[Answer]]] = (),
    ) -> None:
        """Write the results with `save(folder)`, which may return notices, and tell the recorders. The last checkpoint
        is saved first, so that a run that fails here repeats only this when it is resumed; it is the one that remains,
        with which the run can be extended. `examples`: see `RunFinish`."""
        if self.folder and self.total:
            self.save()
        self.once(lambda: self._finish(save, examples))

    def _finish(
        self,
        save: Callable[[Path], Iterable[str] | None] | None,
        examples: Sequence[tuple[Prompt, Sequence[Answer]]],
    ) -> None:
        if self.folder and save is not None:
            with working("saving the results"), writing(self.folder):
                notices = save(self.folder)
            self.say(*(notices or ()))
        self._tell(Recorder.finish, RunFinish(self.folder, self.step, self.recorders.stop_reason, examples))
        if self.folder:
            finish_checkpoints(self.folder)
            self._say_what_comes_next(self.folder)

    def _say_what_comes_next(self, folder: Path) -> None:
        saved = list_checkpoints(folder)
        if saved:
            lengths = length_settings(self.config)
            option = f" --{lengths[0]} N" if len(lengths) == 1 and self.command.startswith("{}") else ""
            size = sum(file.stat().st_size for file in saved[-1].rglob("*") if file.is_file())
            self.say(
                f"to look at the run:\n    {program()} report {shlex.quote(str(folder))}",
                f"to extend the run, raise {self.longer_than(self.total)} and resume it:\n"
                f"    {self._resume_command()}{option}\n"
                f"(checkpoints/, {size / 2**20:,.1f} MiB, is kept only for this)",
            )

    def save(self) -> None:
        """Save a checkpoint, unless it contains NaN or infinity, or is the last one again."""
        checkpoint = processes().together(self._checkpoint).gathered()
        self.once(lambda: self._save(checkpoint))

    def _save(self, checkpoint: Checkpoint) -> None:
        if self.folder and checkpoint.state != self._saved_state and checkpoint.is_finite():
            with phase("saving a checkpoint"):
                place = self._write(self.folder, checkpoint)
            self._saved_state = checkpoint.state
            self._tell(Recorder.checkpoint, CheckpointSaved(self.step, place))

    def last_checkpoint(self) -> str:
        """A line that says where the last checkpoint is and how to continue from it."""
        saved = last_intact_checkpoint(self.folder) if self.folder else None
        if saved is None:
            return "\nNo checkpoint of this run was saved; start again with --overwrite"
        return f"\nThe last checkpoint is {saved}; continue from it with:\n    {self._resume_command()}"

    def _checkpoint(self) -> Checkpoint:
        state = {"step": self.step, "stop_reason": self.recorders.stop_reason, **self.description}
        state["longer"], state["processes"] = self.longer_than(self.total), self.place.size
        if self.folder and self.place.is_first:
            state["rows"] = recorded(self.folder)
        return self.parts.checkpoint(state)

    def _write(self, folder: Path, checkpoint: Checkpoint) -> Path:
        return save_checkpoint(folder, self.step, checkpoint, self.keep_checkpoints, self._export)

    def _resume_command(self) -> str:
        return self.command.format(training_program(), shlex.quote(str(self.folder)), folder=str(self.folder))

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        all_are_here = processes().size == self.place.size
        with by_itself():  # an error may be this process's alone
            self._exit(error, all_are_here)

    def _exit(self, error: BaseException | None, all_are_here: bool) -> None:
        try:
            if error is not None and not self._started:
                self._forget()
            if isinstance(error, UserError):
                self._keep_traceback(error)
            if isinstance(error, PAUSES) and self._started and self.total:
                self._pause(error, all_are_here)
            if isinstance(error, StorageError):
                self._stop(error)
            if isinstance(error, RunStopped):
                raise RunStopped(f"{error}{self.last_checkpoint()}") from error
        finally:
            problems = self._close()
        if problems and error is None:
            raise problems[0]

    def _pause(self, error: UserError, all_are_here: bool) -> NoReturn:
        """Save the run as it was after its last step; the unfinished batch is drawn again later. Sharded weights can be
        saved only if `all_are_here`: if no process was lost, the error is one of all."""
        if self.folder is None:
            raise type(error)(f"{error}; the run was not saved, because output_dir is not set") from error
        self.parts.put_back()
        checkpoint = self._checkpoint()
        can_save = all_are_here or not checkpoint.is_sharded
        checkpoint = checkpoint.gathered() if can_save else checkpoint
        if not self.place.is_first:
            raise RunPaused(str(error)) from error
        if not can_save:
            raise RunPaused(
                f"{error}\nThe run was not saved as it was after step {self.step}, because the other processes, which "
                f"hold their slices of the weights, do not answer{self.last_checkpoint()}"
            ) from error
        if not checkpoint.is_finite():
            raise RunStopped(
                f"{error}\nThe run contains NaN or inf, so it was not saved{self.last_checkpoint()}"
            ) from error
        try:
            if checkpoint.state != self._saved_state:
                self._write(self.folder, checkpoint)
        except StorageError as full:
            self._stop(StorageError(f"{error}\n{full}"))
        changed = "\n(add --allow_changes if you change your code)" if isinstance(error, USERS_PARTS) else ""
        raise RunPaused(
            f"{error}\nThe run was saved as it was after step {self.step}; continue with:\n"
            f"    {self._resume_command()}{changed}"
        ) from error

    def _forget(self) -> None:
        """Leave the folder of a new run that never started free for the next attempt."""
        if self.folder and self.resumed is None and self.place.is_first:
            with suppress(StorageError):  # the error itself matters more
                remove_run(self.folder)

    def _keep_traceback(self, error: UserError) -> None:
        if self.folder and error.traceback and self.place.is_first:
            with suppress(StorageError):  # the error itself matters more
                write_text(self.folder / TRACEBACK, error.traceback)

    def _stop(self, error: StorageError) -> NoReturn:
        where = self.last_checkpoint() if self._started or self.resumed else ""
        raise StorageError(f"{error}{where}") from error

    def _close(self) -> list[RecorderError]:
        """Release signals, recorders and folder. Returns the recorders' errors."""
        self._interrupts.__exit__()
        try:
            return self.recorders.close()
        finally:
            if self._lock is not None:
                unlock(self._lock)


def _for_recorders(samples: SamplesDrawn) -> SamplesDrawn:
    """With lists of its own, which recorders may change."""
    return replace(samples, prompts=copied(samples.prompts), completions=list(samples.completions))

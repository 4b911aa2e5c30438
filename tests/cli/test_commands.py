"""The commands as a user runs them: help, messages, exit codes."""

import re
import resource
import runpy
import subprocess
import sys
from importlib.metadata import version

import pytest

from ppo_lm.cli.commands import COMMANDS
from ppo_lm.cli.main import USAGE, main
from ppo_lm.cli.options import read_config
from ppo_lm.cli.train import make_parser
from ppo_lm.config import PPOConfig
from ppo_lm.config.files import dump_settings


@pytest.fixture
def run(checkout, monkeypatch, capsys):
    """Run main.py as a script. Returns its exit code and what it printed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["main.py", *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(checkout / "main.py"), run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        return code, capsys.readouterr()

    return run


def seconds_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_answers_within_a_second(checkout):
    """Of the processor's time; the first start compiles."""
    times = []
    for _ in range(3):
        before = seconds_of_children()
        done = subprocess.run(
            [sys.executable, "main.py", "--help"], cwd=checkout, capture_output=True, text=True, check=False
        )
        times.append(seconds_of_children() - before)
    assert min(times) < 1
    assert done.returncode == 0 and done.stdout.startswith("usage: main.py ")


@pytest.mark.parametrize(
    "arguments",
    [
        *([command, "--help"] for command in COMMANDS),
        *([command, "--print_config"] for command in ("sft", "reward", "value", "train", "evaluate")),
        ["collect", "--prompts", "mine.txt", "--print_config"],
        ["report", "runs/a", "--print_config"],
        ["doctor", "runs/a", "--print_config"],
        ["train", "--advantage_estimator", "rloo", "--responses_per_prompt", "2", "--print_config"],
    ],
    ids=" ".join,
)
def test_help_and_print_config_import_no_torch(arguments):
    code = f"""
import sys
from ppo_lm.cli.main import main
try:
    main({arguments!r})
except SystemExit as ended:
    assert ended.code == 0
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    begins = f"usage: ppo-lm {arguments[0]} " if "--help" in arguments else ""
    assert done.returncode == 0 and done.stdout.startswith(begins) and done.stdout, done.stderr


def test_the_doctor_needs_no_torch_and_answers_within_a_second(tmp_path):
    (tmp_path / "config.yaml").write_text(dump_settings(PPOConfig(steps=3)))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "kl": null}\n')
    code = f"""
import sys
from ppo_lm.cli.main import main
main(["doctor", {str(tmp_path)!r}])
assert "torch" not in sys.modules
"""
    before = seconds_of_children()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert seconds_of_children() - before < 1
    assert done.returncode == 0 and "1 of 3 steps" in done.stdout, done.stderr


def test_the_usage_lists_every_command(capsys):
    main(["--help"])
    assert re.findall(r"^  (\S+)  +\S", capsys.readouterr().out, flags=re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "error: there is no command 'trian'; did you mean 'train'?\n"),
        (["eval", "--prompts", "x"], "error: there is no command 'eval'; did you mean 'evaluate'?\n"),
        (["build_embedded"], "error: there is no command 'build_embedded'; did you mean 'build-embedded'?\n"),
        (["Train"], "error: there is no command 'Train'; did you mean 'train'?\n"),
        (["xyz"], "error: there is no command 'xyz'; `--help` lists them\n"),
        ([], USAGE + "\n"),
    ],
)
def test_an_unknown_command_ends_with_exit_code_2(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and capsys.readouterr().err == said


@pytest.mark.parametrize("argument", ["-h", "--help", "help"])
def test_the_usage_is_printed_when_it_is_asked_for(argument, capsys):
    main([argument])
    assert capsys.readouterr().out == USAGE + "\n"


def test_help_with_a_command_prints_the_commands_own(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["help", "doctor"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage: ppo-lm doctor [FOLDER]")


def test_wrong_values_end_with_exit_code_1_before_any_model_loads(run):
    code, said = run("--batch_size", 0, "--top_p", 1.5, "--clip_epsilon=-1")
    assert code == 1 and said.out == ""
    assert said.err.startswith("error: 3 problems:\n")


def test_a_users_mistake_in_the_data_is_reported_in_one_sentence(run, tmp_path):
    code, said = run("--model_name", "embedded", "--prompts", tmp_path / "none.txt")
    assert code == 1 and re.search(r"^error: prompts '.*none.txt': there is no such file\n\Z", said.err, re.MULTILINE)


def test_the_main_job_in_small(run, tmp_path):
    """The shipped task from start to finish: two steps, everything written, gold score shown."""
    out = tmp_path / "run"
    code, said = run("--steps", 2, "--batch_size", 8, "--eval_prompts", 8, "--output_dir", out)
    assert code == 0, said.err
    for text in (
        "step 2/2",
        "reward",
        "KL",
        "gold",
        " left",
        "held-out evaluation at step 2",
        "before (",
        "after (",
    ):
        assert text in said.out
    assert {path.name for path in out.iterdir()} == {
        "config.yaml",
        "data_report.json",
        "environment.json",
        "metrics.jsonl",
        "samples.jsonl",
        "held_out.jsonl",
        "tokens",
        "learning_curve.png",
        "adapter",
        "merged",
        "value",
        "checkpoints",
        "trained_prompts.json",
    }
    again = read_config(make_parser("ppo-lm train"), ["--config", str(out / "config.yaml")])
    assert (again.steps, again.batch_size, again.model_name) == (2, 8, "embedded")


def test_the_command_that_the_readme_gives_to_repeat_a_run_repeats_it(run, checkout, tmp_path, monkeypatch):
    readme = (checkout / "README.md").read_text()
    command = re.search(r"`uv run main\.py (--config runs/embedded/config\.yaml[^`]*)` repeats the run", readme)
    monkeypatch.chdir(tmp_path)
    small = ("--steps", 1, "--batch_size", 4, "--eval_prompts", 0, "--save_merged", "false", "--max_new_tokens", 8)
    code, said = run(*small)
    assert code == 0, said.err
    code, said = run(*command[1].split())
    assert code == 0, said.err
    first, again = (
        tmp_path / "runs" / name / "adapter" / "adapter_model.safetensors" for name in ("embedded", "again")
    )
    assert first.read_bytes() == again.read_bytes()


def test_the_version_is_printed(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"ppo-lm {version('ppo-lm')}\n"

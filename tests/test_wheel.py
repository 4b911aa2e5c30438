"""The wheel: what is in it, and that it works where there is no checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest

import ppo_lm

UV = shutil.which("uv")

pytestmark = pytest.mark.skipif(UV is None, reason="uv, which builds the wheel, is not installed")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    checkout = Path(__file__).parents[1]
    subprocess.run([UV, "build", "--quiet", "--wheel", "--out-dir", folder, checkout], check=True)
    (built,) = folder.glob("ppo_lm-*.whl")
    return built


def test_it_holds_the_package_and_nothing_else(wheel, checkout):
    names = set(ZipFile(wheel).namelist())
    inside = {name for name in names if name.startswith("ppo_lm/")}
    files = {path for path in (checkout / "ppo_lm").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert inside == {path.relative_to(checkout).as_posix() for path in files}
    for needed in ("embedded/model/model.safetensors", "report/assets/report.html", "collection/page.html"):
        assert f"ppo_lm/{needed}" in inside
    about = {Path(name).name for name in names - inside}
    assert about == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "LICENSE"}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of the programs of an environment that has this one's packages, but the wheel instead of the
    checkout: a path in a `.pth` file is searched, but the `.pth` files in it, such as the checkout's, are not read."""
    venv = tmp_path_factory.mktemp("user") / "venv"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, venv], check=True)
    python = venv / "bin" / "python"
    install = [UV, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel]
    subprocess.run(install, check=True)
    (site,) = venv.glob("lib/*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return python.parent


@pytest.fixture
def run(installed, tmp_path):
    """Run a program of the environment in an empty folder. Returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(program, *arguments):
        done = subprocess.run(
            [installed / program, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_it_answers_without_a_checkout(run, installed):
    found = run("python", "-c", "import ppo_lm; print(ppo_lm.__file__)").strip()
    assert Path(found).is_relative_to(installed.parent)
    assert run("ppo-lm", "--version") == f"ppo-lm {ppo_lm.__version__}\n"
    assert "model_name: embedded" in run("ppo-lm", "train", "--print_config")


@pytest.mark.slow
def test_it_trains_and_reports_without_a_checkout(run, tmp_path):
    run("ppo-lm", "train", "--steps", "1", "--batch_size", "4", "--eval_prompts", "4", "--output_dir", "run")
    assert (tmp_path / "run" / "merged" / "model.safetensors").is_file()
    run("ppo-lm", "report", "run")
    assert "uPlot" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")

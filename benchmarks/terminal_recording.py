"""Record the main job on a terminal of 80x24 as an animated SVG: docs/terminal.svg.

    uv run --with asciinema --with termtosvg-ng benchmarks/terminal_recording.py
    uv run --with termtosvg-ng benchmarks/terminal_recording.py --cast runs/main.cast    # draws a recording again

asciinema records the run, and termtosvg draws it. In between, the recording is sped up and cut once the panel shows the
last evaluation. With reduced motion, only the last frame is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
SECONDS = 15  # of the animation, about, before its last frame
LAST_FRAME = 3  # seconds
FRAME = 0.3  # seconds at least, of every other one
ONE_DRAWING = 0.05  # seconds at most between two outputs that belong to the same drawing of the panel
THE_END = "saving the models"  # what the panel says after the last evaluation
STILL = """<style>
@media (prefers-reduced-motion: reduce) {
    #screen_view { animation-play-state: paused; animation-delay: calc(-0.999 * var(--animation-duration)); }
}
</style>"""


def record(cast: Path) -> None:
    """Run the main job on a terminal of its own, whose output goes to `cast`."""
    job = f"echo '$ uv run main.py'; '{sys.executable}' main.py"
    command = ["asciinema", "rec", "--overwrite", "--cols", "80", "--rows", "24", "--command", job, str(cast)]
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR")}
    subprocess.run(command, cwd=CHECKOUT, env=environment | {"TERM": "xterm-256color"}, check=True)


def speed_up(cast: Path, short: Path) -> int:
    """Write the recording sped up, without its end, every drawing of the panel in one piece. Returns how many times
    faster it is."""
    header, *lines = cast.read_text(encoding="utf-8").splitlines()
    drawings: list[tuple[float, str]] = []
    latest = 0.0
    for time, _, text in map(json.loads, lines):
        if THE_END in text:
            break
        if drawings and time - latest < ONE_DRAWING:
            drawings[-1] = (drawings[-1][0], drawings[-1][1] + text)
        else:
            drawings.append((time, text))
        latest = time
    speed = max(round(latest / SECONDS), 1)
    events = [json.dumps([time / speed, "o", text]) for time, text in drawings]
    short.write_text("\n".join([header, *events]) + "\n", encoding="utf-8")
    return speed


def draw(short: Path, picture: Path) -> None:
    """Draw the recording as an SVG that moves."""
    timing = ["--min-frame-duration", str(round(1000 * FRAME)), "--loop-delay", str(1000 * LAST_FRAME)]
    look = ["--template", "window_frame_powershell"]
    subprocess.run(["termtosvg", "render", str(short), str(picture), *timing, *look], check=True)
    svg, end, _ = picture.read_text(encoding="utf-8").rpartition("</svg>")
    picture.write_text(f"{svg}{STILL}\n{end}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cast", type=Path, help="a recording by asciinema to draw, instead of a new one")
    parser.add_argument("--picture", type=Path, default=CHECKOUT / "docs" / "terminal.svg")
    options = parser.parse_args()
    cast = options.cast or CHECKOUT / "runs" / "main.cast"
    if not options.cast:
        cast.parent.mkdir(exist_ok=True)
        record(cast)
    short = cast.with_suffix(".short.cast")
    speed = speed_up(cast, short)
    draw(short, options.picture)
    print(f"{options.picture}: {speed} times as fast as the run, {options.picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

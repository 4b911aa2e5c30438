"""A plan for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from ppo_lm.planning.choice import Choice
from ppo_lm.planning.lengths import Lengths
from ppo_lm.planning.memory import in_gib
from ppo_lm.planning.plan import Plan
from ppo_lm.planning.spent import Spent
from ppo_lm.terminal import printable

WORDS = {
    "products": "matrix products",
    "memory": "reading and writing memory",
    "calls": "many small operations",
    "sent": "communication",
}
WAYS_OUT = {  # what to do about a bottleneck
    "products": "more devices or a smaller model",
    "memory": "larger batches, which read the weights for more rows at once",
    "calls": "larger micro-batches and more responses at once (micro_batch_tokens, rollout_slots, batch_size)",
    "sent": "fewer processes or fewer updates (ppo_epochs, mini_batches)",
}


def show_plan(choice: Choice, lengths: Lengths, command: str, console: Console) -> None:
    """Print the run, the hardware, memory and time, the bottleneck, the layout and its reason, and the command."""
    plan = choice.plan
    for line in (_describe_run(plan, lengths), _describe_hardware(plan)):
        console.print(printable(line), markup=False)
    console.print(memory_table(plan))
    console.print(time_table(plan))
    for line in _conclusions(choice):
        console.print(printable(line), markup=False)
    if plan.fits:
        console.print(printable(f"command: {command}"), markup=False, soft_wrap=True)


def memory_table(plan: Plan) -> Table:
    """What a trainer holds at its peak."""
    table = _table("peak memory of a device", "", "GiB")
    for part, size in plan.memory.items():
        table.add_row(part, f"{in_gib(size):,.2f}")
    table.add_section()
    table.add_row("together", f"{in_gib(plan.peak_memory):,.2f}")
    table.add_row("a device has", f"{in_gib(plan.hardware.memory):,.2f}")
    return table


def time_table(plan: Plan) -> Table:
    """The phases of a step."""
    table = _table("time of a step", "phase", "seconds", "share", "mostly")
    for phase, spent in plan.seconds.items():
        if spent.total:
            mostly = WORDS[_largest(spent)]
            table.add_row(phase, f"{spent.total:,.2f}", f"{spent.total / plan.step_seconds:.0%}", mostly)
    table.add_section()
    table.add_row("step", f"{plan.step_seconds:,.2f}", "", f"{plan.samples_per_second:,.1f} responses per second")
    steps = plan.job.config.steps
    table.add_row(f"{steps:,} steps", f"{plan.step_seconds * steps:,.0f}", "", "without evaluations and checkpoints")
    return table


def bottleneck(plan: Plan) -> str:
    """A sentence: the phase that takes longest, what it is bound by, and what would help."""
    among = list(plan.seconds)
    if plan.overlaps and plan.seconds["sampling"].total < plan.step_seconds:  # the trainers are waited for
        among.remove("sampling")
    phase = max(among, key=lambda name: plan.seconds[name].total)
    spent = plan.seconds[phase]
    cause = _largest(spent)
    return (
        f"{phase} takes {spent.total / plan.step_seconds:.0%} of a step, bound by {WORDS[cause]}; {WAYS_OUT[cause]} "
        "would help most"
    )


def _largest(spent: Spent) -> str:
    return max(WORDS, key=lambda name: getattr(spent, name))


def _describe_run(plan: Plan, lengths: Lengths) -> str:
    sizes, config = plan.job.sizes, plan.job.config
    trained = f"adapters of {plan.job.adapter / 1e6:,.1f}M (rank {config.lora_r})" if config.lora_r else "all weights"
    dtype = str(plan.job.network.dtype).removeprefix("torch.")
    return (
        f"{config.model_name}: {sizes.weights / 1e6:,.1f}M parameters, {dtype}; trains {trained}; {config.batch_size} "
        f"responses of {lengths.response} tokens to prompts of {lengths.prompt} tokens ({lengths.source})"
    )


def _describe_hardware(plan: Plan) -> str:
    hardware, rates = plan.hardware, plan.hardware.machine
    hosts = f"{hardware.hosts} hosts with " if hardware.hosts > 1 else ""
    checked = "" if plan.is_measured else "; NOT MEASURED: nobody has compared this prediction with a run"
    return (
        f"{hosts}{hardware.devices} × {hardware.name}: {rates.operations / 1e12:,.2f} TFLOP/s, "
        f"{rates.bytes / 1e9:,.0f} GB/s each ({hardware.source}){checked}"
    )


def _conclusions(choice: Choice) -> Iterator[str]:
    plan = choice.plan
    yield f"bottleneck: {bottleneck(plan)}"
    yield f"layout: {choice.reason}"
    overlap = _describe_overlap(plan)
    if overlap:
        yield overlap
    slower = plan.job.why_not_accelerated
    if slower:
        yield f"memory and time will be higher than this: the cost model is that of our own passes, but {slower}"
    yield from choice.notes


def _describe_overlap(plan: Plan) -> str | None:
    """What sampling ahead does to the time of a step, or would do."""
    sampling, others = plan.seconds["sampling"].total, plan.seconds_after_sampling
    staleness = plan.job.config.max_staleness
    if plan.overlaps:
        return (
            f"overlap: with max_staleness {staleness}, servers sample the next batch ({sampling:,.2f} s) while this "
            f"one is scored and trained on ({others:,.2f} s), so a step takes the longer of the two"
        )
    if staleness:
        return f"overlap: none, although max_staleness is {staleness}, because the trainers sample themselves"
    if plan.layout.samplers:
        now, then = sampling + others, max(sampling, others)
        return f"overlap: none; with max_staleness 1, a step would take {then:,.2f} s instead of {now:,.2f} s"
    return None


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in ("GiB", "seconds", "share") else "left")
    return table

"""Small real models and batches that many tests share."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "TEST_DEVICE" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests that name no device expect fp32 on a CPU
os.environ.pop(
    "PYTHONDONTWRITEBYTECODE", None
)  # the tests that start Python would compile torch and transformers every time

os.environ.pop("UV_RUN_RECURSION_DEPTH", None)  # messages say `uv run` where it is set

import ctypes
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ppo_lm import kernels
from ppo_lm.base_setup import EMBEDDED_MODEL
from ppo_lm.models import BaseModel
from ppo_lm.rewards import Responses, ask
from ppo_lm.rollout import SamplingSettings, draw_uniforms
from ppo_lm.types import SAPairs

# The settings of a small network of any family
SMALL = dict(
    vocab_size=1536,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=128,
    pad_token_id=0,
    bos_token_id=None,
    eos_token_id=1,
    initializer_range=0.3,
)


def make_base(dtype=torch.float32, **settings) -> BaseModel:
    """A random two-layer Llama with the embedded tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    torch.manual_seed(0)
    config = dict(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        initializer_range=0.3,
    )
    network = LlamaForCausalLM(LlamaConfig(**{**config, **settings})).to(dtype)
    return BaseModel(network, tokenizer, [1], "random")


@pytest.fixture
def base() -> BaseModel:
    return make_base()


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> str:
    """The random model, on disk."""
    path, base = tmp_path_factory.mktemp("model"), make_base()
    base.network.save_pretrained(path)
    base.tokenizer.save_pretrained(path)
    return str(path)


def make_pairs(
    rows=5, prompt=6, actions=7, vocabulary=1500, dtype=torch.float64, seed=0, holes=False, **columns
) -> SAPairs:
    """Random pairs with prompts of 1..`prompt` tokens and responses of 1..`actions`; every number column filled, noise
    where nothing was sampled. `holes`: two in five tokens of a response, but not all, are observations."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    prompt_lengths = torch.randint(1, prompt + 1, (rows,), generator=g)
    lengths = torch.randint(1, actions + 1, (rows,), generator=g)
    prompt_lengths[0], lengths[0] = prompt, actions
    prompt_mask = torch.arange(prompt) >= prompt - prompt_lengths[:, None]
    action_mask = torch.arange(actions) < lengths[:, None]
    ids = torch.randint(2, vocabulary, (rows, prompt + actions), generator=g)
    attention_mask = torch.cat([prompt_mask, action_mask], dim=1)
    ids = ids.masked_fill(~attention_mask, 0)
    numbers = {
        name: draw(rows, actions)
        for name in (
            "old_logprobs",
            "entropies",
            "ref_logprobs",
            "kl",
            "rewards",
            "values",
            "td_errors",
            "advantages",
            "reward_to_go",
            "returns",
        )
    }
    if holes:
        h = torch.Generator().manual_seed(seed + 1)
        observed = torch.rand(rows, actions, generator=h) < 0.4
        kept = (torch.rand(rows, generator=h) * lengths).long()
        action_mask = action_mask & (~observed | (torch.arange(actions) == kept[:, None]))
    return SAPairs(
        input_ids=ids,
        attention_mask=attention_mask,
        action_ids=ids[:, prompt:],
        action_mask=action_mask,
        terminated=torch.arange(rows) % 2 == 0,
        scores=draw(rows),
        **{**numbers, **columns},
    )


def uniforms(prompt_ids: torch.Tensor, settings: SamplingSettings, seed: int = 5) -> torch.Tensor:
    """The randomness of one call of an engine."""
    return draw_uniforms(len(prompt_ids), settings, torch.Generator().manual_seed(seed), prompt_ids.device)


def opinions(reward, prompts, texts, columns=None) -> list[float | None]:
    """The scores that a `Reward` gives texts."""
    return ask(reward, Responses(prompts, texts, columns or {})).opinions


FORKED = multiprocessing.get_context("forkserver")  # its processes need not import torch again, which takes seconds
FORKED.set_forkserver_preload(["tests.ppo_trainer.conftest", "tests.sft.conftest"])


def in_a_process(function: Callable, *arguments, **options) -> int | None:
    """Call a function in a separate process. Returns its exit code, −N if signal N killed it."""
    process = FORKED.Process(target=function, args=arguments, kwargs=options)
    process.start()
    process.join()
    return process.exitcode


def killed_in_a_removal(number: int, function: Callable, *arguments, **options) -> int | None:
    """Call a function in a separate process that is killed when it removes the `number`-th file of folders that it
    removes. Returns the exit code."""
    return in_a_process(_kill_in_a_removal, number, function, *arguments, **options)


def _kill_in_a_removal(number: int, function: Callable, *arguments, **options) -> None:
    remaining, unlink = [number], os.unlink

    def count(path, *, dir_fd=None):
        remaining[0] -= dir_fd is not None  # from `shutil.rmtree`
        if not remaining[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        unlink(path, dir_fd=dir_fd)

    os.unlink = count
    function(*arguments, **options)


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes: the write that reaches it is cut short, the next one fails, as on a full
    disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FULL = Path("/dev/full")  # every write to it fails as on a full disk
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")

PR_GET_SECUREBITS, PR_SET_SECUREBITS, NO_SETUID_FIXUP = 27, 28, 1 << 2  # without that bit, `os.access` ignores the rest
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1 << 1, 1 << 2


@contextmanager
def permissions_that_hold() -> Iterator[None]:
    """Permissions of files hold for this thread even if it is root's, who otherwise may read and write everything."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the structures, this thread
    before = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable capabilities, twice 32 of each
    bits = libc.prctl(PR_GET_SECUREBITS)
    if libc.capget(header, before) or libc.prctl(PR_SET_SECUREBITS, bits | NO_SETUID_FIXUP):
        pytest.skip("this sandbox lets root give up nothing")
    limited = (ctypes.c_uint32 * 6)(*before)
    limited[0] &= ~(CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH)
    libc.capset(header, limited)
    try:
        yield
    finally:
        libc.capset(header, before)
        libc.prctl(PR_SET_SECUREBITS, bits)


@pytest.fixture
def checkout() -> Path:
    """The folder with main.py and README.md."""
    return Path(__file__).parents[1]


@pytest.fixture
def online_environment() -> dict[str, str]:
    """The environment of a user's shell: the hub may be asked, whether or not it can be reached from here."""
    return {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}


WHY_NO_KERNELS = kernels.why_not(torch.device("cpu"), torch.float32)  # such as a missing compiler
NOTES_OF_OWN_PASSES = [f"without our own kernels: {WHY_NO_KERNELS}"] if WHY_NO_KERNELS else []  # of every base on a CPU


@pytest.fixture
def without_kernels(monkeypatch):
    """torch's operations in the place of our own kernels, as on a machine without a compiler."""
    use_no_kernels(monkeypatch)


def use_no_kernels(monkeypatch) -> None:
    for name in ("find", "find_on_cpu", "find_products"):
        monkeypatch.setattr(kernels, name, lambda *tensors: None)

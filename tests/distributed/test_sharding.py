"""A base that is sharded over processes: the same numbers as without, in less memory."""

import gc
import io
import json
import sys
from time import sleep

import pytest
import torch
from safetensors.torch import load
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ppo_lm.base_setup import LoadedModel, load_base, set_up_roles
from ppo_lm.base_setup.base_setup import EMBEDDED_MODEL
from ppo_lm.config import PPOConfig
from ppo_lm.distributed import as_often, processes
from ppo_lm.distributed.slices import own_slice, whole
from ppo_lm.errors import ConfigError, ModelError, RunPaused, UserError
from ppo_lm.experience_buffer import buffer
from ppo_lm.optimisation import find_optimiser_parts
from ppo_lm.ppo_trainer import ModelTrainer, PPOTrainer
from ppo_lm.run.identity import identify_base
from tests.conftest import make_base, make_pairs
from tests.distributed.conftest import in_processes
from tests.distributed.test_runs import nearly_alike
from tests.distributed.test_same_numbers import NOT_COMPARED, relative, steps_of
from tests.distributed.test_stages_together import configure
from tests.distributed.test_stages_together import run as run_stage
from tests.ppo_trainer.conftest import PROMPTS, Signals, make
from tests.sft.test_stage_resume import weights as weights_in

WHOLE = dict(top_k=0, top_p=1.0)
ALL = dict(WHOLE, lora_r=0, learning_rate=1e-4)
CONFIGURATIONS = {
    "adapters": dict(WHOLE),
    "checkpointing": dict(WHOLE, gradient_checkpointing=True, mini_batches=1),
    "top-k, top-p": dict(top_k=40, top_p=0.9),
    "shared trunk": dict(WHOLE, value_backbone="shared"),
    "transformers' passes": dict(WHOLE, fast=False, gradient_checkpointing=True),
    "all weights": dict(ALL, mini_batches=1),
    "all weights, tied": dict(ALL),
    "all weights, tied, checkpointing": dict(ALL, gradient_checkpointing=True, top_k=40, top_p=0.9),
    "all weights, shared trunk": dict(ALL, value_backbone="shared", seed=1),
    "all weights, transformers' passes": dict(ALL, fast=False, gradient_checkpointing=True),
}


def succeeded(found):
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


FAST = [("checkpointing", 3), ("all weights, tied", 2)]
SLOW = [*((name, 2) for name in CONFIGURATIONS if (name, 2) not in FAST), ("top-k, top-p", 3), ("all weights", 3)]


@pytest.fixture(scope="module")
def tied_folder(tmp_path_factory):
    """A random model whose embedding is its output layer, on disk."""
    path, base = tmp_path_factory.mktemp("tied"), make_base(tie_word_embeddings=True)
    base.network.save_pretrained(path)
    base.tokenizer.save_pretrained(path)
    return str(path)


@pytest.mark.parametrize(("name", "size"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)])
def test_steps_are_those_of_one_process_that_has_all_weights(folder, tied_folder, name, size):
    folder = tied_folder if "tied" in name else folder
    settings = dict(CONFIGURATIONS[name], engine="transformers", rollout_slots=3)
    (alone,) = succeeded(in_processes(1, steps_of, folder, settings))
    first, *others = succeeded(in_processes(size, steps_of, folder, dict(settings, shard_base=True)))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(other[1], first[1], strict=True))
    for (texts, rewards, found), (texts_alone, rewards_alone, expected) in zip(first[0], alone[0], strict=True):
        assert (texts, rewards) == (texts_alone, rewards_alone)
        for metric, value in found.items():
            if not metric.startswith(NOT_COMPARED):
                assert value == pytest.approx(expected[metric], rel=1e-4, abs=1e-5), metric
    assert len(first[1]) == len(alone[1])
    assert max(relative(a, b) for a, b in zip(first[1], alone[1])) < 1e-4


def numbers_in_memory():
    """How many numbers all tensors hold that are alive, if each takes 4 bytes.

    It is the fewest of some counts: gloo's threads let go of what was gathered when they next get to run.
    """
    counts = []
    for _ in range(5):
        sleep(0.1)
        counts.append(count_numbers())
    return min(counts)


def count_numbers():
    gc.collect()
    found = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):  # `isinstance` wakes deprecated objects
            storage = own_slice(thing).untyped_storage()
            found[storage.data_ptr()] = storage.nbytes() / 4
    return sum(found.values())


def like_smollm2():
    """A random network of SmolLM2-135M's shape, whose embedding, a fifth of its weights, is its output layer too."""
    shape = dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30)
    heads = dict(num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True)
    return LlamaForCausalLM(LlamaConfig(**shape, **heads, initializer_range=0.3))


def memory_held(shard, is_large):
    """As parts of the base's weights: those in this process, and all numbers in memory after a pass of each kind."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    loaded = LoadedModel(like_smollm2(), tokenizer) if is_large else None
    base = load_base("embedded", "float32", "cpu", shard=shard, loaded=loaded)
    del loaded
    total = sum(weight.numel() for weight in base.network.parameters())
    held = [sum(own_slice(weight).numel() for weight in base.network.parameters()) / total]
    roles = set_up_roles(base, lora_r=1, lora_alpha=4, lora_dropout=0.0, lora_targets="q_proj")
    pairs = make_pairs(rows=2, vocabulary=1000, dtype=torch.float32)
    with torch.no_grad():
        roles.policy.action_logprobs(pairs)
    held.append(numbers_in_memory() / total)
    (roles.policy.action_logprobs(pairs).sum() + roles.value.values(pairs).sum()).backward()
    return [*held, numbers_in_memory() / total]


@pytest.mark.parametrize(
    ("size", "most", "is_large"),
    [(2, 0.55, False), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(3, 0.4, False), (2, 0.55, True)])],
)
def test_a_process_holds_its_part_of_the_base_and_what_is_gathered_is_freed(size, most, is_large):
    (alone,) = succeeded(in_processes(1, memory_held, False, is_large))
    assert min(alone) == 1
    for held in succeeded(in_processes(size, memory_held, True, is_large)):
        assert held[0] == pytest.approx(1 / size, abs=0.005)
        assert max(held) <= most


def counted_micro_batches(lora_r, shard):
    """Whether each micro-batch that this process worked on counted, and what came of the training of both models."""
    made = []
    micro_batches = buffer.micro_batches

    def watched(*arguments):
        for micro in micro_batches(*arguments):
            made.append(micro.counts)
            yield micro

    buffer.micro_batches = watched
    base = load_base("embedded", "float32", "cpu", shard=shard)
    roles = set_up_roles(base, lora_r=lora_r, lora_alpha=4, lora_dropout=0.0, lora_targets="all-linear")
    config = PPOConfig(batch_size=3, ppo_epochs=1, micro_batch_tokens=1, learning_rate=1e-3, lr_schedule="constant")
    pairs = make_pairs(rows=3, prompt=8, actions=9, vocabulary=1000, dtype=torch.float32, seed=3)
    found = ModelTrainer(roles.policy, roles.value, config).train_models(pairs)
    weights = [weight for model in roles.trained().values() for weight in model.parameters()]
    return made, found, torch.cat([whole(weight.detach()).flatten() for weight in weights])


@pytest.mark.parametrize("lora_r", [2, 0])
def test_micro_batches_that_are_not_equally_many_do_not_hang_and_change_nothing(lora_r):
    (alone,) = succeeded(in_processes(1, counted_micro_batches, lora_r, False))
    one, two = succeeded(in_processes(2, counted_micro_batches, lora_r, True))
    assert len(one[0]) == len(two[0])
    assert sum(one[0]) != sum(two[0])
    for made in (one, two):
        assert made[1] == pytest.approx(alone[1], rel=1e-4, abs=1e-6)
        assert relative(made[2], alone[2]) < 1e-4


@pytest.mark.fast
def test_alone_everything_is_done_once():
    assert list(as_often(["a", "b"])) == [("a", True), ("b", True)]


def done_as_often():
    rank = processes().place.rank
    return list(as_often("abc"[: 1 + rank]))


def test_a_process_with_fewer_things_to_do_repeats_its_last_one():
    assert in_processes(3, done_as_often) == [
        [("a", True), ("a", False), ("a", False)],
        [("a", True), ("b", True), ("b", False)],
        [("a", True), ("b", True), ("c", True)],
    ]


def train(folder, out, resume=None, **settings):
    trainer = make(folder, out, Signals(), steps=settings.pop("steps", 2), engine="transformers", **settings)
    trainer.train(PROMPTS, resume=resume, quiet=True)
    return trainer.base.description


def test_a_run_leaves_what_one_process_leaves_and_either_can_extend_the_other(folder, tmp_path):
    sharded, alone = tmp_path / "sharded", tmp_path / "alone"
    (described,) = set(succeeded(in_processes(2, train, folder, sharded, shard_base=True)))
    assert described.endswith("; sharded over 2 processes")
    succeeded(in_processes(1, train, folder, alone))
    for more in ("", "again"):
        nearly_alike(sharded, alone, abs=1e-4)
        assert sorted(path.name for path in sharded.iterdir()) == sorted(path.name for path in alone.iterdir())
        if not more:
            succeeded(in_processes(1, train, folder, sharded, resume=sharded, steps=4))
            succeeded(in_processes(2, train, folder, alone, resume=alone, steps=4, shard_base=True))


def identities(folder, shard):
    base = load_base(folder, "float32", "cpu", shard=shard)
    set_up_roles(base, lora_r=2, lora_alpha=4, lora_dropout=0.0, lora_targets="q_proj")
    return identify_base(base), base._stamp


def test_a_sharded_base_is_known_as_the_same_one(folder):
    (alone,) = succeeded(in_processes(1, identities, folder, False))
    assert succeeded(in_processes(2, identities, folder, True)) == [alone, alone]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("sft", {"rouge": 3}),
        ("sft", {"lora_r": 0, "learning_rate": 1e-4}),
        pytest.param("reward", {}, marks=pytest.mark.slow),
        pytest.param("value", {}, marks=pytest.mark.slow),
    ],
)
def test_a_stage_is_that_of_one_process(folder, tmp_path, kind, settings):
    found = {}
    for size in (1, 2):
        (tmp_path / str(size)).mkdir()
        settings = {"lora_r": 4, "lora_dropout": 0.0, **settings}
        config = configure(kind, settings, folder, tmp_path, tmp_path / str(size) / "run")
        config.shard_base = size > 1
        found[size], *_ = succeeded(in_processes(size, run_stage, kind, config))
    assert found[2] == pytest.approx(found[1], rel=1e-4, abs=1e-4)
    losses = [
        [row["loss"] for row in map(json.loads, (tmp_path / size / "run" / "metrics.jsonl").open()) if "loss" in row]
        for size in "12"
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4, abs=1e-5)
    alone, sharded = ({file: load(content) for file, content in weights_in(tmp_path / n / "run").items()} for n in "12")
    assert sharded.keys() == alone.keys()
    models = {file: weights for file, weights in alone.items() if "checkpoints" not in file.parts}
    for file, weights in models.items():
        assert sharded[file].keys() == weights.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(sharded[file][name], weight, rtol=1e-4, atol=1e-4)


def train_cramped(folder, out, rank, lora_r):
    """The training passes of one process have no memory. Returns its error, and what it printed itself."""
    trainer = make(folder, out, Signals(), steps=2, engine="transformers", shard_base=True, lora_r=lora_r)
    training = trainer.model_trainer._training

    def cramped(pairs, model, trained, part_loss):
        def part(micro, size):
            if processes().place.rank == rank:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return part_loss(micro, size)

        return training(pairs, model, trained, part)

    trainer.model_trainer._training = cramped
    sys.__stderr__ = io.StringIO()
    with pytest.raises(UserError) as caught:
        trainer.train(PROMPTS, quiet=True)
    return caught.value, sys.__stderr__.getvalue()


@pytest.mark.parametrize(("rank", "lora_r"), [(0, 16), (1, 16), (1, 0)])
def test_memory_that_runs_out_in_the_middle_of_a_pass_ends_all(folder, tmp_path, rank, lora_r):
    ended = succeeded(in_processes(2, train_cramped, folder, tmp_path / "run", rank, lora_r))
    error, printed = ended[rank]
    assert str(error).startswith("out of memory with micro_batch_tokens 60 (CUDA out of memory); set it lower")
    assert printed == (f"error in process 1: {error}\n" if rank == 1 else "")  # the first one's errors are shown anyway
    other, printed = ended[1 - rank]
    assert isinstance(other, RunPaused)
    assert str(other).startswith("another of the 2 processes ended or cannot be reached (")
    assert "(another" not in str(other)
    was_saved = "The run was saved as it was after step 0" in str(other)
    could_not = "not saved as it was after step 0, because the other processes, which hold their slices" in str(other)
    assert (was_saved, could_not) == ((rank, lora_r) == (1, 16), lora_r == 0)
    assert not printed


@pytest.mark.fast
def test_what_cannot_be_sharded_is_refused():
    with pytest.raises(ConfigError, match="Muon' updates an entry of a weight by what the others are"):
        PPOTrainer(PPOConfig(shard_base=True, lora_r=0, optimiser="torch.optim:Muon"), reward=len)
    find_optimiser_parts(PPOConfig(optimiser="torch.optim:Muon"))
    find_optimiser_parts(PPOConfig(), in_slices=True)
    with pytest.raises(ConfigError, match="engine is slots, which needs all weights in one process"):
        PPOConfig(shard_base=True, engine="slots")
    with pytest.raises(ConfigError, match="this is the only process; start several, with `torchrun"):
        PPOTrainer(PPOConfig(shard_base=True), reward=len)
    base = make_base()
    base.network.model.layers = torch.nn.ModuleDict({str(i): m for i, m in enumerate(base.network.model.layers)})
    with pytest.raises(ModelError, match="cannot be sharded .its blocks are not in one list.; set shard_base to false"):
        base.shard(base.device)


def merged_of(folder):
    """What each process has of the merged weights."""
    base = load_base(folder, "float32", "cpu", shard=True)
    with pytest.raises(ModelError, match="are sharded, so they cannot be merged or saved by one process alone"):
        base.merged_weights(None)
    with base.gathered():
        return base.merged_weights(None).weights if processes().place.is_first else base._gathered


def test_the_first_process_merges_into_gathered_weights(folder):
    first, other = succeeded(in_processes(2, merged_of, folder))
    expected = load_base(folder, "float32", "cpu").network.state_dict()
    assert first.keys() == expected.keys()
    assert all(torch.equal(first[name], expected[name]) for name in expected)
    assert not other

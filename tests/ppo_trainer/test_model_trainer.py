import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ppo_lm.base_setup import set_up_roles
from ppo_lm.config import PPOConfig
from ppo_lm.errors import ConfigError
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.models.policy_model import states_before_actions
from ppo_lm.ops import masked_mean
from ppo_lm.ppo_trainer import ModelTrainer, SequenceGenerator
from ppo_lm.rollout import SamplingSettings
from ppo_lm.training import PolicyLoss, TokenLoss, kl_loss, policy_loss, policy_ratio, value_loss
from tests.conftest import make_base
from tests.ppo_trainer.conftest import fixed_pairs, gradients, setup

PROMPTS = [f"SUBREDDIT: r/advice TITLE: {'My boss ' * i}TL;DR:" for i in range(1, 9)]


def mean_loss(roles, role, pairs):
    """The clipped loss of a role's model over all pairs at once."""
    model, mask = getattr(roles, role), pairs.action_mask
    if role == "policy":
        found = policy_loss(model.action_logprobs(pairs), pairs.old_logprobs, pairs.advantages, mask, 0.2)
    else:
        found = value_loss(model.values(pairs), pairs.values, pairs.reward_to_go, mask, 0.2)
    return masked_mean(found.loss, mask)


@pytest.mark.parametrize(("kl_coef", "entropy_coef"), [(0.0, 0.0), (0.5, 0.2)])
def test_a_shared_trunk_gets_the_sum_of_all_gradients_in_one_pass(kl_coef, entropy_coef):
    pairs = fixed_pairs()
    config = PPOConfig(
        value_coef=0.3,
        lr_schedule="constant",
        ppo_epochs=1,
        micro_batch_tokens=60,
        max_grad_norm=1e9,
        entropy_coef=entropy_coef,
        temperature=1.0,
    )
    roles = set_up_roles(
        make_base(), lora_r=4, lora_alpha=8, lora_dropout=0.0, lora_targets="all-linear", shared_trunk=True
    )
    assert [tuple(p.shape) for p in roles.value.parameters()] == [(1, roles.policy.base.hidden_size), (1,)]
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in [*roles.policy.parameters(), *roles.value.parameters()]:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    weights = [*roles.policy.parameters(), *roles.value.parameters()]
    policy, value = (mean_loss(roles, role, pairs) for role in ("policy", "value"))
    states = states_before_actions(roles.policy.base, roles.policy.role, pairs)
    new_logprobs, entropies = roles.policy.logprobs_at(states, pairs, entropy=True)
    kl = kl_loss(new_logprobs, pairs.old_logprobs, pairs.ref_logprobs, pairs.action_mask, "k1")[
        pairs.action_mask
    ].mean()
    expected = torch.autograd.grad(
        policy + 0.3 * value + kl_coef * kl - entropy_coef * entropies[pairs.action_mask].mean(), weights
    )
    trainer, caught = ModelTrainer(roles.policy, roles.value, config), {}
    for optimiser in (trainer.policy_optimiser, trainer.value_optimiser):
        optimiser.inner.register_step_pre_hook(
            lambda inner, *_: caught.update({p: p.grad.clone() for g in inner.param_groups for p in g["params"]})
        )
    metrics = trainer.train_models(pairs, kl_coef)
    assert metrics["policy_loss"] == pytest.approx(policy.item(), abs=1e-5)
    assert metrics["value_loss"] == pytest.approx(value.item(), abs=1e-5)
    for weight, gradient in zip(weights, expected):
        torch.testing.assert_close(caught[weight], gradient, rtol=0, atol=1e-5 * max(1.0, float(gradient.abs().max())))
    assert max(float(g.abs().max()) for g in expected) > 1e-3


def test_a_shared_trunk_needs_no_second_copy_of_all_weights():
    roles = set_up_roles(
        make_base(), lora_r=0, lora_alpha=8, lora_dropout=0.0, lora_targets="all-linear", shared_trunk=True
    )
    assert roles.value.base is roles.policy.base is not roles.sft._policy.base


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("role", ["policy", "value"])
@pytest.mark.parametrize(
    "change", ["micro-batches of 1 token", "micro-batches of 60 tokens", "micro-batches of 5000 tokens", "row order"]
)
def test_what_must_change_nothing_changes_loss_and_gradient_by_less_than_1e_5(role, change, holes):
    pairs = fixed_pairs(holes=holes)
    expected, loss = gradients(pairs, role)
    settings = {}
    if change.startswith("micro"):
        settings["micro_batch_tokens"] = int(change.split()[2])
    else:
        pairs = pairs.select(torch.randperm(9, generator=torch.Generator().manual_seed(5)))
    gradient, changed_loss = gradients(pairs, role, **settings)
    assert expected.abs().max() > 1e-3
    assert (gradient - expected).abs().max() < 1e-5
    assert abs(changed_loss - loss) < 1e-5


def widened(pairs):
    """The same pairs with three columns of padding more on the left and two on the right."""
    changed = {}
    for name in type(pairs).__dataclass_fields__:
        column = getattr(pairs, name)
        if column is not None and column.ndim == 2:
            changed[name] = torch.nn.functional.pad(
                column, (3, 2) if name in ("input_ids", "attention_mask") else (0, 2)
            )
    return pairs.with_columns(**changed)


@pytest.mark.parametrize("role", ["policy", "value"])
def test_extra_padding_changes_loss_and_gradient_by_less_than_1e_5(role):
    """Straight through the models: micro-batching, which would trim the padding again, is left out."""
    results = []
    for pairs in (fixed_pairs(), widened(fixed_pairs())):
        _, roles = setup()
        loss = mean_loss(roles, role, pairs)
        loss.backward()
        results.append((loss.item(), torch.cat([p.grad.flatten() for p in getattr(roles, role).parameters()])))
    (loss, gradient), (wide_loss, wide_gradient) = results
    assert gradient.abs().max() > 1e-3
    assert abs(wide_loss - loss) < 1e-5
    assert (wide_gradient - gradient).abs().max() < 1e-5


@pytest.mark.parametrize("settings", [SamplingSettings(10), SamplingSettings(10, 0.7, 50, 0.95)], ids=str)
def test_the_first_pass_has_ratio_1_and_clips_nothing_with_lora_dropout_set(settings):
    trainer, roles = setup(temperature=settings.temperature)
    pairs, _ = SequenceGenerator(roles.policy, roles.sft, settings).generate_sequences(PROMPTS)
    pairs = pairs.with_columns(advantages=torch.randn(pairs.action_ids.shape))
    with torch.no_grad():
        ratio = policy_ratio(
            roles.policy.action_logprobs(pairs, settings.temperature), pairs.old_logprobs, pairs.action_mask
        )
    assert (ratio - 1).abs().max() < 1e-4
    metrics = trainer.train_policy_model(pairs)
    assert abs(metrics["ratio"] - 1) < 1e-4
    assert metrics["clip_fraction"] == 0
    assert abs(metrics["approx_kl"]) < 1e-6


def test_the_number_of_optimiser_steps_is_epochs_times_mini_batches():
    trainer, _ = setup(ppo_epochs=3, mini_batches=4)
    steps = []
    trainer.policy_optimiser.inner.register_step_pre_hook(lambda *_: steps.append(1))
    trainer.train_policy_model(fixed_pairs())
    assert len(steps) == 12


@pytest.mark.parametrize("lora_r", [4, 0])
def test_training_moves_the_policy_towards_good_actions_and_the_value_towards_its_target(lora_r):
    trainer, roles = setup(lora_r=lora_r, ppo_epochs=8, learning_rate=3e-3, value_learning_rate=1e-2, value_clip=0.0)
    generator = SequenceGenerator(roles.policy, roles.sft, SamplingSettings(10))
    pairs, _ = generator.generate_sequences(PROMPTS)
    good = pairs.action_ids % 2 == 0
    pairs = pairs.with_columns(
        advantages=torch.where(good, 1.0, -1.0),
        values=roles.value.values(pairs).detach(),
        reward_to_go=torch.full(pairs.action_ids.shape, 2.0),
    )
    trainer.train_policy_model(pairs)
    trainer.train_value_model(pairs)
    change = (roles.policy.action_logprobs(pairs) - pairs.old_logprobs).detach()
    assert change[good & pairs.action_mask].mean() > 0.01 > -0.01 > change[~good & pairs.action_mask].mean()
    mask = pairs.action_mask
    assert ((roles.value.values(pairs) - 2)[mask] ** 2).mean() < 0.5 * ((pairs.values - 2)[mask] ** 2).mean()


def test_gradients_longer_than_the_limit_are_scaled_to_it():
    trainer, _ = setup(max_grad_norm=0.01)
    norms = []
    trainer.value_optimiser.inner.register_step_pre_hook(
        lambda *_: norms.append(torch.cat([p.grad.flatten() for p in trainer.value_optimiser.parameters]).norm().item())
    )
    metrics = trainer.train_value_model(fixed_pairs())
    assert metrics["value_grad_norm"] > 0.01
    assert norms[0] == pytest.approx(0.01, abs=1e-5)


@pytest.mark.parametrize(
    ("schedule", "half_way"), [("linear", 5e-4), ("cubic", 1.25e-4), ("inverse", 1e-3 / 10), ("cosine", 5e-4)]
)
def test_the_learning_rate_falls_to_0_over_the_run(schedule, half_way):
    trainer, _ = setup(lr_schedule=schedule, steps=2, learning_rate=1e-3)
    rates = [trainer.train_policy_model(fixed_pairs())["learning_rate"] for _ in range(2)]
    assert rates == pytest.approx([half_way, 0.0], abs=1e-12)
    with pytest.raises(ConfigError, match=f"all 2 steps are done, so the {schedule} schedule has ended"):
        trainer.train_value_model(fixed_pairs())


@pytest.mark.parametrize("needs", [True, False])
def test_a_loss_that_needs_entropies_is_given_them(needs):
    trainer, seen = setup()[0], []

    def watch(sa_pairs, new, config):
        seen.append(new.entropies)
        return TokenLoss(-new.logprobs, {})

    trainer.losses = trainer.losses._replace(policy=PolicyLoss(watch, needs_entropies=needs))
    metrics = trainer.train_policy_model(fixed_pairs())
    assert all((entropies is not None) == needs for entropies in seen)
    assert "clip_fraction" not in metrics and metrics["ratio"] > 0


def test_without_a_value_model_the_policy_is_trained_alone():
    _, roles = setup()
    trainer = ModelTrainer(roles.policy, None, PPOConfig(lora_r=4, ppo_epochs=1))
    assert trainer.optimisers.keys() == {"policy"}
    before = [p.detach().clone() for p in roles.policy.parameters()]
    metrics = trainer.train_models(fixed_pairs())
    assert "policy_loss" in metrics and not any("value" in name for name in metrics)
    assert any(not torch.equal(old, new) for old, new in zip(before, roles.policy.parameters()))
    with pytest.raises(ValueError, match="there is no value model to train"):
        trainer.train_value_model(fixed_pairs())


@pytest.mark.parametrize("lora_r", [4, 0])
def test_a_value_model_that_nobody_needs_is_not_made(lora_r):
    base = make_base()
    settings = dict(lora_r=lora_r, lora_alpha=8, lora_dropout=0.0, lora_targets="all-linear")
    roles = set_up_roles(base, **settings, with_value=False)
    assert roles.value is None
    assert not any(".value." in name for name, _ in base.network.named_parameters())


class LargestLogits(TorchDispatchMode):
    """Watches every tensor that is made; remembers the most rows of any whose last dimension is the vocabulary."""

    def __init__(self, vocabulary):
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.ndim > 1 and tensor.shape[-1] == self.vocabulary:
                self.rows = max(self.rows, tensor.numel() // self.vocabulary)
        return out


def test_logits_never_exist_for_the_whole_batch():
    vocabulary = 1531  # prime: no other tensor has it as its width
    base = make_base(vocab_size=vocabulary)
    roles = set_up_roles(base, lora_r=4, lora_alpha=8, lora_dropout=0.1, lora_targets="all-linear")
    trainer = ModelTrainer(roles.policy, roles.value, PPOConfig(micro_batch_tokens=60, ppo_epochs=1))
    with LargestLogits(vocabulary) as watch:
        pairs, _ = SequenceGenerator(
            roles.policy, roles.sft, SamplingSettings(16), MemoryBudget(60)
        ).generate_sequences(PROMPTS)
        pairs = pairs.with_columns(advantages=torch.randn(pairs.action_ids.shape))
        trainer.train_policy_model(pairs)
    assert pairs.sequences == 8
    assert (
        8 <= watch.rows <= 2 * 16
    )  # one micro-batch's response tokens; a whole batch has 8 · 16, with prompts far more

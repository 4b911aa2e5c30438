"""Log-probabilities and entropies through an output layer that is not trained. The forward pass computes their
gradients with respect to the hidden states along with the logits, and the backward pass computes no logits."""

from __future__ import annotations

import torch

from ppo_lm.ops.exclusion import without
from ppo_lm.ops.exponentials import exponentials
from ppo_lm.ops.products import sum_products

FEW = 200  # size of the vocabulary, in sizes of the support, from which on gathering rows of the weight is faster


def frozen_head_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    action_ids: torch.Tensor,
    temperature: float,
    support_ids: torch.Tensor | None,
    excluded_ids: torch.Tensor | None,
    entropy: bool,
) -> torch.Tensor:
    """log π(a|s) of n actions, and, with `entropy`, the entropies: (n,), or (2, n), fp32 (fp64 for fp64 weights).

    hidden: (n, H). weight: (V, H), which gets no gradient, and bias: (V,) or None. action_ids: (n,) int64. support_ids:
    (n, K), or else excluded_ids: (n, E), int64 with -1 = none; None for the whole vocabulary. Memory: (n, V), or (n, K,
    H) for a small support.
    """
    differentiate = torch.is_grad_enabled() and hidden.requires_grad
    supports = support_ids, excluded_ids
    return _FrozenHead.apply(hidden, weight, bias, action_ids, temperature, *supports, entropy, differentiate)


def is_few(kept: int, vocabulary: int) -> bool:
    """Whether gathering the weight's rows of a support of `kept` tokens is faster than computing all logits."""
    return kept * FEW <= vocabulary


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, action_ids, temperature, support_ids, excluded_ids, entropy, differentiate):
        columns = _Columns(weight, bias, action_ids, support_ids)
        logits = columns.logits(hidden)
        if support_ids is None:
            chosen = logits.gather(1, action_ids[:, None])
        else:
            chosen, logits = logits[:, :1], logits[:, 1:].masked_fill(support_ids < 0, -torch.inf)
        if excluded_ids is not None:
            logits = without(logits, excluded_ids)
        chosen = chosen.to(torch.promote_types(chosen.dtype, torch.float32)) / temperature
        highest, total, mean, weights, of_entropy = exponentials(logits, temperature, differentiate, entropy)
        logprobs = chosen.sub_(highest).sub_(total.log())
        found, slopes = [logprobs], []
        if weights is not None:
            slopes.append(weight[action_ids] - columns.weighted_rows(weights) / total)
        if mean is not None:
            found.append(total.log() - mean)
        if of_entropy is not None:
            slopes.append(-columns.weighted_rows(of_entropy) / total)
        ctx.save_for_backward(*(slope.div_(temperature).to(hidden.dtype) for slope in slopes))
        return torch.stack(found)[:, :, 0] if entropy else logprobs[:, 0]

    @staticmethod
    def backward(ctx, *grads):
        slopes = ctx.saved_tensors
        found = [grad[:, None] * slope for grad, slope in zip(grads[0].view(len(slopes), -1), slopes)]
        return sum(found[1:], found[0]).to(slopes[0].dtype), *(None,) * 8


class _Columns:
    """The output layer at the tokens that count for each row: all of them, or the action and then the support."""

    def __init__(self, weight, bias, action_ids, support_ids):
        self.weight, self.bias, self.support_ids, self.rows = weight, bias, None, None
        if support_ids is not None:
            self.support_ids = support_ids.clamp(min=0)
            self.ids = torch.cat([action_ids[:, None], self.support_ids], dim=1)
            if is_few(support_ids.shape[1], len(weight)):
                self.rows = weight[self.ids]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, H) → (n, V) or (n, 1 + K)."""
        if self.rows is not None:
            found = torch.bmm(self.rows, hidden[:, :, None])[:, :, 0]
            found = found if self.bias is None else found + self.bias[self.ids]
        else:
            found = sum_products([(hidden, self.weight.T)], self.bias)
            found = found if self.support_ids is None else found.gather(1, self.ids)
        return found

    def weighted_rows(self, weights: torch.Tensor) -> torch.Tensor:
        """Σ_j weights_j · (the layer's weight of token j): (n, V) or (n, K) → (n, H), at least fp32."""
        few = weights.to(self.weight.dtype)
        if self.rows is not None:
            found = torch.bmm(few[:, None], self.rows[:, 1:])[:, 0]
        elif self.support_ids is not None:
            found = few.new_zeros(len(few), len(self.weight)).scatter_add_(1, self.support_ids, few)
            found = sum_products([(found, self.weight)])
        else:
            found = sum_products([(few, self.weight)])
        return found.to(torch.promote_types(found.dtype, torch.float32))

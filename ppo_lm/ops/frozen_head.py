"""Log-probabilities and entropies through an output layer that is not trained. Their gradients with respect to the
hidden states are computed in the forward pass, where the logits are at hand, so that the backward pass computes
none."""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

LOWEST = -1e4  # nats: its exponential is 0, and so is their product
FEW = 16  # times as many tokens in the vocabulary as in the support, from which on rows of the weight are gathered


def frozen_head_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    action_ids: torch.Tensor,
    temperature: float,
    support_ids: torch.Tensor | None,
    entropy: bool,
) -> torch.Tensor:
    """log π(a|s) of n actions, and, with `entropy`, the entropies: (n,), or (2, n), fp32 (fp64 for fp64 weights).

    hidden: (n, H). weight: (V, H), which gets no gradient, and bias: (V,) or None. action_ids: (n,) int64. support_ids:
    (n, K) int64 with -1 = none, or None for the whole vocabulary. Memory: (n, V), or (n, K, H) for a small support.
    """
    differentiate = torch.is_grad_enabled() and hidden.requires_grad
    return _FrozenHead.apply(hidden, weight, bias, action_ids, temperature, support_ids, entropy, differentiate)


def is_few(kept: int, vocabulary: int) -> bool:
    """Whether gathering the weight's rows of a support of `kept` tokens is faster than computing all logits."""
    return kept * FEW <= vocabulary


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, action_ids, temperature, support_ids, entropy, differentiate):
        layer = _Columns(weight, bias, action_ids, support_ids)
        logits = layer.logits(hidden)
        if temperature != 1:
            logits.div_(temperature)
        if support_ids is None:
            chosen = logits.gather(1, action_ids[:, None])
        else:
            chosen, logits = logits[:, :1], logits[:, 1:].masked_fill_(support_ids < 0, -torch.inf)
        normaliser = logits.logsumexp(dim=1, keepdim=True)
        logprobs = (chosen - normaliser)[:, 0]
        if not (entropy or differentiate):
            return logprobs
        logs = logits.sub_(normaliser).clamp_(min=LOWEST)
        probabilities = logs.exp()
        entropies = -(probabilities * logs).sum(dim=1) if entropy else None
        if differentiate:
            slopes = [layer.slope(-probabilities, action=1)]
            if entropies is not None:
                slopes.append(layer.slope(-probabilities * (logs + entropies[:, None]), action=0))
            ctx.save_for_backward(*(slope if temperature == 1 else slope / temperature for slope in slopes))
        return logprobs if entropies is None else torch.stack([logprobs, entropies])

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        slopes = ctx.saved_tensors
        found = [grad[:, None] * slope for grad, slope in zip(grads[0].view(len(slopes), -1), slopes)]
        return sum(found[1:], found[0]).to(slopes[0].dtype), *(None,) * 7


class _Columns:
    """The output layer at the tokens that count for each row: all of them, or the action and then the support."""

    def __init__(self, weight, bias, action_ids, support_ids):
        self.weight, self.bias, self.action_ids, self.ids, self.rows = weight, bias, action_ids, None, None
        if support_ids is not None:
            self.ids = torch.cat([action_ids[:, None], support_ids.clamp(min=0)], dim=1)
            if is_few(support_ids.shape[1], len(weight)):
                self.rows = weight[self.ids]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, H) → (n, V) or (n, 1 + K), at least fp32."""
        if self.rows is not None and self.ids is not None:
            found = torch.bmm(self.rows, hidden[:, :, None])[:, :, 0]
            found = found if self.bias is None else found + self.bias[self.ids]
        else:
            found = linear(hidden, self.weight, self.bias)
            found = found if self.ids is None else found.gather(1, self.ids)
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def slope(self, of_logits: torch.Tensor, action: float) -> torch.Tensor:
        """The gradient with respect to the hidden states, (n, H), from that of the tokens' logits and, in addition, the
        action's."""
        if self.ids is None:
            of_logits[torch.arange(len(of_logits), device=of_logits.device), self.action_ids] += action
        else:
            of_logits = torch.cat([torch.full_like(of_logits[:, :1], action), of_logits], dim=1)
        if self.rows is not None:
            return torch.bmm(of_logits[:, None].to(self.rows.dtype), self.rows)[:, 0]
        if self.ids is not None:
            everywhere = of_logits.new_zeros(len(of_logits), len(self.weight))
            of_logits = everywhere.scatter_add_(1, self.ids, of_logits)
        return of_logits.to(self.weight.dtype) @ self.weight

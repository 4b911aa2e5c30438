"""Our own passes through the blocks, without padding: half a dozen operations where transformers' layers take thirty.
Activations that are cheap to recompute are not kept, and the last block skips tokens whose hidden state is not
wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from ppo_lm.fast.adapted_linear import AdaptedLinear, apply, gradients, input_gradient, weight_gradients
from ppo_lm.fast.attention import PackedBatch, attend_rows
from ppo_lm.fast.beside import apply_in_room, make_room
from ppo_lm.fast.blocks import Block, Norm, Trunk
from ppo_lm.fast.lora_linear import adapted
from ppo_lm.fast.packing import Packing, few_sizes, has_few_sizes
from ppo_lm.fast.rms_norm import normalise, normalise_gradients
from ppo_lm.fast.rotary import rotate_heads, rotate_heads_gradients, rotations
from ppo_lm.fast.swiglu import swiglu, swiglu_gradients


def pass_block(
    block: Block,
    role: str | None,
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    batch: PackedBatch,
    keep: torch.Tensor | None,
) -> torch.Tensor:
    """(N, H) → (N, H), or, with `keep` (M,) int64, the hidden states of only those tokens, (M, H)."""
    qkv = [adapted(module, role) for module in (block.q, block.k, block.v)]
    x, *outputs = _normed_linears(x, block.attention_norm, qkv)
    q, k, v = (y.unflatten(1, (-1, block.head_size)) for y in outputs)
    q, k = _rotated(q, cos, sin, block.q_norm), _rotated(k, cos, sin, block.k_norm)
    mixed = attend_rows(q, k, v, batch.rows_for(k.shape[1], q.shape[1] // k.shape[1]), block.scale, block.window)
    if keep is not None:
        x, mixed = x.index_select(0, keep), mixed.index_select(0, keep)
    out = adapted(block.o, role)
    x = _AddLinear.apply(x, mixed, out.constants, *out.tensors)
    layers, norm = [adapted(module, role) for module in (block.gate, block.up, block.down)], block.mlp_norm
    return _Mlp.apply(x, norm.weight, norm.eps, _constants(layers), *_tensors(layers))


def read_rows(
    trunk: Trunk,
    role: str | None,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    wanted: torch.Tensor | None = None,
    keep_inputs_only: bool = False,
    pass_block: Callable[..., torch.Tensor] = pass_block,
) -> torch.Tensor:
    """(B, T) int64, (B, T) bool → the last hidden states (B, T, H), 0 at padding and where `wanted` (B, T) bool is
    False.

    `keep_inputs_only`: keep only a block's input for the backward pass, and recompute its other activations
    (1604.06174). `pass_block`: what passes through each of the trunk's blocks.
    """
    few = has_few_sizes(trunk.embedding.weight)
    packing = Packing.of(attention_mask, few)
    batch, tokens, keep = PackedBatch(packing), packing.tokens, None
    if wanted is not None:
        keep = packing.take(wanted).nonzero()[:, 0]
        tokens = tokens[keep]
        keep = pad(keep, (0, few_sizes(len(keep)) - len(keep))) if few else keep
    x = trunk.embedding(packing.take(input_ids))
    cos, sin = rotations(trunk.rotary, x, packing.fill(packing.position_ids))
    last = len(trunk.blocks) - 1
    for index, block in enumerate(trunk.blocks):
        arguments = (block, role, x, cos, sin, batch, keep if index == last else None)
        x = (
            checkpoint(pass_block, *arguments, use_reentrant=False, preserve_rng_state=False)
            if keep_inputs_only
            else pass_block(*arguments)
        )
    return packing.spread(trunk.norm(x), input_ids.shape, tokens)


def _tensors(layers: list[AdaptedLinear]) -> list[torch.Tensor | None]:
    return [tensor for layer in layers for tensor in layer.tensors]


def _constants(layers: list[AdaptedLinear]) -> list[tuple]:
    return [layer.constants for layer in layers]


def _layers(tensors: Sequence[Any], constants: list[tuple]) -> list[AdaptedLinear]:
    return [AdaptedLinear(*tensors[4 * i : 4 * i + 4], *each) for i, each in enumerate(constants)]


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, norm: Norm | None) -> torch.Tensor:
    return _Rotate.apply(x, cos, sin, norm and norm.weight, norm and norm.eps)


class _Rotate(torch.autograd.Function):
    """Rotary embedding, of heads that are normalised first if there is a weight; keeps x only then."""

    @staticmethod
    def forward(ctx, x, cos, sin, weight, eps: float | None):
        norm = None if weight is None or eps is None else Norm(weight, eps)
        ctx.save_for_backward(None if norm is None else x, cos, sin, weight)
        ctx.eps = eps
        return rotate_heads(x, cos, sin, norm)

    @staticmethod
    def backward(ctx, *grads):
        x, cos, sin, weight = ctx.saved_tensors
        norm = None if weight is None else Norm(weight, ctx.eps)
        of_x, of_weight = rotate_heads_gradients(grads[0], x, cos, sin, norm, ctx.needs_input_grad[3])
        return of_x, None, None, of_weight, None


def _normed_linears(x: torch.Tensor, norm: Norm, layers: list[AdaptedLinear]) -> tuple[torch.Tensor, ...]:
    return _NormedLinears.apply(x, norm.weight, norm.eps, _constants(layers), *_tensors(layers))


class _NormedLinears(torch.autograd.Function):
    """x itself, for the residual, and linear layers on the same normalised input; keeps x."""

    @staticmethod
    def forward(ctx, x, weight, eps: float, constants: list[tuple], *tensors):
        outputs, thin, inverse = _apply_to_normed(x, weight, eps, _layers(tensors, constants))
        ctx.save_for_backward(x, inverse, weight, thin, *tensors)
        ctx.eps, ctx.constants = eps, constants
        return x, *outputs

    @staticmethod
    def backward(ctx, *grads):
        x, inverse, weight, thin, *tensors = ctx.saved_tensors
        (of_residual, *of_outputs), of_weight = grads, ctx.needs_input_grad[1]
        normed, layers = normalise(x, weight, ctx.eps, inverse)[0], _layers(tensors, ctx.constants)
        needs_input = ctx.needs_input_grad[0] or of_weight
        grad_normed, found = gradients(of_outputs, normed, thin, layers, ctx.needs_input_grad[4:], needs_input)
        grad_x = grad_weight = None
        if grad_normed is not None:
            grad_x, grad_weight = normalise_gradients(grad_normed, x, inverse, weight, of_weight, of_residual)
        return grad_x, grad_weight, None, None, *found


def _apply_to_normed(
    x: torch.Tensor, weight: torch.Tensor, eps: float, layers: list[AdaptedLinear]
) -> tuple[list[torch.Tensor], torch.Tensor | None, torch.Tensor]:
    """What `apply` returns, and 1 / √(mean x² + eps)."""
    room = make_room(x, layers)
    if room is None:
        normed, inverse = normalise(x, weight, eps)
        return *apply(normed, layers), inverse
    _, inverse = normalise(x, weight, eps, into=room[:, : x.shape[1]])
    return *apply_in_room(room, layers), inverse


class _AddLinear(torch.autograd.Function):
    """residual + x·(W + s·B·A)ᵀ + c; keeps x."""

    @staticmethod
    def forward(ctx, residual, x, constants: tuple, *tensors):
        (y,), thin = apply(x, [AdaptedLinear(*tensors, *constants)], residual)
        ctx.save_for_backward(x, thin, *tensors)
        ctx.constants = constants
        return y

    @staticmethod
    def backward(ctx, *grads):
        x, thin, *tensors = ctx.saved_tensors
        layer = AdaptedLinear(*tensors, *ctx.constants)
        grad_x, found = gradients(grads, x, thin, [layer], ctx.needs_input_grad[3:])
        return grads[0], grad_x, None, *found


class _Mlp(torch.autograd.Function):
    """x + down(silu(gate(n))·up(n)) with n = normalised x ("GLU variants improve transformer", 2002.05202); keeps x,
    gate(n) and up(n)."""

    @staticmethod
    def forward(ctx, x, weight, eps: float, constants: list[tuple], *tensors):
        *wide, down = _layers(tensors, constants)
        (gated, raised), thin, inverse = _apply_to_normed(x, weight, eps, wide)
        room = make_room(gated, [down])
        if room is None:
            (y,), thin_of_down = apply(swiglu(gated, raised), [down], residual=x)
        else:
            swiglu(gated, raised, room[:, : gated.shape[1]])
            (y,), thin_of_down = apply_in_room(room, [down], residual=x)
        ctx.save_for_backward(x, inverse, weight, gated, raised, thin, thin_of_down, *tensors)
        ctx.eps, ctx.constants = eps, constants
        return y

    @staticmethod
    def backward(ctx, *grads):
        x, inverse, weight, gated, raised, thin, thin_of_down, *tensors = ctx.saved_tensors
        (*wide, down), needs = _layers(tensors, ctx.constants), ctx.needs_input_grad[4:]
        grad_product, of_thin = input_gradient(grads, [down])
        product, grad_gated, grad_raised = swiglu_gradients(grad_product, gated, raised)
        of_down = weight_gradients(grads, product, thin_of_down, of_thin, [down], needs[8:])
        del product
        normed, grad_x, grad_weight = normalise(x, weight, ctx.eps, inverse)[0], None, None
        needs_input = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_normed, of_wide = gradients((grad_gated, grad_raised), normed, thin, wide, needs[:8], needs_input)
        if grad_normed is not None:
            of_weight = ctx.needs_input_grad[1]
            grad_x, grad_weight = normalise_gradients(grad_normed, x, inverse, weight, of_weight, grads[0])
        return grad_x, grad_weight, None, None, *of_wide, *of_down

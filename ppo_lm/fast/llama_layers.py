"""Networks built like Llama, read without padding by passes of our own: half a dozen operations where transformers'
layers take thirty, activations that are cheap to compute again are not kept, and the last layer does nothing for tokens
whose hidden state nobody wants."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import pad, silu
from torch.utils.checkpoint import checkpoint

from ppo_lm.fast.adapted_linear import AdaptedLinear, apply, gradients
from ppo_lm.fast.attention import PackedBatch, attend_rows
from ppo_lm.fast.lora_linear import adapted, is_plain
from ppo_lm.fast.packing import Packing, few_sizes

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # transformers' model_type
FIXED_ROPE = ("default", "linear", "llama3", "yarn")  # rotary embeddings that do not change with the length of the text


def why_not_llama(network: nn.Module) -> str | None:
    """Why this module's passes do not run the network; None if they do."""
    config = network.config
    if config.model_type not in FAMILIES:
        return f"model_type {config.model_type!r} is none of {', '.join(FAMILIES)}"
    if config.hidden_act != "silu":
        return f"hidden_act is {config.hidden_act!r}"
    rope = getattr(network.get_decoder().rotary_emb, "rope_type", "default")
    return None if rope in FIXED_ROPE else f"its rotary embedding is of type {rope!r}"


def is_plain_as(network: nn.Module, role: str | None) -> bool:
    """Whether all linear layers of the network's layers are plain in this role, so that `read_llama_rows` may be
    used."""
    return all(is_plain(module, role) for layer in network.get_decoder().layers for module in _linears(layer))


def read_llama_rows(
    decoder: nn.Module,
    role: str | None,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    wanted: torch.Tensor | None = None,
    keep_inputs_only: bool = False,
) -> torch.Tensor:
    """(B, T) int64, (B, T) bool → the last hidden states (B, T, H), 0 at padding and where `wanted` (B, T) bool is
    False.

    `keep_inputs_only`: of a layer's activations keep but its input for the backward pass, and compute the others anew
    (1604.06174).
    """
    few = input_ids.device.type == "cpu"
    packing = Packing.of(attention_mask, few)
    batch, tokens, keep = PackedBatch(packing), packing.tokens, None
    if wanted is not None:
        keep = packing.take(wanted).nonzero()[:, 0]
        tokens = tokens[keep]
        keep = pad(keep, (0, few_sizes(len(keep)) - len(keep))) if few else keep
    x = decoder.embed_tokens(packing.take(input_ids))
    cos, sin = rotations(decoder.rotary_emb, x, packing.fill(packing.position_ids))
    last = len(decoder.layers) - 1
    for index, layer in enumerate(decoder.layers):
        arguments = (layer, role, x, cos, sin, batch, keep if index == last else None)
        x = (
            checkpoint(_pass_layer, *arguments, use_reentrant=False, preserve_rng_state=False)
            if keep_inputs_only
            else _pass_layer(*arguments)
        )
    return packing.spread(decoder.norm(x), input_ids.shape, tokens)


def _pass_layer(
    layer: nn.Module, role: str | None, x, cos, sin, batch: PackedBatch, keep: torch.Tensor | None
) -> torch.Tensor:
    """(N, H) → (N, H), or, with `keep` (M,) int64, the hidden states of those tokens alone, (M, H)."""
    attention, size = layer.self_attn, layer.self_attn.head_dim
    q, k, v = (
        y.unflatten(1, (-1, size))
        for y in _normed_linears(x, layer.input_layernorm, *(adapted(m, role) for m in _linears(layer)[:3]))
    )
    if hasattr(attention, "q_norm"):
        q, k = attention.q_norm(q), attention.k_norm(k)
    rows = batch.rows_for(k.shape[1], q.shape[1] // k.shape[1])
    window = getattr(
        attention, "sliding_window", getattr(attention.config, "sliding_window", None)
    )  # a layer's own, or the network's
    mixed = attend_rows(_Rotate.apply(q, cos, sin), _Rotate.apply(k, cos, sin), v, rows, attention.scaling, window)
    if keep is not None:
        x, mixed = x.index_select(0, keep), mixed.index_select(0, keep)
    out = adapted(attention.o_proj, role)
    x = _AddLinear.apply(x, mixed, out.scale, *out.tensors)
    layers = [adapted(m, role) for m in _linears(layer)[4:]]
    norm = layer.post_attention_layernorm
    return _Mlp.apply(x, norm.weight, norm.variance_epsilon, [l.scale for l in layers], *_tensors(layers))


def _linears(layer: nn.Module) -> tuple[nn.Module, ...]:
    attention, mlp = layer.self_attn, layer.mlp
    return (
        attention.q_proj,
        attention.k_proj,
        attention.v_proj,
        attention.o_proj,
        mlp.gate_proj,
        mlp.up_proj,
        mlp.down_proj,
    )


def _tensors(layers: list[AdaptedLinear]) -> list[torch.Tensor | None]:
    return [tensor for layer in layers for tensor in layer.tensors]


def _layers(tensors: list, scales: list[float]) -> list[AdaptedLinear]:
    return [AdaptedLinear(*tensors[4 * i : 4 * i + 4], scale) for i, scale in enumerate(scales)]


def rotations(rotary: nn.Module, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(cos, sin) of positions (N,), (N, 1, D) each, in the dtype of x; sin is negative in its first half, see
    `rotate`."""
    cos, sin = rotary(x[:1, None], position_ids[None])
    half = sin.shape[-1] // 2
    return cos[0][:, None], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=1)[:, None]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (2104.09864) with the halves of each head as the two coordinates: x·cos + (x₂,
    x₁)·(−sin, sin). (N, heads, D)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return rotate(x, cos, sin)

    @staticmethod
    def backward(ctx, grad):
        cos, sin = ctx.saved_tensors
        return rotate(grad, cos, -sin), None, None


def inverse_length(x: torch.Tensor, eps: float) -> torch.Tensor:
    """1 / √(mean x² + eps) over the last dimension, (..., H) → (..., 1) fp32 ("Root mean square layer normalization",
    1910.07467)."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def normalise(x: torch.Tensor, inverse: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (x * inverse).to(x.dtype).mul_(weight)


def _normalise_gradients(
    grad: torch.Tensor, x: torch.Tensor, inverse: torch.Tensor, weight: torch.Tensor, of_weight: bool
):
    """(of x, of weight or None), computed in fp32."""
    unit = x * inverse
    grad_weight = (grad * unit).sum(dim=0).to(weight.dtype) if of_weight else None
    grad_unit = (grad * weight).float()
    along = torch.linalg.vecdot(grad_unit, unit)[..., None].div_(-x.shape[-1])
    return grad_unit.addcmul_(unit, along).mul_(inverse).to(x.dtype), grad_weight


def _normed_linears(x: torch.Tensor, norm: nn.Module, *layers: AdaptedLinear) -> tuple[torch.Tensor, ...]:
    return _NormedLinears.apply(
        x, norm.weight, norm.variance_epsilon, [layer.scale for layer in layers], *_tensors(layers)
    )


class _NormedLinears(torch.autograd.Function):
    """Linear layers on the same normalised input; kept is x."""

    @staticmethod
    def forward(ctx, x, weight, eps: float, scales: list[float], *tensors):
        inverse = inverse_length(x, eps)
        ctx.save_for_backward(x, inverse, weight, *tensors)
        ctx.scales = scales
        normed = normalise(x, inverse, weight)
        return tuple(apply(normed, layer) for layer in _layers(tensors, scales))

    @staticmethod
    def backward(ctx, *grads):
        x, inverse, weight, *tensors = ctx.saved_tensors
        normed, grad_normed, found = normalise(x, inverse, weight), None, []
        needs_input = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        for i, (grad, layer) in enumerate(zip(grads, _layers(tensors, ctx.scales))):
            grad_normed, of_layer = gradients(
                grad, normed, layer, ctx.needs_input_grad[4 + 4 * i : 8 + 4 * i], needs_input, grad_normed
            )
            found += of_layer
        grad_x, grad_weight = (
            _normalise_gradients(grad_normed, x, inverse, weight, ctx.needs_input_grad[1])
            if needs_input
            else (None, None)
        )
        return grad_x, grad_weight, None, None, *found


class _AddLinear(torch.autograd.Function):
    """residual + x·(W + s·B·A)ᵀ + c; kept is x."""

    @staticmethod
    def forward(ctx, residual, x, scale: float, *tensors):
        ctx.save_for_backward(x, *tensors)
        ctx.scale = scale
        return apply(x, AdaptedLinear(*tensors, scale)).add_(residual)

    @staticmethod
    def backward(ctx, grad):
        x, *tensors = ctx.saved_tensors
        grad_x, found = gradients(grad, x, AdaptedLinear(*tensors, ctx.scale), ctx.needs_input_grad[3:])
        return grad, grad_x, None, *found


class _Mlp(torch.autograd.Function):
    """x + down(silu(gate(n))·up(n)) with n = normalised x ("GLU variants improve transformer", 2002.05202); kept are x,
    gate(n) and up(n)."""

    @staticmethod
    def forward(ctx, x, weight, eps: float, scales: list[float], *tensors):
        inverse = inverse_length(x, eps)
        normed, (gate, up, down) = normalise(x, inverse, weight), _layers(tensors, scales)
        gated, raised = apply(normed, gate), apply(normed, up)
        ctx.save_for_backward(x, inverse, weight, gated, raised, *tensors)
        ctx.scales = scales
        return apply(silu(gated).mul_(raised), down).add_(x)

    @staticmethod
    def backward(ctx, grad):
        x, inverse, weight, gated, raised, *tensors = ctx.saved_tensors
        (gate, up, down), needs = _layers(tensors, ctx.scales), ctx.needs_input_grad[4:]
        active = silu(gated)
        grad_product, of_down = gradients(grad, active * raised, down, needs[8:])
        grad_raised = active.mul_(grad_product)
        grad_gated = torch.ops.aten.silu_backward(grad_product.mul_(raised), gated)
        normed, grad_x, grad_weight = normalise(x, inverse, weight), None, None
        needs_input = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_normed, of_gate = gradients(grad_gated, normed, gate, needs[:4], needs_input)
        grad_normed, of_up = gradients(grad_raised, normed, up, needs[4:8], needs_input, grad_normed)
        if needs_input:
            grad_x, grad_weight = _normalise_gradients(grad_normed, x, inverse, weight, ctx.needs_input_grad[1])
            grad_x.add_(grad)
        return grad_x, grad_weight, None, None, *of_gate, *of_up, *of_down

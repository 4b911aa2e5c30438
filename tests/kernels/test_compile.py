"""Every kernel compiles for a GPU, which the interpreter does not show: it runs Python that the compiler refuses."""

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from ppo_lm.kernels.gpu import attention_kernels, elementwise_kernels, vocabulary_kernels  # noqa: E402

H100 = GPUTarget("cuda", 90, 32)
SIZES = {"SIZE": 80, "HEADS": 8, "COLUMNS": 64, "BLOCK": 128, "BLOCKS": 4}
OF_ATTENTION = {"SIZE": 80, "COLUMNS": 128, "GROUP": 3}
TILES = {"bf16": 64, "fp32": 16}  # in fp32, in which no GPU runs them, large ones take long to compile
SUMS = ("highest", "total", "mean", "sums", "logsums", "means", "inverse")  # fp32, whatever the logits are
FLOATS = ("q_eps", "k_eps", "eps", "scale")
INTEGERS = ("heads", "q_heads", "width", "blocks", "tokens", "rows", "kv_heads", "window")
PARTS = {"load", "store", "sees", "is_cut", "seen_keys", "fold"}
PARTS |= {"find_tile", "find_queries", "queries_of", "heads_of", "tokens_of", "places_of"}
KERNELS = [
    kernel
    for module in (elementwise_kernels, vocabulary_kernels, attention_kernels)
    for kernel in vars(module).values()
    if isinstance(kernel, JITFunction) and kernel.__name__ not in PARTS
]
MAY_BE_MISSING = {"q_weight", "k_weight", "slopes", "window", "more", "inverse"}


def compile_for_a_gpu(kernel, dtype, missing):
    signature, constants = {}, {}
    of_attention = OF_ATTENTION | {"QUERIES": TILES[dtype], "KEYS": TILES[dtype]}
    sizes = of_attention if "GROUP" in kernel.arg_names else SIZES
    for name in kernel.arg_names:
        if name in sizes or name in missing:
            signature[name], constants[name] = "constexpr", sizes.get(name)
        elif name in FLOATS:
            signature[name] = "fp32"
        elif name in INTEGERS or name.endswith("stride"):
            signature[name] = "i32"
        elif name == "boundaries":
            signature[name] = "*i32"
        elif name in ("slots", "places"):
            signature[name] = "*i64"
        else:
            signature[name] = "*fp32" if name in SUMS else f"*{dtype}"
    return triton.compile(ASTSource(kernel, signature, constants), target=H100)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_a_kernel_compiles_for_a_gpu(kernel, dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for missing in (set(), MAY_BE_MISSING):
        assert compile_for_a_gpu(kernel, dtype, missing).asm["cubin"]

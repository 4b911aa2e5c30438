"""Every kernel compiles for a GPU, which the interpreter does not show: it runs Python that the compiler refuses."""

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from ppo_lm.kernels.gpu import elementwise_kernels, vocabulary_kernels  # noqa: E402

H100 = GPUTarget("cuda", 90, 32)
SIZES = {"SIZE": 80, "HEADS": 8, "COLUMNS": 64, "BLOCK": 128, "BLOCKS": 4}
SUMS = ("highest", "total", "mean", "sums")  # fp32, whatever the logits are
FLOATS = ("q_eps", "k_eps", "scale")
INTEGERS = ("heads", "q_heads", "width", "blocks")
KERNELS = [
    kernel
    for module in (elementwise_kernels, vocabulary_kernels)
    for name, kernel in vars(module).items()
    if isinstance(kernel, JITFunction) and name != "load"
]
MAY_BE_MISSING = {"q_weight", "k_weight", "slopes"}


def compile_for_a_gpu(kernel, dtype, missing):
    signature, constants = {}, {}
    for name in kernel.arg_names:
        if name in SIZES or name in missing:
            signature[name], constants[name] = "constexpr", SIZES.get(name)
        elif name in FLOATS:
            signature[name] = "fp32"
        elif name in INTEGERS or name.endswith("stride"):
            signature[name] = "i32"
        else:
            signature[name] = "*fp32" if name in SUMS else f"*{dtype}"
    return triton.compile(ASTSource(kernel, signature, constants), target=H100)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_a_kernel_compiles_for_a_gpu(kernel, dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for missing in (set(), MAY_BE_MISSING):
        assert compile_for_a_gpu(kernel, dtype, missing).asm["cubin"]

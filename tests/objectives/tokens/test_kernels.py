"""The Triton kernels give the definitions' numbers and autograd's gradients, run by Triton's interpreter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from isentropic.objectives.tokens import kernels

HERE = Path(__file__).parent
SOURCES = HERE.parents[2] / "platform"
STATISTICS = ["logprob", "entropy", "sensitivity", "sum_p2", "sum_s2"]
GRADIENTS = ["gradient of hidden", "gradient of weight", "gradient of bias"]
ROUNDED = {"float32": (1e-6, 1e-6), "bfloat16": (1e-6, 2**-8)}  # statistics, gradients


@pytest.fixture(scope="module")
def interpreted():
    done = subprocess.run(
        [sys.executable, HERE / "kernel_cases.py"],
        env={"PYTHONPATH": str(SOURCES), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_case_has_every_number(interpreted):
    biased = {"bias", "first tile banned", "bfloat16"}
    for case, errors in interpreted["errors"].items():
        assert list(errors) == STATISTICS + GRADIENTS[: 3 if case in biased else 2]
    assert {"no rows", "temperature", "sharp", *biased} < set(interpreted["errors"])


def test_the_kernels_agree_with_float64(interpreted):
    """In float64 to its last digits; in bfloat16 gradients are rounded to 8 bits, statistics are not."""
    wrong = {
        f"{case}: {name}": error
        for case, errors in interpreted["errors"].items()
        for name, error in errors.items()
        if not error <= ROUNDED.get(case, (1e-13, 1e-13))["gradient" in name]
    }
    assert wrong == {}


def test_a_row_that_is_no_number_stays_one_and_spoils_no_other(interpreted):
    """The learner skips an update by it; a maximum that ignores NaN must not hide it."""
    assert interpreted["nan"] == [[False, True, False]] * 6


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_kernels_compile_for_gpus(capability, dtype, monkeypatch, tmp_path):
    """To machine code, which needs no GPU: the interpreter accepts more than the compiler does."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    numbers = dict.fromkeys(("rows", "width", "stride", "grad_stride"), "i32")
    tensors = {"logits": "*fp32", "target": "*i64", "state": "*fp32", "per_row": "*fp32"}
    types = numbers | tensors | {"grad": f"*{dtype}", "BLOCK": "constexpr"}
    for kernel in (kernels._add, kernels._gradient):
        signature = {name: types[name] for name in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=signature, constexprs={"BLOCK": kernels.BLOCK})
        target = GPUTarget("cuda", capability, 32)
        built = compile_kernel(source, target=target, options={"num_warps": kernels.WARPS})

        assert built.asm["cubin"]
        assert ".local" not in built.asm["ptx"]  # registers only

"""Compiles the Triton kernels for GPUs that are not here and prints what each needs, as JSON. Run by test_deform_triton.py in a process
of its own, without TRITON_INTERPRET. Arguments: dtype, compute capability, width, in threes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from models.deform_conv import triton_gradients, triton_kernels, triton_launch

KERNELS = {
    "forward": (triton_kernels.forward_kernel, triton_launch.forward_blocks),
    "map_gradient": (triton_gradients.map_gradient_kernel, triton_launch.sampled_gradient_blocks),
    "aim_gradient": (triton_gradients.aim_gradient_kernel, triton_launch.sampled_gradient_blocks),
    "weight_gradient": (triton_gradients.weight_gradient_kernel, triton_launch.weight_gradient_blocks),
}
FLOAT32_POINTERS = {"offset_ptr", "mask_ptr", "grad_x_ptr", "grad_offset_ptr", "grad_mask_ptr", "grad_weight_ptr"}
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def needs(name: str, dtype: torch.dtype, capability: int, width: int) -> dict[str, int | bool]:
    """Registers a thread, bytes a thread of spilled ones, bytes of shared memory; whether it multiplies matrices and loads 16 bytes at once."""
    kernel, table = KERNELS[name]
    arguments = table(dtype, width, width).arguments()
    options = {key: arguments.pop(key) for key in ("num_warps", "num_stages")} | {"enable_fp_fusion": True}
    constants = arguments | {
        "CHANNELS": width, "OUTPUTS": width, "GROUPS": 1, "TAPS": 9, "KERNEL_X": 3, "STRIDE": 1, "PADDING": 1, "DILATION": 1,
        "HAS_MASK": True, "HAS_BIAS": True, "HAS_RESIDUAL": True, "PACKED": dtype == torch.bfloat16, "UPCAST": False,
        "PRECISION": "tf32x3" if dtype == torch.float32 else "ieee",
    }  # fmt: skip
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    signature, aligned = {}, {}
    for place, argument in enumerate(kernel.arg_names):
        if argument.endswith("_ptr"):
            signature[argument] = POINTERS[torch.float32 if argument in FLOAT32_POINTERS else dtype]
            aligned[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[argument] = "constexpr" if argument in constants else "i32"
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, aligned), target=GPUTarget("cuda", capability, 32), options=options
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(compiled.asm["cubin"])
        command = [TOOL, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    registers, stack, local = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage).groups()
    return {
        "registers": int(registers),
        "spilled": int(stack) + int(local),
        "shared": compiled.metadata.shared,
        "matrix": "mma.sync" in compiled.asm["ptx"] or "wgmma.mma_async" in compiled.asm["ptx"],
        "wide_loads": bool(re.search(r"ld\.global[.\w]*\.v4\.b32", compiled.asm["ptx"])),
    }


if __name__ == "__main__":
    rows = {}
    for dtype, capability, width in zip(*[iter(sys.argv[1:])] * 3, strict=True):
        for name in KERNELS:
            rows[f"{name} {dtype} {capability} {width}"] = needs(
                name, getattr(torch, dtype), int(capability), int(width)
            )
    sys.stdout.write(json.dumps(rows))

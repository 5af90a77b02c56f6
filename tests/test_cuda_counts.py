"""benchmarks/cuda_counts.py on what ptxas and nvdisasm print, without either."""

import pytest

from benchmarks.cuda_counts import Kernel, compiler_report, innermost_loop, warps_held

REPORT = """ptxas info    : Compiling entry function '_Z4blend' for 'sm_90'
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 80 registers, used 1 barriers
ptxas info    : Compiling entry function '_Z4copy' for 'sm_90'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers
"""
CODE = """.L_x_1:
        /*0000*/                   FADD R1, R1, 1 ;
.L_x_2:
        /*0010*/                   MUFU.EX2 R0, R0 ;
        /*0020*/                   NOP;
        /*0030*/                   FMUL R0, R0, R1 ;
        /*0040*/               @P0 BRA `(.L_x_2) ;
        /*0050*/              @!P1 BRA `(.L_x_1) ;
        /*0060*/                   EXIT ;
        /*0070*/                   SHFL.UP P0, R1, R1, 0x1, RZ ;
        /*0080*/                   BRA `(.L_x_2) ;
""".splitlines()


def test_registers_and_spills_are_those_of_each_kernel():
    counts = compiler_report(REPORT)
    assert {name: (each.registers, each.spilled) for name, each in counts.items()} == {
        "_Z4blend": (80, 20),
        "_Z4copy": (10, 0),
    }


def test_the_innermost_loop_ends_where_it_is_repeated():
    """Without padding, and the way back from code behind the end; then the rest of the loop around it."""
    assert innermost_loop(CODE) == (3, 2)
    assert innermost_loop(CODE[6:7]) == (0, 0)


@pytest.mark.parametrize(
    ("gpu", "registers", "kernel", "warps"),
    [
        ("T4", 80, Kernel(128, 15_312), 16),  # 4 blocks by shared memory
        ("4090", 80, Kernel(128, 15_312), 24),  # 6 blocks by both
        ("H200", 80, Kernel(128, 15_312), 24),  # 6 blocks by registers
        ("H200", 20, Kernel(32), 32),  # one warp in each of the most blocks
        ("T4", 32, Kernel(256), 32),  # all warps
    ],
)
def test_warps_are_limited_by_registers_shared_memory_and_the_multiprocessor(gpu, registers, kernel, warps):
    assert warps_held(gpu, registers, kernel) == warps

"""The compiled CUDA kernels, read from their code: no GPU is needed, but nvcc and nvdisasm."""

import importlib.util
import os
from pathlib import Path

import pytest

from tfconv import _build

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location(
    "cuda_resources", ROOT / "benchmarks" / "cuda_resources.py"
)
cuda_resources = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(cuda_resources)

CC = ROOT / "cc"
SOURCES = sorted(path.relative_to(CC).as_posix() for path in CC.rglob("*.cu.cc"))
# Instructions for 4 channels of a tap, in the kernels for the sizes that are unrolled.
MOST = {"GatherKernel": 30, "SampleKernel": 120, "AggregateKernel": 120}
MOST |= {"AttendKernel": 70, "QueryGradientKernel": 90, "KeyGradientKernel": 115}


@pytest.fixture(scope="module")
def tools():
    try:
        cuda = _build.find_cuda(env={**os.environ, "TFCONV_CUDA": "1"})
    except _build.BuildError as error:
        pytest.skip(str(error))
    nvdisasm = cuda_resources.find_nvdisasm()
    if nvdisasm is None:
        pytest.skip("there is no nvdisasm: pip install nvidia-cuda-nvdisasm")
    return cuda.nvcc, nvdisasm


@pytest.mark.late  # nvcc takes a minute
@pytest.mark.parametrize("source", SOURCES)
def test_compiled_kernels(source, tools, tmp_path):
    found = list(cuda_resources.kernels(*tools, source, "90", tmp_path))
    assert {kernel.dtype for kernel in found} == set(cuda_resources.TYPES)
    for kernel in found:
        assert kernel.local == 0, kernel
        assert kernel.reciprocals == 0, kernel
    unrolled = [k for k in found if k.per_tap is not None and "<T, V, 0" not in k.name]
    for kernel in unrolled:
        assert kernel.load == 16, kernel
        if kernel.dtype != "double":  # 16 bytes are two channels
            assert kernel.per_tap <= MOST[kernel.name.partition("<")[0]], kernel
    expected = {
        "aggregation/aggregation.cu.cc": 8,
        "deformable/deformable_sample.cu.cc": 12,
        "involution/involution.cu.cc": 24,
        "local_attention/local_attention.cu.cc": 18,  # of double three
    }
    assert len(unrolled) == expected.get(source, 0)


LISTING = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   LDG.E R0, desc[UR6][R2.64] ;
.L_x_0:
        /*0020*/               @P0 LDG.E.128 R4, desc[UR6][R2.64] ;
        /*0030*/                   MUFU.RCP R0, R0 ;
        /*0040*/              @!P0 BRA `(.L_x_0) ;
        /*0050*/              @!P1 BRA `(.L_x_1) ;
        /*0060*/                   EXIT ;
.L_x_2:
        /*0070*/                   BRA `(.L_x_2);
"""


def test_loops_are_found():
    code = cuda_resources.Code(LISTING)
    assert code.loops == [(2, 5), (1, 6)]
    assert code.per_turn() == 5
    assert code.inner == [(2, 5)]
    assert code.places(r"MUFU\.RCP") == [3]


def test_kernels_are_named():
    symbol = "void tfconv::cuda::(anonymous namespace)::SampleKernel<tfconv::Half, 8, 3>(int)"
    assert cuda_resources.split_type(symbol) == ("SampleKernel<T, V, 3>", "Half")
    symbol = "void tfconv::cuda::(anonymous namespace)::ColumnsKernel<float, 1, true>(int)"
    assert cuda_resources.split_type(symbol) == ("ColumnsKernel<T, 1, true>", "float")
    assert cuda_resources.split_type("void ScanKernel<double>(int)") == ("ScanKernel<T>", "double")
    assert cuda_resources.split_type("void F<double, 2>(int)") == ("F<T, 2>", "double")
    assert cuda_resources.taps_in_code("SampleKernel<T, V, 3>") == 9
    assert cuda_resources.taps_in_code("SampleKernel<T, V, 7>") == 7
    assert cuda_resources.taps_in_code("GatherKernel<T, V, 7, true>") == 49
    assert cuda_resources.taps_in_code("GatherKernel<T, V, 0, true>") == 1
    assert cuda_resources.taps_in_code("AttendKernel<T, true, 4>") == 4
    assert cuda_resources.taps_in_code("AttendKernel<T, false, 4>") is None
    assert cuda_resources.taps_in_code("ScanKernel<T>") is None

"""Tests run against the installed package, and report how many checks of the law ran.

A test run in which no check of the law ran must not pass for one: `.ci/run` reads that number.
"""

import signal
import sys
from pathlib import Path

# A shell's background job ignores Ctrl-C, and so would every process that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# First on the path, the checkout's rtskel/ would be imported, without its compiled part; `tests` is found there too.
# (--import-mode=append keeps pytest from putting it there again, which processes that tests start would inherit.)
ROOT = str(Path(__file__).resolve().parents[1])
sys.path[:] = [path for path in sys.path if path not in ("", ROOT)] + [ROOT]
sys.path.append(str(Path(ROOT, "bench")))  # the benches are scripts, not a package

import pytest  # noqa: E402

from tests import contract, fake_gpu  # noqa: E402


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(
        f"contract checks run: {sum(contract.CHECKS.values())} "
        f"({', '.join(f'{name} {count}' for name, count in sorted(contract.CHECKS.items()))})"
    )


@pytest.fixture
def gpu(monkeypatch):
    """Installs stand-ins for CUDA and one TensorRT module; returns the CUDA one."""

    def install(*, devices=1, memory=1 << 30, status=fake_gpu.cudaError_t.cudaSuccess, rtx=False, **behaviour):
        cuda = fake_gpu.FakeRuntime(devices, memory, status)
        module = fake_gpu.fake_tensorrt(cuda, rtx=rtx, **behaviour)
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return cuda

    return install


@pytest.fixture
def torch_gpu(gpu, monkeypatch):
    """As `gpu`, for PyTorch's engine, which computes on the CPU, in the memory and on the streams of the stand-in.

    Where there is a GPU, that is what it runs on, uncompiled, and nothing is a stand-in.
    """

    def install(make=gpu, **behaviour):
        from rtskel.engine import torch_cuda

        if torch_cuda.available():
            monkeypatch.setattr(torch_cuda.TorchCuda, "compiled", lambda self, network: network)
            return None
        cuda = make(**behaviour)
        monkeypatch.setattr(torch_cuda, "TorchCuda", fake_gpu.fake_torch(cuda))
        if make is gpu:  # this stand-in has no kernels, whatever was compiled
            monkeypatch.setattr(torch_cuda, "_kernels_are_there", lambda: False)
        return cuda

    return install


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    """The kernels of rings on the GPU, compiled for the host."""
    found = fake_gpu.host_kernels(tmp_path_factory.mktemp("kernels"))
    return found or pytest.skip("no C++ compiler: the kernels cannot be compiled for the host")


@pytest.fixture
def gpu_with_kernels(gpu, kernels, monkeypatch, tmp_path):
    """As `gpu`, with a stand-in for the CUDA driver that runs the kernels."""
    from rtskel.engine import device_ring as device

    def install(**behaviour):
        cuda = gpu(**behaviour)
        driver = fake_gpu.FakeDriver(cuda, kernels)
        monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)
        (tmp_path / "device.fatbin").write_bytes(b"kernels")
        monkeypatch.setattr(device, "compiled", lambda: tmp_path / "device.fatbin")
        return cuda

    return install


def _runtime(gpu):
    runtime = pytest.importorskip("cuda.bindings.runtime")
    if (int(runtime.cudaGetDeviceCount()[0]) == 0) != gpu:
        pytest.skip("no GPU" if gpu else "there is a GPU")
    return runtime


@pytest.fixture
def with_a_gpu():
    """The real CUDA runtime; the test is skipped where there is no GPU."""
    return _runtime(True)


@pytest.fixture
def without_a_gpu():
    """The real CUDA runtime; the test is skipped where there is a GPU."""
    return _runtime(False)

import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from objproxy._gpus import VisibleGpu, only_match, visible_gpus

LISTING = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa)
  MIG 3g.40gb     Device  0: (UUID: MIG-1111)
  MIG 3g.40gb     Device  1: (UUID: MIG-2222)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bbbb)
"""
LISTED = [VisibleGpu("MIG-1111", "MIG-1111"), VisibleGpu("MIG-2222", "MIG-2222"), VisibleGpu("GPU-bbbb", "1")]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OBJPROXY_FAKE_CUDA", raising=False)


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBJPROXY_FAKE_CUDA", "GPU-a1, GPU-a2, GPU-b3, GPU-b4")


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import of it fails


def physical_ids() -> list[str]:
    return [gpu.physical_id for gpu in visible_gpus()]


@pytest.mark.usefixtures("four_gpus")
def test_without_a_mask_every_gpu_is_visible_by_its_number() -> None:
    assert visible_gpus()[0] == VisibleGpu(uuid="GPU-a1", physical_id="0")
    assert physical_ids() == ["0", "1", "2", "3"]


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("mask", "visible"),
    [
        ("2,3", ["2", "3"]),
        ("3, 0", ["3", "0"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),
        ("0,9,1", ["0"]),
        ("0,nonsense,1", ["0"]),
        ("0,,1", ["0"]),
        ("NoDevFiles", []),
        ("1,1", []),
        ("0,GPU-a1", []),
        ("GPU-b4,GPU-a1", ["GPU-b4", "GPU-a1"]),
        ("GPU-b,0", []),
        ("GPU-z", []),
    ],
)
def test_a_mask_is_read_like_cuda_reads_it(monkeypatch: pytest.MonkeyPatch, mask: str, visible: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    assert physical_ids() == visible


def test_a_prefix_in_the_mask_passes_through_and_the_whole_uuid_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBJPROXY_FAKE_CUDA", "GPU-a1,GPU-b2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b")
    assert visible_gpus() == [VisibleGpu("GPU-b2", "GPU-b")]


@pytest.mark.parametrize(
    ("mask", "visible"),
    [
        (None, ["MIG-1", "MIG-2", "1"]),
        ("0", ["MIG-1", "MIG-2"]),
        ("GPU-a", ["MIG-1", "MIG-2"]),
        ("MIG-2,MIG-1", ["MIG-2", "MIG-1"]),
        ("MIG-9", []),
        ("0,MIG-1", []),
        ("1", ["1"]),
    ],
)
def test_a_split_gpu_stands_for_its_instances(monkeypatch: pytest.MonkeyPatch, mask: str | None, visible: list[str]) -> None:
    monkeypatch.setenv("OBJPROXY_FAKE_CUDA", "GPU-a,MIG-1,MIG-2,GPU-b")
    if mask is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    assert physical_ids() == visible


@pytest.mark.parametrize(("given", "count"), [("0", 0), ("2", 2)])
def test_a_fake_number_makes_that_many_gpus(monkeypatch: pytest.MonkeyPatch, given: str, count: int) -> None:
    monkeypatch.setenv("OBJPROXY_FAKE_CUDA", given)
    gpus = visible_gpus()
    assert len({gpu.uuid for gpu in gpus}) == len(gpus) == count


@pytest.mark.parametrize(("text", "place"), [("GPU-ab", 0), ("GPU-abc", 1), ("GPU-x", 2), ("GPU-a", None), ("GPU-y", None)])
def test_a_uuid_is_found_by_itself_or_by_a_prefix_of_its_own(text: str, place: int | None) -> None:
    assert only_match(text, ["GPU-ab", "GPU-abcd", "GPU-xyz"]) == place


# --- the driver's command


def answer_with(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], subprocess.CompletedProcess[str]]) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: answer())


@pytest.mark.usefixtures("no_library")
def test_the_command_lists_gpus_and_their_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, lambda: subprocess.CompletedProcess(["nvidia-smi"], 0, stdout=LISTING))
    assert visible_gpus() == LISTED


@pytest.mark.usefixtures("no_library")
def test_a_command_that_fails_lists_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, lambda: subprocess.CompletedProcess(["nvidia-smi"], 9, stdout=LISTING))
    assert visible_gpus() == []


@pytest.mark.usefixtures("no_library")
@pytest.mark.parametrize("error", [FileNotFoundError("nvidia-smi"), subprocess.TimeoutExpired("nvidia-smi", 5)])
def test_a_command_that_is_missing_or_hangs_lists_nothing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail() -> subprocess.CompletedProcess[str]:
        raise error

    answer_with(monkeypatch, fail)
    assert visible_gpus() == []


# --- the driver's library


class FakeNvml(ModuleType):
    """The few calls of the management library that are used; a handle is a GPU's number, or an instance's UUID."""

    NVML_DEVICE_MIG_ENABLE = 1

    class NVMLError(Exception):
        pass

    class NVMLError_NotFound(NVMLError):
        pass

    def __init__(self, *, is_driver_there: bool = True, is_gpu_lost: bool = False) -> None:
        super().__init__("pynvml")
        self.is_driver_there = is_driver_there
        self.is_gpu_lost = is_gpu_lost
        self.n_open = 0

    def nvmlInit(self) -> None:
        if not self.is_driver_there:
            raise self.NVMLError("driver not loaded")
        self.n_open += 1

    def nvmlShutdown(self) -> None:
        self.n_open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        if self.is_gpu_lost:
            raise self.NVMLError("GPU is lost")
        return number

    def nvmlDeviceGetUUID(self, handle: int | str) -> str:
        return handle if isinstance(handle, str) else ["GPU-aaaa", "GPU-bbbb"][handle]

    def nvmlDeviceGetMigMode(self, handle: int) -> list[int]:
        if handle == 1:
            raise self.NVMLError("not supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: int) -> int:
        return 3

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: int, place: int) -> str:
        instances: dict[int, str] = {0: "MIG-1111", 2: "MIG-2222"}
        if place not in instances:
            raise self.NVMLError_NotFound("no instance here")
        return instances[place]


def listing(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess(["nvidia-smi"], 0, stdout="GPU 0: NVIDIA T4 (UUID: GPU-listed)\n")


def test_the_library_lists_gpus_and_their_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert visible_gpus() == LISTED
    assert nvml.n_open == 0


@pytest.mark.parametrize("trouble", [{"is_driver_there": False}, {"is_gpu_lost": True}])
def test_a_library_in_trouble_leaves_the_word_to_the_command(monkeypatch: pytest.MonkeyPatch, trouble: dict[str, bool]) -> None:
    nvml = FakeNvml(**trouble)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(subprocess, "run", listing)
    assert visible_gpus() == [VisibleGpu("GPU-listed", "0")]
    assert nvml.n_open == 0

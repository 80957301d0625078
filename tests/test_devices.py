import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objproxy.devices import Device, available_cuda, constructor_value, resolve_devices
from objproxy.errors import DeviceError

CUDA = [
    Device("cuda", 0, "GPU-aaaa", "2"),
    Device("cuda", 1, "GPU-bbbb", "3"),
    Device("cuda", 2, "MIG-cccc", "MIG-cccc"),
]


class TorchLikeDevice:
    """What can be seen of a torch.device without importing PyTorch."""

    def __init__(self, kind: str, index: int | None = None) -> None:
        self.type = kind
        self.index = index

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OBJPROXY_FAKE_CUDA"):
        monkeypatch.delenv(name, raising=False)


def resolve(devices: object) -> list[Device | None]:
    return resolve_devices(devices, cpu_count=8, cuda=CUDA)


# --- the table


@pytest.mark.parametrize("devices", [None, "cpu", TorchLikeDevice("cpu"), TorchLikeDevice("cpu", 0), Device("cpu")])
def test_cpu_is_one_worker_without_a_device(devices: object) -> None:
    assert resolve(devices) == [None]


def test_all_is_one_worker_per_usable_cpu() -> None:
    assert resolve("all") == [None] * 8


@pytest.mark.parametrize(
    ("share", "count"), [(0.0, 1), (0.01, 1), (0.5, 4), (0.7, 6), (1.0, 8), (np.float32(0.25), 2), (np.float64(1), 8)]
)
def test_a_float_is_a_share_of_the_cpus(share: float, count: int) -> None:
    assert resolve(share) == [None] * count


@given(st.floats(0, 1), st.integers(1, 500))
def test_a_share_gives_at_least_one_worker_and_at_most_one_per_cpu(share: float, cpu_count: int) -> None:
    assert 1 <= len(resolve_devices(share, cpu_count=cpu_count)) <= cpu_count


@pytest.mark.parametrize(
    ("devices", "index"),
    [
        (0, 0),
        (2, 2),
        (np.int64(1), 1),
        (-1, 2),
        (-3, 0),
        ("cuda:1", 1),
        ("cuda", 0),
        ("gpu", 0),
        (TorchLikeDevice("cuda", 2), 2),
        (TorchLikeDevice("cuda"), 0),
    ],
)
def test_one_cuda_device_is_one_worker(devices: object, index: int) -> None:
    assert resolve(devices) == [CUDA[index]]


@pytest.mark.parametrize(("uuid", "index"), [("GPU-bbbb", 1), ("GPU-b", 1), ("MIG-cccc", 2)])
def test_a_uuid_names_its_device_and_becomes_the_mask(uuid: str, index: int) -> None:
    (device,) = resolve(uuid)
    assert device is not None
    assert device.index == index
    assert device.physical_id == device.uuid == CUDA[index].uuid


def test_an_empty_list_is_every_cuda_device() -> None:
    assert resolve([]) == CUDA


def test_a_list_mixes_all_forms_and_may_repeat() -> None:
    given = [0, 0, None, "cuda:1", -1, 0.25, "cpu"]
    assert resolve(given) == [CUDA[0], CUDA[0], None, CUDA[1], CUDA[2], None, None, None]


@pytest.mark.parametrize("devices", [(0, 1), range(2), [[0], 1]])
def test_other_sequences_are_lists_too(devices: object) -> None:
    assert resolve(devices) == CUDA[:2]


def test_an_empty_list_within_a_list_is_every_cuda_device() -> None:
    assert resolve([None, []]) == [None, *CUDA]


def test_a_device_is_found_again_by_its_uuid() -> None:
    elsewhere = Device("cuda", 7, "GPU-bbbb", "0")
    assert resolve(elsewhere) == [CUDA[1]]


def test_a_device_without_uuid_is_found_by_its_index() -> None:
    assert resolve(Device("cuda", 1)) == [CUDA[1]]


# --- what does not exist, and what has no meaning


@pytest.mark.parametrize("devices", [3, -4, "cuda:3", "GPU-zzzz", [0, 9], TorchLikeDevice("cuda", 3), Device("cuda", 9)])
def test_a_missing_device_is_an_error_that_lists_what_there_is(devices: object) -> None:
    with pytest.raises(DeviceError, match=r"Available: cuda:0 \(GPU-aaaa\), cuda:1 \(GPU-bbbb\), cuda:2") as caught:
        resolve(devices)
    assert caught.value.available == ("cuda:0", "cuda:1", "cuda:2")


def test_a_prefix_that_fits_several_devices_is_an_error() -> None:
    twins = [Device("cuda", 0, "GPU-a1", "0"), Device("cuda", 1, "GPU-a2", "1")]
    with pytest.raises(DeviceError, match="exactly one"):
        resolve_devices("GPU-a", cuda=twins)


def test_an_int_without_cuda_says_how_to_ask_for_workers() -> None:
    with pytest.raises(DeviceError, match=r"no CUDA device.*for 4 workers write worker_count=4") as caught:
        resolve_devices(4, cuda=[])
    assert caught.value.asked == 4
    assert caught.value.available == ()


@pytest.mark.parametrize("devices", [0, -1, "cuda", "gpu", "cuda:0", "GPU-a", [], TorchLikeDevice("cuda")])
def test_asking_for_cuda_where_there_is_none_is_an_error(devices: object) -> None:
    with pytest.raises(DeviceError, match=r"Available: no CUDA device\..*devices='cpu'"):
        resolve_devices(devices, cuda=[])


def test_a_missing_device_may_be_the_fault_of_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES='0' limits"):
        resolve_devices("cuda:3", cuda=CUDA[:1])


@pytest.mark.parametrize("share", [-0.1, 1.1, 4.0, math.nan, math.inf])
def test_a_float_that_is_no_share_is_an_error(share: float) -> None:
    with pytest.raises(DeviceError, match=r"from 0\.0 to 1\.0.*worker_count"):
        resolve(share)


@pytest.mark.parametrize(
    "devices", [True, False, np.True_, "", "CPU:x", "cuda:", "cuda:-1", "mps", b"cpu", {}, {0}, 1j, object(), [True]]
)
def test_a_value_without_meaning_is_an_error_that_tells_the_accepted_forms(devices: object) -> None:
    with pytest.raises(DeviceError, match=r"has no meaning\. Accepted: None, 'cpu', 'all'"):
        resolve(devices)


def test_a_torch_device_of_another_kind_is_an_error() -> None:
    with pytest.raises(DeviceError, match="TorchLikeDevice"):
        resolve(TorchLikeDevice("mps", 0))


def test_cpu_workers_are_resolved_without_looking_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[Device]:
        raise AssertionError("looked for GPUs")

    monkeypatch.setattr("objproxy.devices.available_cuda", fail)
    assert resolve_devices([None, "cpu", 0.5, "all"], cpu_count=2) == [None] * 5


# --- a device


def test_a_device_is_written_as_cuda_libraries_write_it() -> None:
    assert [str(device) for device in (Device("cpu"), CUDA[1])] == ["cpu", "cuda:1"]


def test_a_device_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(CUDA[1])) == CUDA[1]


def test_the_mask_leaves_one_device_counted_along_the_bus() -> None:
    assert CUDA[1].mask == {"CUDA_VISIBLE_DEVICES": "3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_the_mask_keeps_an_order_that_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    assert CUDA[1].mask["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_a_cpu_has_no_mask() -> None:
    assert Device("cpu").mask == {}


def test_a_constructor_gets_the_name_by_which_the_worker_finds_its_device() -> None:
    assert constructor_value(None) is None
    assert constructor_value(Device("cpu")) is None
    assert constructor_value(CUDA[1]) == "cuda:0"
    assert constructor_value(CUDA[1], is_masked=False) == "cuda:1"


# --- the devices of this process


def test_the_mask_of_the_parent_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBJPROXY_FAKE_CUDA", "4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    resolved = resolve_devices([0, 1])
    assert [str(device) for device in resolved] == ["cuda:0", "cuda:1"]
    assert [device.mask["CUDA_VISIBLE_DEVICES"] for device in resolved if device] == ["2", "3"]


def test_a_worker_sees_its_own_device_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBJPROXY_FAKE_CUDA", "4")
    outside = available_cuda()[3]
    for name, value in outside.mask.items():
        monkeypatch.setenv(name, value)

    (inside,) = available_cuda()
    assert str(inside) == constructor_value(outside) == "cuda:0"
    assert inside.uuid == outside.uuid
    assert resolve_devices(outside) == [inside]


def test_looking_for_devices_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys\n"
        "from objproxy.devices import available_cuda, resolve_devices\n"
        "available_cuda(), resolve_devices('all')\n"
        "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OBJPROXY_FAKE_CUDA": "1"},
    )
    assert done.stdout.strip() == "[]"

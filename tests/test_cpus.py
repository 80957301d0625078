import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objproxy import _cpus
from objproxy._cpus import cgroup_quota, usable_cpu_count, usable_cpus


class FakeRoots:
    """Fake trees of control groups and of /proc."""

    def __init__(self, directory: Path) -> None:
        self.cgroup = directory / "cgroup"
        self.proc = directory / "proc"
        self.write(self.proc / "self" / "cgroup", "")

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def join_groups(self, *lines: str) -> None:
        self.write(self.proc / "self" / "cgroup", "".join(f"{line}\n" for line in lines))

    def limit_v2(self, group: str, text: str) -> None:
        self.write(self.cgroup / group / "cpu.max", f"{text}\n")

    def limit_v1(self, group: str, quota: int, period: int = 100_000) -> None:
        self.write(self.cgroup / group / "cpu.cfs_quota_us", f"{quota}\n")
        self.write(self.cgroup / group / "cpu.cfs_period_us", f"{period}\n")

    def quota(self) -> float | None:
        return cgroup_quota(cgroup_root=str(self.cgroup), proc_root=str(self.proc))

    def count(self) -> int:
        return usable_cpu_count(cgroup_root=str(self.cgroup), proc_root=str(self.proc))


@pytest.fixture
def roots(tmp_path: Path) -> FakeRoots:
    return FakeRoots(tmp_path)


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(_cpus, "usable_cpus", lambda: tuple(range(8)))


def test_no_control_groups_give_no_quota(tmp_path: Path) -> None:
    assert cgroup_quota(cgroup_root=str(tmp_path / "none"), proc_root=str(tmp_path / "none")) is None


def test_version_2_quota_of_the_own_group_is_read(roots: FakeRoots) -> None:
    roots.join_groups("0::/user/app")
    roots.limit_v2("user/app", "150000 100000")
    assert roots.quota() == 1.5


def test_version_2_quota_of_a_surrounding_group_binds(roots: FakeRoots) -> None:
    roots.join_groups("0::/user/app/job")
    roots.limit_v2("user/app/job", "800000 100000")
    roots.limit_v2("user", "200000 100000")
    assert roots.quota() == 2


def test_version_2_quota_of_a_neighbouring_group_does_not_bind(roots: FakeRoots) -> None:
    roots.join_groups("0::/user/app")
    roots.limit_v2("user/other", "100000 100000")
    assert roots.quota() is None


def test_version_2_max_is_no_limit(roots: FakeRoots) -> None:
    roots.join_groups("0::/user")
    roots.limit_v2("user", "max 100000")
    assert roots.quota() is None


@pytest.mark.parametrize("path", ["/docker/0123abcd", "/../../system.slice", "/"])
def test_limit_at_the_root_binds_where_the_path_is_that_of_the_host(roots: FakeRoots, path: str) -> None:
    roots.join_groups(f"0::{path}")
    roots.limit_v2(".", "300000 100000")
    assert roots.quota() == 3


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_version_1_quota_is_read_under_either_name_of_the_mount(roots: FakeRoots, mount: str) -> None:
    roots.join_groups("5:memory:/app", "4:cpu,cpuacct:/app", "0::/")
    roots.limit_v1(f"{mount}/app", 250_000)
    assert roots.quota() == 2.5


def test_version_1_quota_at_the_root_of_a_container_is_read(roots: FakeRoots) -> None:
    roots.join_groups("4:cpu:/docker/0123abcd")
    roots.limit_v1("cpu", 50_000, period=50_000)
    assert roots.quota() == 1


def test_version_1_minus_one_is_no_limit(roots: FakeRoots) -> None:
    roots.join_groups("4:cpu:/app")
    roots.limit_v1("cpu/app", -1)
    assert roots.quota() is None


def test_version_1_cpuset_is_not_taken_for_the_cpu_controller(roots: FakeRoots) -> None:
    roots.join_groups("3:cpuset:/app")
    roots.limit_v1("cpu/app", 100_000)
    assert roots.quota() is None


@pytest.mark.parametrize("text", ["", "nonsense", "100000", "100000 0", "0 100000"])
def test_text_that_is_no_limit_is_passed_over(roots: FakeRoots, text: str) -> None:
    roots.join_groups("0::/app")
    roots.limit_v2("app", text)
    assert roots.quota() is None


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(("quota", "count"), [("1000 100000", 1), ("150000 100000", 2), ("900000 100000", 8)])
def test_quota_is_rounded_up_and_never_exceeds_the_machine(roots: FakeRoots, quota: str, count: int) -> None:
    roots.join_groups("0::/app")
    roots.limit_v2("app", quota)
    assert roots.count() == count


@pytest.mark.usefixtures("eight_cpus")
def test_affinity_limits_the_count(roots: FakeRoots, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cpus, "usable_cpus", lambda: (2, 5))
    assert roots.count() == 2


@pytest.mark.usefixtures("eight_cpus")
def test_cpu_count_limits_the_count(roots: FakeRoots, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert roots.count() == 3


def test_unknown_number_of_cpus_counts_as_one(roots: FakeRoots, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert roots.count() == 1


def test_platform_without_affinity_offers_every_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert usable_cpus() == (0, 1, 2)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the platform has no affinity")
def test_process_bound_to_one_cpu_counts_one() -> None:
    cpu = max(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, [{cpu}])\n"
        "from objproxy._cpus import usable_cpu_count, usable_cpus\n"
        "print(usable_cpus(), usable_cpu_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == f"({cpu},) 1"


def test_real_count_is_within_what_the_process_may_use() -> None:
    assert 1 <= usable_cpu_count() <= len(usable_cpus())


@given(st.integers(1, 10**9), st.integers(1, 10**6))
def test_quota_of_version_2_is_the_ratio_of_its_numbers(quota: int, period: int) -> None:
    assert _cpus._ratio(str(quota), f"{period}\n") == quota / period

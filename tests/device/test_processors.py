"""How many cores a process may use, from trees of files like those of the kernel, and in a process of its own."""

import os
import subprocess
import sys

import pytest

from edge_s2a.device.policy.contention import threads_with_processors
from edge_s2a.system.processors import allowed_processors, physical_cores, quotas, usable_cores_of_linux
from tests.helpers.paths import PROJECT
from tests.helpers.systems import linux_alone

V2 = {
    "proc/self/cgroup": "0::/a/b\n",
    "proc/self/mountinfo": "30 20 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
}
V1 = {
    "proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n3:memory:/other\n",
    "proc/self/mountinfo": "31 20 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n",
}


@pytest.fixture
def tree(tmp_path):
    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


def siblings(*groups):
    return {
        f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list": ",".join(map(str, group)) + "\n"
        for group in groups
        for number in group
    }


def test_two_threads_of_a_core_count_once(tree):
    root = tree(siblings((0, 4), (1, 5), (2, 6), (3, 7)))
    assert physical_cores(root, set(range(8))) == 4
    assert physical_cores(root, {0, 4}) == 1
    assert physical_cores(root, {0, 1, 5}) == 2


def test_what_the_kernel_does_not_tell_counts_each(tree):
    assert physical_cores(tree({}), {0, 1, 2}) == 3


def test_the_quotas_of_all_cgroups_above_count(tree):
    root = tree({**V2, "sys/fs/cgroup/a/cpu.max": "150000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"})
    assert list(quotas(root)) == [1.5]


def test_a_quota_of_version_1(tree):
    place = "sys/fs/cgroup/cpu/docker/x"
    root = tree({**V1, f"{place}/cpu.cfs_quota_us": "300000\n", f"{place}/cpu.cfs_period_us": "100000\n"})
    assert list(quotas(root)) == [3.0]


def test_no_quota(tree):
    place = "sys/fs/cgroup/cpu/docker/x"
    root = tree({**V1, f"{place}/cpu.cfs_quota_us": "-1\n", f"{place}/cpu.cfs_period_us": "100000\n"})
    assert list(quotas(root)) == []


def test_a_quota_of_less_than_one_processor_leaves_one_thread(tree):
    root = tree({**V2, "sys/fs/cgroup/a/b/cpu.max": "50000 100000\n"})
    assert usable_cores_of_linux(root) == 1


def test_a_system_without_proc(tree):
    assert usable_cores_of_linux(tree({})) == len(allowed_processors())


@linux_alone
def test_what_taskset_allows_is_counted():
    """In a process that may run on one processor, the engine has one thread."""
    code = (
        f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}}); "
        "from edge_s2a.device.load import start_engine; print(start_engine('cpu', None).threads)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("threads", "seconds", "waited", "expected"),
    [(2, 1.4, 1.48, 1), (2, 0.5, 0.06, 2), (4, 2.0, 4.1, 2), (4, 1.0, 9.0, 1), (1, 1.0, 0.9, 1), (8, 1.0, 0.4, 8)],
)
def test_threads_without_processors_are_counted_by_what_they_wait(threads, seconds, waited, expected):
    assert threads_with_processors(threads, seconds, waited) == expected


@pytest.mark.slow
def test_threads_that_wait_for_each_other_are_told(deit_artifact, photo_folder, tmp_path):
    """Four on one processor, as where a container hides how many it may use; asked for what it may, none is told."""
    train = [sys.executable, "-m", "edge_s2a", "train", str(deit_artifact), "--data", str(photo_folder),
             "--epochs", "1", "--batch-size", "4", "--memory-budget", "400MiB"]  # fmt: skip
    only = min(os.sched_getaffinity(0))
    said = {}
    for threads in ("4", "1"):
        done = subprocess.run(
            [*train, "--output", str(tmp_path / threads), "--threads", threads],
            capture_output=True, text=True, cwd=PROJECT, check=True, preexec_fn=lambda: os.sched_setaffinity(0, [only]),
        )  # fmt: skip
        said[threads] = "--threads 1 is likely to be faster" in done.stderr
    assert said == {"4": True, "1": False}

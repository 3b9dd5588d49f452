"""What the machine and its cgroups leave, from trees of files like those of the kernel."""

from pathlib import Path

import pytest

from edge_s2a.device.memory.available import RESERVE_BYTES, less_reserve, parse_budget
from edge_s2a.device.memory.budget import LEAST_FREE_BYTES, MemoryPlan, smaller_budget
from edge_s2a.errors import UserError
from edge_s2a.system.memory_linux import attainable_bytes

MIB = 1 << 20
ANONYMOUS, MAPPED = 50 * MIB, 30 * MIB
MACHINE = {
    "proc/meminfo": f"MemTotal: 1000000 kB\nMemAvailable: {400 * 1024} kB\n",
    "proc/self/status": f"RssAnon: {ANONYMOUS // 1024} kB\nRssFile: {MAPPED // 1024} kB\nRssShmem: 0 kB\n",
    "proc/self/cgroup": "0::/\n",
    "proc/self/mountinfo": "30 20 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
}


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in {**MACHINE, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def version_2(folder: str, limit: str, used: int, cache: int, shared: int = 0) -> dict[str, str]:
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 1\nfile {cache}\nshmem {shared}\n",
    }


def test_without_a_cgroup_it_is_what_the_process_has_and_what_the_machine_can_free(tmp_path):
    assert attainable_bytes(tree(tmp_path, {})) == ANONYMOUS + MAPPED + 400 * MIB


def test_a_cgroup_of_version_2_leaves_its_limit_less_what_cannot_be_dropped(tmp_path):
    place = {"proc/self/cgroup": "0::/service/run\n"}
    files = version_2("sys/fs/cgroup/service/run", str(200 * MIB), 120 * MIB, 40 * MIB, shared=5 * MIB)
    # Of 120 MiB in use 35 are clean files: 200 - 85 are free.
    assert attainable_bytes(tree(tmp_path, place | files)) == ANONYMOUS + MAPPED + 115 * MIB


def test_the_tightest_of_the_cgroups_above_counts(tmp_path):
    files = {
        "proc/self/cgroup": "0::/a/b\n",
        **version_2("sys/fs/cgroup/a", str(150 * MIB), 100 * MIB, 0),
        **version_2("sys/fs/cgroup/a/b", "max", 90 * MIB, 0),
    }
    assert attainable_bytes(tree(tmp_path, files)) == ANONYMOUS + MAPPED + 50 * MIB


@pytest.mark.parametrize("mounted_root", ["/", "/docker/x"])
def test_a_cgroup_of_version_1_also_in_a_container_that_sees_only_its_own(tmp_path, mounted_root):
    place = "sys/fs/cgroup/memory" + ("/docker/x" if mounted_root == "/" else "")
    files = {
        "proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n",
        "proc/self/mountinfo": "1 2 0:3 / /proc rw - proc proc rw\n"
        f"31 20 0:26 {mounted_root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        f"{place}/memory.limit_in_bytes": f"{100 * MIB}\n",
        f"{place}/memory.usage_in_bytes": f"{90 * MIB}\n",
        f"{place}/memory.stat": f"cache 7\ntotal_cache {30 * MIB}\ntotal_shmem {10 * MIB}\n",
    }
    assert attainable_bytes(tree(tmp_path, files)) == ANONYMOUS + MAPPED + 30 * MIB


def test_the_automatic_budget_leaves_a_tenth_and_at_least_32_mib():
    assert less_reserve(1000 * MIB) == 900 * MIB
    assert less_reserve(100 * MIB) == 100 * MIB - RESERVE_BYTES == 68 * MIB
    assert 0 < parse_budget("auto") < attainable_bytes()
    assert parse_budget("192MiB") == 192 * MIB
    with pytest.raises(UserError, match="not a size"):
        parse_budget("automatic")


def plan(budget: int, predicted: int, minimum: int) -> MemoryPlan:
    return MemoryPlan(budget, 16, 16, predicted, minimum, False, {}, predicted // 2)


def test_a_plan_holds_while_enough_is_left():
    held = plan(200 * MIB, 190 * MIB, 100 * MIB)
    assert smaller_budget(held, 190 * MIB + LEAST_FREE_BYTES, 150 * MIB) is None
    assert smaller_budget(held, 190 * MIB + LEAST_FREE_BYTES - 1, 150 * MIB) == 206 * MIB - 1 - RESERVE_BYTES


def test_no_budget_is_below_the_smallest_and_none_is_given_where_nothing_helps():
    assert smaller_budget(plan(200 * MIB, 190 * MIB, 185 * MIB), 120 * MIB, 150 * MIB) == 185 * MIB
    assert smaller_budget(plan(200 * MIB, 99 * MIB, 100 * MIB), 50 * MIB, 95 * MIB) is None


def test_what_is_beyond_the_budget_is_taken_off():
    assert smaller_budget(plan(200 * MIB, 190 * MIB, 100 * MIB), 10**12, 206 * MIB) == 184 * MIB

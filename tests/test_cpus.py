"""CPUs, memory and threads: what affinity and control groups grant, never what the host has."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.core import cpus
from edgekd.core.cpus import SPIN_COUNT, set_thread_defaults, usable_cpus, usable_memory

ROOT = Path(__file__).parents[1]
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
CPU_V1 = "31 23 0:27 {top} /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
MEMORY_V1 = "32 23 0:28 {top} /sys/fs/cgroup/memory rw,nosuid shared:10 - cgroup cgroup rw,memory\n"
UNLIMITED_V1 = str((1 << 63) - 4096)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes a root folder of a process that may run on 8 CPUs; its files by their paths."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)

    def make(cgroup, mounts, files):
        for name, text in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts, **files}.items():
            file = tmp_path / name.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("1000 100000", 1),
        ("1600000 100000", 8),
        ("300000", 3),
        ("max", 8),
        ("30000 10000", 3),
        ("", 8),
        ("what", 8),
        ("100000 0", 8),
    ],
)
def test_a_quota_of_version_2(machine, text, count):
    root = machine("0::/job\n", V2, {"/sys/fs/cgroup/job/cpu.max": text + "\n"})
    assert usable_cpus(root) == count


@pytest.mark.parametrize(("quota", "count"), [("-1", 8), ("200000", 2), ("250000", 3), ("1000", 1), ("x", 8)])
def test_a_quota_of_version_1(machine, quota, count):
    folder = "/sys/fs/cgroup/cpu,cpuacct/docker/a"
    files = {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000\n"}
    cgroup = "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n0::/\n"
    assert usable_cpus(machine(cgroup, CPU_V1.format(top="/"), files)) == count


def test_the_lowest_quota_of_nested_groups_counts(machine):
    files = {
        "/sys/fs/cgroup/slice/cpu.max": "300000 100000",
        "/sys/fs/cgroup/slice/pod/cpu.max": "max 100000",
        "/sys/fs/cgroup/slice/pod/one/cpu.max": "500000 100000",
        "/sys/fs/cgroup/slice/memory.max": "1048576000",
        "/sys/fs/cgroup/slice/pod/one/memory.max": "max",
        "/sys/fs/cgroup/slice/other/cpu.max": "100000 100000",
    }
    root = machine("0::/slice/pod/one\n", V2, files)
    assert usable_cpus(root) == 3
    assert usable_memory(root) == 1_048_576_000


def test_a_container_that_sees_its_own_group_as_the_top(machine):
    """With a namespace of its own the path is `/`; without one, the host's path, of which a part is mounted."""
    root = machine("0::/\n", V2, {"/sys/fs/cgroup/cpu.max": "200000 100000"})
    assert usable_cpus(root) == 2
    files = {
        "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000",
        "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
    }
    assert usable_cpus(machine("4:cpuacct,cpu:/docker/a\n", CPU_V1.format(top="/docker/a"), files)) == 3
    root = machine("0::/../../outside\n", V2, {"/sys/fs/cgroup/cpu.max": "100000 100000"})
    assert usable_cpus(root) == 1


def test_both_versions_at_once(machine):
    mounts = V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified") + CPU_V1.format(top="/") + MEMORY_V1.format(top="/")
    files = {
        "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "200000",
        "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
        "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": UNLIMITED_V1,
        "/sys/fs/cgroup/memory/a/memory.limit_in_bytes": "536870912\n",
    }
    root = machine("4:cpu,cpuacct:/a\n5:memory:/a/b\n0::/\n", mounts, files)
    assert (usable_cpus(root), usable_memory(root)) == (2, 512 << 20)


@pytest.mark.parametrize("limit", ["max", UNLIMITED_V1, "", "-1", "what"])
def test_no_limit_of_memory_leaves_the_machines(machine, limit):
    root = machine("0::/\n", V2, {"/sys/fs/cgroup/memory.max": limit})
    assert usable_memory(root) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_machine_without_groups_or_affinity(tmp_path, monkeypatch):
    assert usable_cpus(tmp_path) == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert usable_cpus(tmp_path) == 3


def test_a_mount_whose_path_has_a_space(machine):
    root = machine(
        "0::/a\n", V2.replace("/sys/fs/cgroup", "/sys/my\\040groups"), {"/sys/my groups/a/cpu.max": "100000 100000"}
    )
    assert usable_cpus(root) == 1


def fresh(code, **changes):
    """What a fresh interpreter prints, bound to one CPU, without the variables that this one may have."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM")
    environment = {name: value for name, value in os.environ.items() if name not in names} | changes
    bound = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    done = subprocess.run([sys.executable, "-c", bound + code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


SHOWN = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "GOMP_SPINCOUNT")
SHOW = f"import os; print(*(os.environ.get(name, '-') for name in {SHOWN}))"
COMMAND = """
import sys
from edgekd.cli import main
sys.argv = ['edgekd', '--version']
try:
    main()
except SystemExit:
    pass
"""


def test_the_command_and_the_python_interface_tell_libraries_before_they_load():
    ours = ["1", "1", str(SPIN_COUNT)]
    assert fresh(COMMAND + SHOW)[-3:] == ours
    assert fresh("import edgekd; edgekd.make_plan\n" + SHOW) == ours
    assert fresh("from edgekd import build\n" + SHOW) == ours
    assert fresh("import edgekd\n" + SHOW) == ["-", "-", "-"], "importing alone changes nothing"


def test_what_the_user_set_is_left_alone():
    told = "from edgekd.core.cpus import set_thread_defaults as s; s()\n" + SHOW
    assert fresh(told, OMP_WAIT_POLICY="ACTIVE", OMP_NUM_THREADS="7") == ["7", "1", "-"]
    assert fresh(told, GOMP_SPINCOUNT="5", RAYON_NUM_THREADS="3") == ["1", "3", "5"]


def test_torch_starts_as_many_threads_as_it_may():
    code = "import edgekd; edgekd.build\nimport torch; print(torch.get_num_threads())"
    assert fresh(code) == ["1"]


def test_children_are_told_as_well(monkeypatch):
    from edgekd.security import child

    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    told = child.call("strange_children:threads", {}, timeout_s=60)
    assert told == {"GOMP_SPINCOUNT": str(SPIN_COUNT), "OMP_NUM_THREADS": str(usable_cpus())}


def test_defaults_follow_a_quota(monkeypatch):
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setattr(cpus, "usable_cpus", lambda: 3)
    set_thread_defaults()
    assert os.environ["OMP_NUM_THREADS"] == os.environ["RAYON_NUM_THREADS"] == "3"


def test_nothing_else_asks_for_the_hosts_count():
    """The two that do say what the host is: a machine's own description, and the face of an emulated one."""
    asks = re.compile(r"cpu_count\(|SC_PHYS_PAGES|SC_NPROCESSORS")
    files = (ROOT / "edgekd").rglob("*.py")
    found = {file.relative_to(ROOT).as_posix() for file in files if asks.search(file.read_text("utf-8"))}
    assert found == {"edgekd/core/cpus.py", "edgekd/onboard/machine.py", "edgekd/devices/_sysroot.py"}


def test_a_real_group_with_a_quota():
    """Where a control group can be made here: a process in it sees its quota."""
    for top, version in ((Path("/sys/fs/cgroup"), 2), (Path("/sys/fs/cgroup/cpu"), 1)):
        group = top / f"edgekd-test-{os.getpid()}"
        limit = group / ("cpu.max" if version == 2 else "cpu.cfs_quota_us")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if not limit.exists():
                continue
            limit.write_text("100000 100000" if version == 2 else "100000")
            join = f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))"
            code = f"import os; {join}\nfrom edgekd.core.cpus import usable_cpus; print(usable_cpus())"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            if "Permission" in done.stderr or "Errno" in done.stderr:
                continue
            assert done.stdout.split() == ["1"], done.stderr
            return
        except OSError:
            continue
        finally:
            group.rmdir()
    pytest.skip("no control group with a CPU quota can be made here")

"""Who starts the processes of a run, which devices they take, and whose fault an error is.

tests/train/test_resume.py starts whole runs.
"""

import os
import subprocess
import sys

import jax
import pytest

from tarvis_jax.parallel.distributed import Launch, check_devices, devices_of, find_launch, is_lost
from tests.parallel.processes import ROOT, free_port

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
TOLD = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
POD = {"KUBERNETES_SERVICE_HOST": "x", "JOB_COMPLETION_INDEX": "1"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Launch()),
        (TOLD, Launch("flags and environment", "a:1", 2, 1)),
        (SLURM, Launch("Slurm", None, 4, 3, 2, 1)),
        (SLURM | {"SLURM_NTASKS": "1"}, Launch()),
        (SLURM | {"JAX_NUM_PROCESSES": "1"}, Launch()),
        ({"SLURM_NTASKS": "2"} | TOLD, Launch("flags and environment", "a:1", 2, 1)),  # without srun, but all is told
        (OPEN_MPI, Launch("Open MPI", None, 4, 3, 2, 1)),
        (POD | TOLD | {"JAX_PROCESS_ID": "0"}, Launch("Kubernetes", "a:1", 2, 0)),
        (POD | {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2"}, Launch("Kubernetes", "a:1", 2, 1)),
    ],
)
def test_launchers(environ, expected):
    assert find_launch(environ) == expected


def test_flags_come_first():
    assert find_launch(TOLD, "b:2", 3, 2) == Launch("flags and environment", "b:2", 3, 2)
    assert find_launch(SLURM, num_processes=1) == Launch()
    assert find_launch(SLURM, "b:2") == Launch("Slurm", "b:2", 4, 3, 2, 1)


def test_pods_of_tpus():
    assert find_launch({}, has_tpu=True) == Launch("TPU pod")  # Google's metadata server says the rest
    assert find_launch({"TPU_WORKER_HOSTNAMES": "a,b"}, has_tpu=True) == Launch("TPU pod")
    assert find_launch({"TPU_WORKER_HOSTNAMES": "a"}, has_tpu=True) == Launch()
    assert find_launch({"TPU_SKIP_MDS_QUERY": "1"}, has_tpu=True) == Launch()  # there is no such server
    assert find_launch({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, has_tpu=True).by == "TPU pod"
    assert find_launch(POD | {"TPU_WORKER_HOSTNAMES": "a,b"}, has_tpu=True) == Launch("TPU pod")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"JAX_PROCESS_ID": "0"}, "JAX_PROCESS_ID: .* needs --coordinator_address .*and --num_processes"),
        (TOLD | {"JAX_PROCESS_ID": "2"}, "number of this process: expected 0 to 1, found 2"),
        (TOLD | {"JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID: expected a whole number, found 'one'"),
        (TOLD | {"JAX_NUM_PROCESSES": "0"}, "expected at least 1, found 0"),
        (TOLD | {"JAX_COORDINATOR_ADDRESS": "host"}, "expected host:port, found 'host'"),
        ({"SLURM_NTASKS": "2"}, "Slurm has 2 tasks .* srun .*--num_processes=1"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI, from version 5 on.*--coordinator_address"),
        (POD, "Kubernetes .* expected JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES"),
        ({"TORCHELASTIC_RUN_ID": "1"}, "torchrun starts a process for each device; expected one process on each host"),
    ],
)
def test_what_would_train_alone_in_silence_is_refused(environ, message):
    with pytest.raises(ValueError, match=message):
        find_launch(environ)


@pytest.mark.parametrize(
    ("local", "visible", "environ", "expected"),
    [
        ((1, 0), 8, {}, list(range(8))),  # JAX alone takes one of eight
        ((2, 1), 8, {}, [4, 5, 6, 7]),
        ((8, 3), 8, {"SLURM_GPUS_ON_NODE": "8"}, [3]),
        ((8, 3), 1, {"SLURM_GPUS_ON_NODE": "8"}, [0]),  # --gpus-per-task=1
        ((2, 1), 2, {"SLURM_GPUS_ON_NODE": "4"}, [0, 1]),  # --gpus-per-task=2
        ((None, None), 8, {}, None),  # not of a launcher: all that it sees
        ((4, 1), 0, {}, None),  # no GPUs
    ],
)
def test_processes_of_a_host_share_its_gpus(local, visible, environ, expected):
    assert devices_of(Launch("Slurm", None, 8, 3, *local), environ, visible) == expected


def test_idle_devices_are_refused():
    with pytest.raises(ValueError, match="3 processes on this host cannot share its 8 GPUs evenly"):
        devices_of(Launch("Slurm", None, 3, 0, 3, 0), {}, 8)
    with pytest.raises(ValueError, match="this host has 8 GPUs, but JAX uses the CPU"):
        check_devices({0: 1, 1: 1}, 2, 8, "cpu")
    with pytest.raises(ValueError, match="same number of devices, found process 0: 4, process 1: 2"):
        check_devices({0: 4, 1: 2}, 2, 4, "gpu")
    with pytest.raises(ValueError, match="process 1: 0"):
        check_devices({0: 4}, 2, 4, "gpu")
    check_devices({0: 4, 1: 4}, 2, 4, "gpu")


# What JAX 0.10.2 said in processes on CPUs, one of which was killed or met a bug; what it says of NCCL is from XLA's
# source and from reports of its users.
OF_ANOTHER = [
    "UNKNOWN: Gloo all-reduce failed: [external/gloo/gloo/pair.cc:547] Connection closed by peer [::1]:80",
    "UNKNOWN: Gloo AllGather failed: [external/gloo/pair.cc:538] Read error [::1]:80: Connection reset by peer",
    "UNKNOWN: Gloo context initialization failed: DEADLINE_EXCEEDED: GetKeyValue() timed out with key: cpu:gloo/0/1",
    "INTERNAL: Barrier failed because: task is set to ERROR: UNAVAILABLE: Task 1 heartbeat timeout.",
    "INTERNAL: NCCL operation ncclCommInitRank(&comm, nranks, id, rank) failed: remote process exited or there was a "
    "network error. Last NCCL warning(error) log entry (may be unrelated) ''.",
    "FAILED_PRECONDITION: NcclCommunicator aborted",
    "FAILED_PRECONDITION: Task with incarnation id 7 is not connected",
]
OF_THIS_ONE = [
    "INVALID_ARGUMENT: No such compile option: 'no_such_option'",
    "INTERNAL: CpuCallback error calling callback: Traceback (most recent call last): ValueError: wrong shape",
    "NOT_FOUND: No FFI handler registered for no_such_target on a platform Host (canonical host)",
    "RESOURCE_EXHAUSTED: Out of memory allocating 70368744177664 bytes.",
    "INTERNAL: NCCL operation ncclAllReduce(...) failed: unhandled cuda error (run with NCCL_DEBUG=INFO for details). "
    "Last NCCL warning(error) log entry (may be unrelated) 'Cuda failure 700'.",
    "INTERNAL: ptxas exited with non-zero error code 65280",
]


@pytest.mark.parametrize("kind", [jax.errors.JaxRuntimeError, ValueError])
def test_what_jax_says_of_lost_processes(monkeypatch, kind):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert [text for text in OF_ANOTHER + OF_THIS_ONE if is_lost(kind(text))] == OF_ANOTHER
    assert not is_lost(ConnectionResetError(104, "Connection reset by peer"))
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: False)
    assert not is_lost(kind(OF_ANOTHER[0]))


def test_a_bug_keeps_its_status_and_the_other_process_ends_with_4(tmp_path):
    """The other one waits for values of both, which JAX reports as a ValueError."""
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.parallel.lost", f"localhost:{free_port()}"]
    logs = [tmp_path / f"log-{i}.txt" for i in range(2)]
    processes = [
        subprocess.Popen([*command, str(i)], cwd=ROOT, env=environment, stderr=log.open("w"))
        for i, log in enumerate(logs)
    ]
    try:
        statuses = [process.wait(60) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    lost, bug = (log.read_text() for log in logs)
    assert statuses == [4, 1], lost + bug
    assert "error: process 0 cannot go on without the others" in lost
    assert "Traceback" in bug and "No such compile option: 'no_such_option'" in bug and "without the others" not in bug

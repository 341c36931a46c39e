"""Several processes as one run: which launcher started them, what each of them uses, and how they end together.

`start` comes first in a command, before anything touches a device. From then on the devices of all processes are one
mesh, and JAX's coordination service, which process 0 runs, watches over the processes. docs/multihost.md shows the
launch files. The only file that uses the service directly.
"""

import json
import os
import pathlib
import re
import signal
import threading
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

HEARTBEAT_SECONDS = 60  # after so many without a sign of life, a process counts as dead and the others stop
SHUTDOWN_SECONDS = 30  # how long a process that ends, well or not, waits for the others to end, too
_FOREVER_MS = 30 * 24 * 3600 * 1000

# What JAX says when another process has ended, as found by ending one: Gloo is what CPUs speak, NCCL what GPUs speak
# (whose messages are from the source of XLA), and the rest is the coordination service.
_LOST = re.compile(
    r"Gloo context initialization failed"
    r"|Gloo .*(closed by peer|reset by peer|Broken pipe)"
    r"|NCCL .*(remote process exited|closed by remote peer|reset by peer|Broken pipe)"
    r"|(Nccl|Gpu)Communicator.* aborted|Task with incarnation id .* is not connected|Incarnation id .* is stale"
    r"|GetKeyValue\(\) timed out|heartbeat timeout",
    re.DOTALL,
)

_ADDRESS, _COUNT, _ID = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_ALONE = "--num_processes=1 trains in this process alone"


class Launch(NamedTuple):
    """What is known of a run's processes before they meet.

    Attributes:
      by: who started them, for messages; "" for a process that is alone.
      address: "host:port" of process 0; None: JAX finds it.
      count: how many there are; None: JAX finds it.
      index: number of this one, 0..count-1; None: JAX finds it.
      local_count, local_index: the same among the processes of this host; None where the launcher does not say.
    """

    by: str = ""
    address: str | None = None
    count: int | None = None
    index: int | None = None
    local_count: int | None = None
    local_index: int | None = None


class ProcessLostError(RuntimeError):
    """A step failed because another process of the run has ended."""

    exit_status = 4  # of a command that stops for it


def start(
    coordinator_address: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes of the run, if there are any, and says what was found.

    Arguments come before the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, and these before
    what a launcher says: Slurm, Open MPI, Kubernetes, a TPU pod. Under a launcher nothing needs to be given.

    Args:
      coordinator_address: "host:port" of process 0, which opens the port.
      num_processes: how many there are; 1 trains alone, whatever a launcher says.
      process_id: number of this one.
    Raises:
      ValueError: some of the three are missing or wrong; devices would be left idle; processes have different numbers
        of devices.
    """
    launch = find_launch(os.environ, coordinator_address, num_processes, process_id, has_tpu=_has_tpu())
    if not launch.by:
        return
    devices = None if os.environ.get("JAX_LOCAL_DEVICE_IDS") else devices_of(launch, os.environ, _visible_gpus())
    try:
        jax.distributed.initialize(
            launch.address,
            launch.count,
            launch.index,
            local_device_ids=devices,
            cluster_detection_method="deactivate" if None not in launch[1:4] else None,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (jax.errors.JaxRuntimeError, ValueError, OSError) as error:  # the last where Google's server is not there
        raise ValueError(f"{launch.by}: the processes did not find each other ({error}); {_ALONE}") from error
    if threading.current_thread() is threading.main_thread():
        # JAX's handler only takes a note; until there is something to save (train/interruption.py), SIGTERM ends us.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.info(
        "process %d of %d (%s): %d local and %d global devices (%s)",
        jax.process_index(),
        jax.process_count(),
        launch.by,
        jax.local_device_count(),
        jax.device_count(),
        jax.devices()[0].device_kind,
    )
    check_devices(
        {index: count for index, count in Counter(device.process_index for device in jax.devices()).items()},
        jax.process_count(),
        _visible_gpus(),
        jax.default_backend(),
    )


def find_launch(
    environ: Mapping[str, str],
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    has_tpu: bool = False,
) -> Launch:
    """Who started this process, and what is known of the others. Arguments and errors are those of `start`.

    `has_tpu`: this host has TPU chips.
    """
    flags = {_ADDRESS: coordinator_address, _COUNT: num_processes, _ID: process_id}
    environ = {**environ, **{name: str(value) for name, value in flags.items() if value is not None}}
    address, count, index = environ.get(_ADDRESS), _number(environ, _COUNT), _number(environ, _ID)
    if count == 0:
        raise ValueError(f"--num_processes or {_COUNT}: expected at least 1, found 0")
    if count == 1:
        return Launch()
    found = _slurm(environ) or _open_mpi(environ) or _kubernetes(environ, has_tpu) or _tpu(environ, has_tpu)
    given = [name for name in flags if name in environ]
    if found is None and not given:
        if "TORCHELASTIC_RUN_ID" in environ:
            raise ValueError(
                "torchrun starts a process for each device; expected one process on each host, with "
                f"--coordinator_address, --num_processes and --process_id (docs/multihost.md); {_ALONE}"
            )
        return Launch()
    if found is None:
        missing = [f"--{name.removeprefix('JAX_').lower()} or {name}" for name in flags if name not in given]
        if missing:
            raise ValueError(f"{', '.join(given)}: a run of several processes needs {' and '.join(missing)}, too")
        found = Launch("flags and environment")
    found = found._replace(
        address=address, count=found.count if count is None else count, index=found.index if index is None else index
    )
    if address is not None and not re.fullmatch(r".+:\d{1,5}", address):
        raise ValueError(f"--coordinator_address or {_ADDRESS}: expected host:port, found {address!r}")
    if None not in (found.count, found.index) and found.index >= found.count:
        raise ValueError(f"number of this process: expected 0 to {found.count - 1}, found {found.index}")
    return found


def devices_of(launch: Launch, environ: Mapping[str, str], visible: int) -> list[int] | None:
    """Which of the host's `visible` GPUs this process takes, 0..visible-1; None: JAX's default, which is all it sees.

    JAX alone would give each process of Slurm and Open MPI one GPU, whatever is there. Here the processes of a host
    share all of its GPUs evenly, unless Slurm has bound each to its own.

    Raises:
      ValueError: GPUs cannot be shared out evenly.
    """
    if not visible or launch.local_count is None:
        return None
    of_host = _number(environ, "SLURM_GPUS_ON_NODE") or visible
    is_bound = visible < max(of_host, launch.local_count)
    if launch.local_count == 1 or is_bound:
        return list(range(visible))
    if visible % launch.local_count:
        raise ValueError(
            f"{launch.by}: {launch.local_count} processes on this host cannot share its {visible} GPUs evenly; start "
            f"one process on each host, which uses all of them, or a number that divides {visible}"
        )
    each = visible // launch.local_count
    return list(range(launch.local_index * each, (launch.local_index + 1) * each))


def check_devices(devices: Mapping[int, int], count: int, visible_gpus: int, platform: str) -> None:
    """Refuses a layout that leaves devices idle or cannot be balanced.

    Args:
      devices: process -> number of its devices.
      count: how many processes were started.
      visible_gpus: GPUs that this process may use.
      platform: what JAX computes on.
    Raises:
      ValueError: see above.
    """
    if visible_gpus and platform == "cpu":
        raise ValueError(
            f"this host has {visible_gpus} GPUs, but JAX uses the CPU: install jax[cuda13], or set JAX_PLATFORMS=cpu "
            "if that is meant"
        )
    if len(set(devices.values())) > 1 or len(devices) < count:
        numbers = ", ".join(f"process {index}: {devices.get(index, 0)}" for index in range(count))
        raise ValueError(f"every process needs the same number of devices, found {numbers}")


def check_agreement(values: Mapping[str, Any]) -> None:
    """Refuses processes that differ in what must be the same everywhere.

    Args:
      values: name -> what JSON knows.
    Raises:
      ValueError: a value is another in another process than in process 0.
    """
    if jax.process_count() == 1:
        return
    hashes = [zlib.crc32(json.dumps(value, sort_keys=True).encode()) for value in values.values()]
    of_all = multihost_utils.process_allgather(np.array(hashes, np.uint32))
    for name, found in zip(values, of_all.T, strict=True):
        different = [str(index) for index in np.flatnonzero(found != found[0])]
        if different:
            raise ValueError(
                f"{name}: not the same in process 0 and in {', '.join(different)}; every process needs the same "
                "flags and the same workdir, on a file system that all of them see"
            )


def told_by_first(value: bool) -> bool:
    """The `value` of process 0, in every process; all of them call this."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.int32(value)))


def wait_for_all(name: str) -> None:
    """Returns when all processes have called this with `name`, however long one of them takes.

    Unlike a sum over devices this has no time limit of its own: one process may evaluate for hours. When a process
    dies, the others do not wait for it (see `HEARTBEAT_SECONDS`).
    """
    if jax.process_count() > 1:
        _wait(name, _FOREVER_MS)


def is_lost(error: Exception) -> bool:
    """Whether `error` is what JAX raises when another process of the run has ended.

    JAX has no type for it: a sum over devices fails with a JaxRuntimeError, as a bug does, and reading its result with
    a ValueError. The message tells. Any other error is this process's own.
    """
    is_of_jax = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
    return is_of_jax and _LOST.search(str(error)) is not None and jax.distributed.is_initialized()


def finish(status: int) -> bool:
    """Ends this process's part in the run, when its message has been printed and nothing else is to be done.

    Args:
      status: with which the process is about to exit.
    Returns:
      Whether all processes have come to their end. If not, only leaving without more ado ends this one: JAX would wait
      for the others, and then abort it with another status.
    """
    if not jax.distributed.is_initialized():
        return True
    if status == ProcessLostError.exit_status:
        return False
    try:
        _wait("end", 1000 * SHUTDOWN_SECONDS)
    except jax.errors.JaxRuntimeError:
        logging.warning("the other processes have not ended within %d s; this one leaves", SHUTDOWN_SECONDS)
        return False
    jax.distributed.shutdown()
    return True


def _wait(name: str, milliseconds: int) -> None:
    from jax._src import distributed  # JAX has no public barrier without devices

    distributed.global_state.client.wait_at_barrier(name, milliseconds)


def _slurm(environ: Mapping[str, str]) -> Launch | None:
    count = _number(environ, "SLURM_NTASKS")
    if count is None or count == 1:
        return None
    needed = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if any(name not in environ for name in needed):
        if _is_told(environ):
            return None
        raise ValueError(
            f"Slurm has {count} tasks for this job, but it was not srun that started this process: "
            f"`srun python main.py ...` starts all of them; {_ALONE}"
        )
    # "2(x3),1": two tasks on each of three nodes, one on the fourth.
    text = environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    tasks = [int(number) for number, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text) for _ in range(int(times or 1))]
    node = _number(environ, "SLURM_NODEID")
    local_count = tasks[node] if node is not None and node < len(tasks) else None
    return Launch(
        "Slurm", None, count, _number(environ, "SLURM_PROCID"), local_count, _number(environ, "SLURM_LOCALID")
    )


def _open_mpi(environ: Mapping[str, str]) -> Launch | None:
    count = _number(environ, "OMPI_COMM_WORLD_SIZE")
    if count is None or count == 1:
        return None
    if "OMPI_MCA_orte_hnp_uri" not in environ and _ADDRESS not in environ:
        raise ValueError(
            "Open MPI, from version 5 on, does not say where the first process runs: expected "
            f"--coordinator_address=host:port, or {_ADDRESS} in the environment; {_ALONE}"
        )
    return Launch(
        "Open MPI",
        None,
        count,
        _number(environ, "OMPI_COMM_WORLD_RANK"),
        _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE"),
        _number(environ, "OMPI_COMM_WORLD_LOCAL_RANK"),
    )


def _kubernetes(environ: Mapping[str, str], has_tpu: bool) -> Launch | None:
    """An indexed job; on TPUs, Google's environment says more."""
    if has_tpu or "KUBERNETES_SERVICE_HOST" not in environ or "JOB_COMPLETION_INDEX" not in environ:
        return None
    if not {_ADDRESS, _COUNT} <= environ.keys():
        raise ValueError(
            f"Kubernetes started this process as one of an indexed job: expected {_ADDRESS} and {_COUNT} in its "
            f"environment (docs/multihost.md has the file); {_ALONE}"
        )
    return Launch("Kubernetes", None, None, _number(environ, "JOB_COMPLETION_INDEX"))


def _tpu(environ: Mapping[str, str], has_tpu: bool) -> Launch | None:
    if not has_tpu:
        return None
    workers = environ.get("TPU_PROCESS_ADDRESSES", environ.get("TPU_WORKER_HOSTNAMES"))
    slices = _number(environ, "MEGASCALE_NUM_SLICES") or 1
    is_alone = "TPU_SKIP_MDS_QUERY" in environ if workers is None else len(workers.split(",")) * slices == 1
    if is_alone:
        return None
    return Launch("TPU pod")  # JAX asks Google's environment or metadata server for the rest


def _is_told(environ: Mapping[str, str]) -> bool:
    """Whether flags or environment say everything that a launcher would."""
    return {_ADDRESS, _COUNT, _ID} <= environ.keys()


def _number(environ: Mapping[str, str], variable: str) -> int | None:
    text = environ.get(variable)
    if text is not None and not text.isdecimal():
        raise ValueError(f"{variable}: expected a whole number, found {text!r}")
    return None if text is None else int(text)


def _has_tpu() -> bool:
    """Whether JAX, which looks for the chips when it is imported, means to compute on a TPU."""
    return "tpu" in (jax.config.jax_platforms or "").split(",")


def _visible_gpus() -> int:
    """NVIDIA GPUs that this process may use, without starting anything on them."""
    platforms = jax.config.jax_platforms
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return 0
    devices = [path for path in pathlib.Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None or not devices:
        return len(devices)
    names = [name.strip() for name in named.split(",")]
    return len([name for name in names if name and name not in ("-1", "NoDevFiles")])

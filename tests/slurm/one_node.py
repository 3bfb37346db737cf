"""A SLURM of one node in a folder: its own key, ports and processes, which end with it."""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")
PACKAGES = ("munge", "slurm-wlm")
SBIN = "/usr/sbin"
WAIT = 60.0

CONFIG = """
ClusterName=depthprune
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,bf_interval=5,batch_sched_delay=1,sched_min_interval=100000
ReturnToService=2
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory}
PartitionName=low Nodes={host} Default=YES PriorityTier=1 MaxTime=60 OverSubscribe=NO
PartitionName=high Nodes={host} PriorityTier=10 PreemptMode=OFF MaxTime=60
"""


def missing() -> list[str]:
    """The programs of SLURM that are not on this machine."""
    return [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:{SBIN}") is None]


def install() -> str | None:
    """Debian's packages, where they are missing; why not, if that cannot be."""
    if not (lacking := missing()):
        return None
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return f"there is no {', '.join(lacking)}: to install it takes root on a Debian"
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        ended = subprocess.run(["apt-get", *command], capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            said = (ended.stderr or ended.stdout).strip().splitlines()
            return f"apt-get {command[0]} fails: {said[-1] if said else ended.returncode}"
    return f"after installing there is no {', '.join(missing())}" if missing() else None


@contextmanager
def one_node(folder: Path, cores: int, memory: int) -> Iterator[dict[str, str]]:
    """Starts it, and gives the environment in which SLURM's commands speak to it; ends it whatever happens.

    `memory` in MB; more cores than the machine has are shared.
    """
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o755)
    folder.chmod(0o755)
    key = folder / "munge/key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    config = folder / "slurm.conf"
    control, node = _free_ports(2)
    host, user = socket.gethostname().split(".")[0], getpass.getuser()
    config.write_text(
        CONFIG.format(
            folder=folder, control=control, node=node, host=host, user=user, cores=cores, memory=memory
        )
    )
    environment = {**os.environ, "SLURM_CONF": str(config), "PATH": f"{os.environ['PATH']}:{SBIN}"}
    munge = [f"--{name}-file={folder}/munge/{name}" for name in ("key", "pid", "log", "seed")]
    daemons = [
        ["munged", "--foreground", "--force", f"--socket={folder}/munge/socket", *munge],
        ["slurmctld", "-D", "-c", "-i"],
        ["slurmd", "-D", "-N", host],
    ]
    running: list[subprocess.Popen[bytes]] = []
    try:
        # They end with this process, however that ends.
        follow = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        for daemon in daemons:
            with (folder / f"{daemon[0]}.out").open("wb") as said:
                running.append(
                    subprocess.Popen(
                        [*follow, *daemon], env=environment, stdout=said, stderr=said, start_new_session=True
                    )
                )
            time.sleep(1.0)
        _wait_for_the_node(folder, environment)
        yield environment
    finally:
        _end(running, environment)


def _wait_for_the_node(folder: Path, environment: dict[str, str]) -> None:
    ends = time.monotonic() + WAIT
    while True:
        command = ["sinfo", "-h", "-p", "low", "-o", "%T"]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if said.stdout.strip() == "idle":
            return
        if time.monotonic() > ends:
            logs = "\n".join(path.read_text()[-2000:] for path in sorted(folder.glob("*.log")))
            raise RuntimeError(f"the node is {said.stdout.strip() or said.stderr.strip()}:\n{logs}")
        time.sleep(0.5)


def _end(running: list["subprocess.Popen[bytes]"], environment: dict[str, str]) -> None:
    """Jobs first, then the daemons, the last one first."""
    quiet = {"env": environment, "capture_output": True, "check": False, "timeout": 20}
    try:
        subprocess.run(["scancel", "--full", f"--user={getpass.getuser()}"], **quiet)  # type: ignore[call-overload]
        time.sleep(2.0)
    except (OSError, subprocess.TimeoutExpired):
        pass
    for process in reversed(running):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports

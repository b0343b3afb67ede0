#!/usr/bin/env bash
# A SLURM cluster of one node, this machine, for tests. Prints the lines a shell has to evaluate to use it.
# Usage: eval "$(start.sh FOLDER)"; FOLDER holds configuration, keys, state and logs.
set -euo pipefail
folder=$(realpath -m "$1")
cpus=${SLURM_TEST_CPUS:-4}
host=$(hostname -s)
read -r controller_port node_port < <(python3 - <<'PYTHON'
import socket

with socket.socket() as one, socket.socket() as other:
    for free in (one, other):
        free.bind(("127.0.0.1", 0))
    print(one.getsockname()[1], other.getsockname()[1])
PYTHON
)
mkdir -p "$folder"/{state,spool,munge}
# munge refuses a key or socket below a folder that others may write to, which a temporary folder is
chmod 755 "$folder" "$folder/munge"

dd if=/dev/urandom of="$folder/munge/key" bs=1 count=1024 2>/dev/null
chmod 400 "$folder/munge/key"
munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"

cat >"$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller_port
SlurmdPort=$node_port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
# a container has neither systemd nor a cgroup of its own
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
# the node may say it has more cores than it has
SlurmdParameters=config_overrides
KillWait=2
OverTimeLimit=0
MinJobAge=300
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=${SLURM_TEST_MEMORY:-8000} State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF

export SLURM_CONF="$folder/slurm.conf"
slurmctld >/dev/null 2>&1
slurmd >/dev/null 2>&1
for _ in $(seq 100); do
    if [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ]; then
        echo "export SLURM_CONF=$SLURM_CONF"
        exit 0
    fi
    sleep 0.2
done
echo "SLURM does not come up:" >&2
tail --lines=5 "$folder"/*.log >&2
exit 1

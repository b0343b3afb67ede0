#!/usr/bin/env bash
# Ends what start.sh began in FOLDER, and the jobs that still run there.
folder=$(realpath -m "$1")
export SLURM_CONF="$folder/slurm.conf"
scancel --me 2>/dev/null
sleep 1
for name in slurmd.pid slurmctld.pid munge/pid; do
    [ -f "$folder/$name" ] && kill "$(cat "$folder/$name")" 2>/dev/null
done
true

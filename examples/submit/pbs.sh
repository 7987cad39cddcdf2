#!/bin/sh
# PBS, Torque: 3 nodes, 2 workers on each. From the directory that holds scoop_lite.py:  qsub examples/submit/pbs.sh
#PBS -l select=3:ncpus=2:mpiprocs=2
#PBS -l walltime=00:10:00
cd "$PBS_O_WORKDIR" || exit
exec python3 scoop_lite.py -v examples/pi.py

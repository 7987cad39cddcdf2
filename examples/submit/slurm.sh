#!/bin/sh
# Slurm: 3 nodes, 2 workers on each. From the directory that holds scoop_lite.py:  sbatch examples/submit/slurm.sh
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=2
#SBATCH --time=00:10:00
exec python3 scoop_lite.py -v examples/pi.py

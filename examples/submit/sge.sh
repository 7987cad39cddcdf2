#!/bin/sh
# Grid Engine: 6 workers. From the directory that holds scoop_lite.py:  qsub examples/submit/sge.sh
# The name of the parallel environment, here "mpi", is your cluster's: see  qconf -spl
#$ -pe mpi 6
#$ -cwd
#$ -S /bin/sh
#$ -l h_rt=00:10:00
exec python3 scoop_lite.py -v examples/pi.py

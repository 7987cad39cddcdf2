#!/bin/sh
# OAR: 3 nodes, 2 workers on each. From the directory that holds scoop_lite.py:  oarsub -S ./examples/submit/oar.sh
#OAR -l /nodes=3/core=2,walltime=0:10:00
exec python3 scoop_lite.py -v examples/pi.py

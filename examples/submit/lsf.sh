#!/bin/sh
# LSF: 6 workers, 2 on each host. From the directory that holds scoop_lite.py:  bsub < examples/submit/lsf.sh
#BSUB -n 6
#BSUB -R "span[ptile=2]"
#BSUB -W 0:10
exec python3 scoop_lite.py -v examples/pi.py

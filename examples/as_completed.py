"""Take results as they become ready, not in the order of submission.

    $ python3 scoop_lite.py -n 4 examples/as_completed.py
    1 of 5: slept ... s
    2 of 5: slept ... s
    3 of 5: slept ... s
    4 of 5: slept ... s
    5 of 5: slept ... s
    1.00 s in all

With five workers or more the shortest comes first.
"""
import time

from scoop_lite import futures


def sleep(duration_s):
    """Sleep, and return for how long."""
    time.sleep(duration_s)
    return duration_s


if __name__ == "__main__":
    waiting = [futures.submit(sleep, duration_s) for duration_s in (0.4, 0.05, 0.3, 0.05, 0.2)]
    for n_done, future in enumerate(futures.as_completed(waiting), start=1):
        print(f"{n_done} of {len(waiting)}: slept {future.result():.2f} s")
    print(f"{sum(future.result() for future in waiting):.2f} s in all")

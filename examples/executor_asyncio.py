"""An asyncio program that computes on all cores, without the launcher, while its event loop goes on.

    $ python3 examples/executor_asyncio.py
    tick
    the largest prime below 1000000 is 999983
    the largest prime below 2000000 is 1999993

`scoop_lite.Executor` is a `concurrent.futures.Executor`: what takes one of those takes this.
"""
import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where scoop_lite.py is, unless it is installed
import scoop_lite  # noqa: E402


def largest_prime_below(limit):
    return next(n for n in range(limit - 1, 1, -1) if all(n % d for d in range(2, int(n**0.5) + 1)))


async def tick():
    await asyncio.sleep(0)
    print("tick")


async def main(pool):
    loop = asyncio.get_running_loop()
    limits = [1_000_000, 2_000_000]
    primes = [loop.run_in_executor(pool, largest_prime_below, limit) for limit in limits]
    await tick()
    for limit, prime in zip(limits, await asyncio.gather(*primes)):
        print(f"the largest prime below {limit} is {prime}")


if __name__ == "__main__":
    with scoop_lite.Executor(max_workers=2) as pool:  # around the loop: so an interrupt ends the tasks, too
        asyncio.run(main(pool))

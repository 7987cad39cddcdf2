"""Share a table and a function with every worker once, instead of sending them along with each task.

    $ python3 scoop_lite.py -n 4 examples/shared_constant.py
    3 apples cost 2.55
    2 pears cost 2.20
    10 plums cost 2.50
    Setting a constant twice: TypeError

A constant is seen by all tasks submitted after it was set, on workers that start later too.
"""
from scoop_lite import futures, shared


def receipt(order):
    """Return one line of text for an order of (count, fruit)."""
    count, fruit = order
    cost = shared.getConst("cost")
    return f"{count} {fruit} cost {cost(count, shared.getConst('prices')[fruit]):.2f}"


if __name__ == "__main__":
    shared.setConst(prices={"apples": 0.85, "pears": 1.10, "plums": 0.25})
    shared.setConst(cost=lambda count, price: count * price)
    for line in futures.map(receipt, [(3, "apples"), (2, "pears"), (10, "plums")]):
        print(line)
    try:
        shared.setConst(prices={})
    except TypeError as error:
        print(f"Setting a constant twice: {type(error).__name__}")

"""Greet sixteen times, each greeting a task of its own.

    $ python3 scoop_lite.py -n 4 examples/hello.py
    Hello World from task 0
    Hello World from task 1
    Hello World from task 2
    Hello World from task 3
    Hello World from task 4
    Hello World from task 5
    Hello World from task 6
    Hello World from task 7
    Hello World from task 8
    Hello World from task 9
    Hello World from task 10
    Hello World from task 11
    Hello World from task 12
    Hello World from task 13
    Hello World from task 14
    Hello World from task 15

The results come in the order of the inputs, whichever worker was first. Workers import this file too, to find
`greet`: that is what the guard in the last lines is for.
"""
from scoop_lite import futures


def greet(number):
    """Return one greeting."""
    return f"Hello World from task {number}"


if __name__ == "__main__":
    for greeting in futures.map(greet, range(16)):
        print(greeting)

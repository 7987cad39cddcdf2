"""See how exceptions travel: as themselves, to whoever asks for the result, wherever the task ran.

    $ python3 scoop_lite.py -n 4 examples/exceptions.py
    6 / 3 = 2.0
    6 / 0: ZeroDivisionError: division by zero
    6 / x: ValueError: x is not a number
    map gave [2.0, 3.0], then raised ZeroDivisionError: division by zero

One bad task spoils neither the others nor the program, unless nobody catches what it raised.
"""
from scoop_lite import futures


def divide(number, text):
    """Divide by a number given as text; the errors are the point."""
    if not text.isdigit():
        raise ValueError(f"{text} is not a number")
    return number / int(text)


def describe(error):
    """Return what the last line of a traceback would say."""
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    for text, future in [(text, futures.submit(divide, 6, text)) for text in ("3", "0", "x")]:
        error = future.exception()
        print(f"6 / {text}: {describe(error)}" if error else f"6 / {text} = {future.result()}")
    results = []
    try:
        for result in futures.map(divide, [6, 6, 6, 6], ["3", "2", "0", "1"]):
            results.append(result)
    except ZeroDivisionError as error:
        print(f"map gave {results}, then raised {describe(error)}")

"""Evolve a sentence from random letters with a small genetic algorithm; the fitness of each one is a task.

    $ python3 scoop_lite.py -n 4 examples/evolution.py
    generation  0: mrxr xofsslb xl lohwuvrjco
    generation 10: manj hacds sake lightgwork
    generation 20: manw hands make light work
    generation 30: manz hands make light work
    generation 32: many hands make light work

Only the fitness is computed by tasks: the random choices stay in the origin, so that each run is the same.
"""
import random

from scoop_lite import futures

GOAL = "many hands make light work"
LETTERS = "abcdefghijklmnopqrstuvwxyz "


def fitness(text):
    """Return how many letters are right. In real life this is the part that takes long."""
    return sum(letter == right for letter, right in zip(text, GOAL))


def breed(rng, mother, father):
    """Take each letter from either parent, and now and then a random one."""
    return "".join(rng.choice(LETTERS) if rng.random() < 0.02 else rng.choice(pair) for pair in zip(mother, father))


if __name__ == "__main__":
    rng = random.Random(1)
    population = ["".join(rng.choice(LETTERS) for _ in GOAL) for _ in range(200)]
    for generation in range(1000):
        ranked = sorted(zip(futures.map(fitness, population), population), reverse=True)
        if generation % 10 == 0 or ranked[0][1] == GOAL:
            print(f"generation {generation:2}: {ranked[0][1]}")
        if ranked[0][1] == GOAL:
            break
        parents = [text for _, text in ranked[:40]]
        population = [breed(rng, rng.choice(parents), rng.choice(parents)) for _ in range(200)]

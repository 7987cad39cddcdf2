"""OneMax with DEAP: islands evolve in parallel, and each evaluates its individuals in parallel too.

    $ python3 scoop_lite.py -n 4 examples/deap_onemax.py
    best of 4 islands: 60 ones of 60

Needs `pip install deap`. DEAP's own SCOOP programs run as they are: under the launcher `from scoop import futures`
means this module.
"""
import random

from deap import algorithms, base, creator, tools

from scoop_lite import futures

creator.create("FitnessMax", base.Fitness, weights=(1.0,))
creator.create("Individual", list, fitness=creator.FitnessMax)


toolbox = base.Toolbox()
toolbox.register("individual", tools.initRepeat, creator.Individual, lambda: random.randint(0, 1), 60)
toolbox.register("population", tools.initRepeat, list, toolbox.individual)
toolbox.register("evaluate", lambda individual: (sum(individual),))
toolbox.register("mate", tools.cxTwoPoint)
toolbox.register("mutate", tools.mutFlipBit, indpb=0.02)
toolbox.register("select", tools.selTournament, tournsize=3)
toolbox.register("map", futures.map)


def evolve(seed):
    """Evolve one island; return its best individual."""
    random.seed(seed)
    population, _ = algorithms.eaSimple(toolbox.population(n=100), toolbox, 0.5, 0.2, ngen=40, verbose=False)
    return tools.selBest(population, 1)[0]


if __name__ == "__main__":
    best = max(futures.map(evolve, range(4)), key=sum)
    print(f"best of 4 islands: {sum(best)} ones of {len(best)}")

"""Above all stages: this project and its rivals on the same data, as tables, pictures and one page.

In: a recipe, simulated or recorded data. Out: a row for every method, each made in a process of its own.
"""

from cryomend.benchmark.case import Case
from cryomend.benchmark.methods import METHODS, Method
from cryomend.benchmark.recipes import named_recipes, read_recipe
from cryomend.benchmark.run import BenchmarkOptions, run_benchmark

__all__ = [
    "METHODS",
    "BenchmarkOptions",
    "Case",
    "Method",
    "named_recipes",
    "read_recipe",
    "run_benchmark",
]

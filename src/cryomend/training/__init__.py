"""Stage 6: simulated pairs and the training loop."""

from cryomend.training.files import find_pairs
from cryomend.training.loop import Trainer
from cryomend.training.pairs import simulate_pair
from cryomend.training.run import train_from_folders, train_restorer
from cryomend.training.simulate import simulate_pairs

__all__ = [
    "Trainer",
    "find_pairs",
    "simulate_pair",
    "simulate_pairs",
    "train_from_folders",
    "train_restorer",
]

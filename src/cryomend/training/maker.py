"""What the pairs of a stream are made from: their seeds, their ingredients, and what validation keeps."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cryomend import __version__
from cryomend.config import SimulationConfig
from cryomend.io import InputError
from cryomend.specimen.macromolecule import Macromolecule
from cryomend.specimen.structure import find_structures
from cryomend.training.crops import PreparedPair, prepare_pair
from cryomend.training.learned_noise import find_noise
from cryomend.training.pairs import NoiseSampler, simulate_pair

__all__ = ["Ingredients", "PairMaker", "hold_out", "pair_seed", "split_structures"]

_BRANCHES = {"training": 0, "validation": 1}


def pair_seed(run_seed: int, counter: int, *, branch: str = "training", rank: int = 0) -> int:
    """Seed of the pair of that number in a run: never the same in training and validation.

    Parameters
    ----------
    run_seed : int
        Of the run, not negative.
    counter : int
        Number of the pair in the stream.
    branch : str
        ``training`` or ``validation``.
    rank : int
        Number of the process, where several train together.

    Returns
    -------
    int
        53 bits, so that any reader of JSON keeps them; ``cryomend simulate --seed`` makes the same pair.
    """
    return int(np.random.default_rng([run_seed, _BRANCHES[branch], rank, counter]).integers(2**53))


def split_structures(
    structures: Sequence[Macromolecule], *, share: float
) -> tuple[list[Macromolecule], list[Macromolecule]]:
    """Split structures by name into those of the training and those that only validation sees.

    A name falls on its side by a hash of what stands before the first underscore, so that parts of one
    complex (4v4r_30S, 4v4r_50S) stay together, the order of the files plays no part, and further
    structures do not move those that are there.

    Parameters
    ----------
    structures : sequence of Macromolecule
        All there are.
    share : float
        To be held out, 0 to 1; at least one name if it is above 0 and there are two, never the only one.

    Returns
    -------
    training, validation : list of Macromolecule
    """

    def place(name: str) -> float:
        family = name.split("_")[0].lower()
        return int.from_bytes(hashlib.sha256(family.encode()).digest()[:8], "big") / 2**64

    places = [place(s.name) for s in structures]
    limit = share
    if share > 0 and places:  # one on each side at least, and the only one in training
        ordered = sorted(set(places))
        limit = min(max(share, math.nextafter(ordered[0], 2)), ordered[-1])
    held = [p < limit for p in places]
    return (
        [s for s, out in zip(structures, held, strict=True) if not out],
        [s for s, out in zip(structures, held, strict=True) if out],
    )


@dataclass(frozen=True)
class PairMaker:
    """All that pairs are made from, beside their seeds; goes to the workers as it is."""

    config: SimulationConfig
    structures: tuple[Macromolecule, ...] = ()
    membrane_structures: tuple[Macromolecule, ...] = ()
    sample_noise: NoiseSampler | tuple[NoiseSampler, ...] | None = None

    def make(self, seed: int, device: torch.device | str | None = None) -> PreparedPair:
        """Simulate the pair of a seed and prepare it for the network."""
        pair = simulate_pair(
            self.config,
            seed=seed,
            structures=self.structures,
            membrane_structures=self.membrane_structures,
            sample_noise=self.sample_noise,
            device=device,
        )
        low, high = pair.record["tilt_range"]
        return prepare_pair(pair.tomogram, pair.density, tilt_range=(low, high), voxel_size=pair.voxel_size)

    def digest(self) -> str:
        """What tells pairs of equal seeds and different making apart."""
        names = [[s.name for s in group] for group in (self.structures, self.membrane_structures)]
        text = f"{__version__} {self.config.model_dump_json()} {names} {self.sample_noise!r}"
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Ingredients:
    """Files and identifiers that pairs are to be made from, as a user names them.

    ``structures`` and ``membrane_structures`` go to `find_structures`, unless they have been read; ``noise``
    (model files) and ``rescale_noise`` go to `find_noise`.
    """

    structures: Sequence[str | Path | Macromolecule] = ()
    membrane_structures: Sequence[str | Path | Macromolecule] = ()
    noise: Sequence[Path] = ()
    rescale_noise: bool = False

    def find(self, config: SimulationConfig) -> tuple[PairMaker, list[str]]:
        """Read them; also what the user should know, one line each.

        Raises
        ------
        cryomend.io.InputError
            If something is missing or of another kind.
        """
        noise, notes = find_noise(self.noise, config, rescale=self.rescale_noise)
        only = config.structures
        return PairMaker(
            config,
            _read(self.structures, only),
            _read(self.membrane_structures, only, in_membrane=True),
            noise or None,
        ), notes

    def read(self, config: SimulationConfig) -> Ingredients:
        """Read the structures now, so that `find` does not read their files again.

        Raises
        ------
        cryomend.io.InputError
            As `find_structures`.
        """
        only = config.structures
        return replace(
            self,
            structures=_read(self.structures, only),
            membrane_structures=_read(self.membrane_structures, only, in_membrane=True),
        )


def _read(
    given: Sequence[str | Path | Macromolecule], only: Sequence[str] | None, *, in_membrane: bool = False
) -> tuple[Macromolecule, ...]:
    """Structures that have been read as they are, and those of the files."""
    read = [s for s in given if isinstance(s, Macromolecule)]
    names = [s for s in given if not isinstance(s, Macromolecule)]
    return (*read, *find_structures(names, only=only, in_membrane=in_membrane))


def hold_out(maker: PairMaker, *, kinds: Sequence[str], share: float) -> tuple[PairMaker, PairMaker]:
    """Part what pairs are made from into training and validation.

    They have no given structure in common, unless ``share`` is 0: then both have all.

    Parameters
    ----------
    maker : PairMaker
        All there is.
    kinds : sequence of str
        Kinds of specimens that validation is made of and training is not; if none, both have all kinds.
    share : float
        Of the structures, held out as in `split_structures`.

    Returns
    -------
    training, validation : PairMaker

    Raises
    ------
    cryomend.io.InputError
        If there is no kind of that name, or none is left for training.
    """
    specimens = maker.config.specimens
    if unknown := sorted(set(kinds) - set(specimens)):
        raise InputError(
            f"stream.validation_kinds: no kind of specimen {', '.join(unknown)}; "
            f"the configuration has {', '.join(sorted(specimens)) or 'none'}"
        )
    if kinds and set(kinds) == set(specimens):
        raise InputError("stream.validation_kinds: names all kinds of specimens; leave some for training")
    given = (maker.structures, maker.membrane_structures)
    structures = [split_structures(s, share=share) if share > 0 else (s, s) for s in given]
    makers = []
    for part in (0, 1):
        named = {k: v for k, v in specimens.items() if not kinds or (k in kinds) == bool(part)}
        makers.append(
            replace(
                maker,
                config=maker.config.model_copy(update={"specimens": named}),
                structures=tuple(structures[0][part]),
                membrane_structures=tuple(structures[1][part]),
            )
        )
    return makers[0], makers[1]

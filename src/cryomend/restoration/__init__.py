"""Stage 7: a tomogram and a network in, the restored tomogram (Z, Y, X) out."""

from cryomend.restoration.model import load_model
from cryomend.restoration.predict import choose_device, restore_tomogram
from cryomend.restoration.standardise import robust_mean_std
from cryomend.restoration.tile import restore_tiles

__all__ = ["choose_device", "load_model", "restore_tiles", "restore_tomogram", "robust_mean_std"]

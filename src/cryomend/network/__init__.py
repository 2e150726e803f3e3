"""The restoration network and its weights on disk."""

from cryomend.network.unet import RestorationUNet

__all__ = ["RestorationUNet"]

"""Stand-ins for what is missing; what is there is never replaced."""

from .torchvision_ops import declare_torchvision_ops


def supply_missing() -> None:
    """Supply what mmsegmentation and diffusers cannot be imported without."""
    declare_torchvision_ops()


__all__ = ['declare_torchvision_ops', 'supply_missing']

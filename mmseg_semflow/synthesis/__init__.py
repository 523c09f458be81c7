"""Images for masks: how they are made, read, written and shown."""

from .synthesizer import ImageSampler, Synthesizer, image_and_labels

__all__ = ['ImageSampler', 'Synthesizer', 'image_and_labels']

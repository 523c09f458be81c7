"""What a model accepts as its checkpoint."""

from typing import Dict, List, Sequence, Union

from torch import Tensor

# What stands before the keys of a SemFlowModel in the checkpoints of all
# adapters.
PREFIX = 'semflow.'
# Names of the first version, by what stands in their place.
RENAMED = {
    'velocity_net.end_std': 'wrappers.0.end_std',
    'velocity_net.': 'network.',
    'bridge': 'process.bridge',
    'alphas': 'process.alphas',
    'prediction': 'process.prediction'
}


def rename_old_keys(state_dict: dict, prefix: str) -> None:
    """Bring the keys of the first version's checkpoints to today's names.

    Args:
        state_dict (dict): A state dict, changed in place.
        prefix (str): What stands before the keys of the model.
    """
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = key[len(prefix):]
        for old, new in RENAMED.items():
            if name == old or old.endswith('.') and name.startswith(old):
                state_dict[f'{prefix}{new}{name[len(old):]}'] = \
                    state_dict.pop(key)
                break


def weights_of(state_dict: Dict[str, Tensor],
               part: str = '') -> Dict[str, Tensor]:
    """Take the weights of the model, or of a part of it, from a checkpoint.

    Args:
        state_dict (Dict[str, Tensor]): That of an adapter, of any version.
        part (str): Name of the part, such as ``'autoencoder'``. Defaults to
            '', the whole model.

    Returns:
        Dict[str, Tensor]: By the keys that the part has itself.
    """
    renamed = dict(state_dict)
    rename_old_keys(renamed, PREFIX)
    prefix = f'{PREFIX}{part}.' if part else PREFIX
    return {
        key[len(prefix):]: value
        for key, value in renamed.items() if key.startswith(prefix)
    }


class CheckpointGuard:
    """Refuse weights of another codec, process or architecture.

    mmengine loads checkpoints with ``strict=False``, which would leave a
    network that does not fit at its random weights with a warning.

    Args:
        trained_with (Dict[str, str]): Keys that a checkpoint must have with
            the same values, and what they say in its words.
        partial (Sequence[str]): Beginnings of the keys in which a checkpoint
            may differ: where it lacks one, or has it in another shape or with
            another value of ``trained_with``, the model keeps its own.
            Defaults to none.
    """

    def __init__(self,
                 trained_with: Dict[str, str],
                 partial: Sequence[str] = ()) -> None:
        self.trained_with = trained_with
        self.partial = tuple(partial)

    def check(self, state_dict: dict, own: Dict[str, Tensor], prefix: str,
              model: str) -> None:
        """Compare a state dict with that of the model.

        Args:
            state_dict (dict): What is to be loaded, with the keys of other
                modules as well. What the model keeps is put in its place.
            own (Dict[str, Tensor]): State dict of the model, with the prefix.
            prefix (str): What stands before the keys of the model.
            model (str): Name of the model, for the error.

        Raises:
            ValueError: If they differ in more than ``partial`` says.
        """
        for name, what in self.trained_with.items():
            key = f'{prefix}{name}'
            found = state_dict.get(key)
            if not name.startswith(self.partial):
                if found is None:
                    raise ValueError(
                        f'not a checkpoint of {model}: it has no {key!r} ({what})')
                if not _equal(found, own[key]):
                    raise ValueError(
                        f'the checkpoint has a {what}: '
                        f'{_difference(found, own[key])} in the config')
            # Not rounded, as a checkpoint in bfloat16 has it.
            state_dict[key] = own[key]
        wrong = self._wrong_keys(state_dict, own, prefix)
        refused = [
            key for key in wrong if not key[len(prefix):].startswith(self.partial)
        ]
        if refused:
            key = min(refused)
            shapes = [
                tuple(d[key].shape) if key in d else 'nothing'
                for d in (state_dict, own)
            ]
            raise ValueError(
                f'the checkpoint has another architecture: {len(refused)} keys '
                f'differ, for example {key!r} is {shapes[0]} in the '
                f'checkpoint and {shapes[1]} in the config. Parts that may '
                "differ are listed in the model's partial_load")
        for key in wrong:
            state_dict.pop(key, None)
            if key in own:
                state_dict[key] = own[key]

    @staticmethod
    def _wrong_keys(state_dict: dict, own: Dict[str, Tensor],
                    prefix: str) -> List[str]:
        found = {key for key in state_dict if key.startswith(prefix)}
        return [
            key for key in own.keys() | found
            if key not in own or key not in state_dict
            or own[key].shape != state_dict[key].shape
        ]


def _equal(found: Tensor, own: Tensor) -> bool:
    """Whether two tensors are equal but for the rounding of one of them."""
    coarse = min(found.dtype, own.dtype, key=lambda dtype: dtype.itemsize)
    return found.shape == own.shape and bool(
        (found.to(own.device, coarse) == own.to(coarse)).all())


def _difference(found: Tensor, own: Tensor) -> str:
    """Tell where two tensors differ first."""
    if max(found.ndim, own.ndim) < 2:
        return ', but '.join(_texts(found, own))
    if found.shape != own.shape:
        return f'shape {tuple(found.shape)}, but {tuple(own.shape)}'
    row = int((found.to(own) != own).any(1).nonzero()[0])
    return f' of class {row}, but '.join(_texts(found[row], own[row]))


def _texts(found: Tensor, own: Tensor) -> List[str]:
    """Write two tensors, rounded unless that makes them the same."""
    texts = [str(_rounded(value)) for value in (found, own)]
    return texts if texts[0] != texts[1] else [
        str(value.tolist()) for value in (found, own)]


def _rounded(value: Tensor) -> Union[bool, float, list]:
    """Give values as they were written before they became float32."""
    if not value.is_floating_point():
        return value.tolist()
    if value.ndim:
        return [_rounded(part) for part in value]
    return float(f'{value.item():.6g}')

"""Where parts of the model are registered, and what they derive from.

mmengine's own, by which mmsegmentation and mmagic find them. Where mmengine is not
installed a trained model still runs (:mod:`mmseg_semflow.export`): there stand-ins
do the little that this takes.
"""

from importlib.util import find_spec
from typing import Any, Callable, Dict, Optional

from torch import nn

if find_spec('mmengine') is not None:
    from mmengine.model import BaseModule, ModuleList
    from mmengine.registry import FUNCTIONS, MODELS
else:

    class BaseModule(nn.Module):  # type: ignore[no-redef]
        """A module; only mmengine initialises weights by a config.

        Args:
            init_cfg (dict, optional): Not used. Defaults to None.
        """

        def __init__(self, init_cfg: Optional[dict] = None) -> None:
            super().__init__()

    class _Registry:
        """Classes by their names, as mmengine's ``Registry`` builds them."""

        def __init__(self) -> None:
            self.module_dict: Dict[str, Callable] = {}

        def register_module(self) -> Callable:
            """Register what is decorated."""

            def register(part: Callable) -> Callable:
                self.module_dict[part.__name__] = part
                return part

            return register

        def build(self, cfg: dict) -> Any:
            """Build what ``type`` names, with the rest as its arguments.

            Raises:
                KeyError: If no part has this name.
            """
            kwargs = dict(cfg)
            name = kwargs.pop('type')
            if name not in self.module_dict:
                raise KeyError(f'there is no part {name!r} without mmengine: it '
                               f'must be one of {sorted(self.module_dict)}')
            return self.module_dict[name](**kwargs)

    FUNCTIONS, MODELS = _Registry(), _Registry()
    ModuleList = nn.ModuleList

__all__ = ['FUNCTIONS', 'MODELS', 'BaseModule', 'ModuleList']

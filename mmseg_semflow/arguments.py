"""Arguments of a config that have the types of their annotations, or an error."""

import collections.abc
import inspect
from functools import wraps
from numbers import Integral, Real
from typing import Any, Callable, Type, TypeVar, Union, get_args, get_origin

Class = TypeVar('Class', bound=Type)


def checked(cls: Class) -> Class:
    """Decorate a class whose arguments come from configs.

    Rules of the class itself speak first. What then is of another type than its
    annotation, and would fail somewhere later or be taken for something else, is a
    ValueError that names class, argument, type and value; so is one that is missing
    or unknown.

    Args:
        cls (type): The class; annotations that are not of Python's own types, or of
            ``typing``, are not looked at.

    Returns:
        type: The same class.
    """
    init = cls.__init__
    signature = inspect.signature(init)

    @wraps(init)
    def checking(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            signature.bind(self, *args, **kwargs)
        except TypeError as error:  # what is missing, or unknown
            raise ValueError(f'{cls.__name__}: {error}') from error
        try:
            init(self, *args, **kwargs)
        except (ValueError, FileNotFoundError, ImportError):
            raise
        except Exception as error:
            _check(cls, signature, (self, *args), kwargs, error)
            raise
        _check(cls, signature, (self, *args), kwargs)

    cls.__init__ = checking
    return cls


def naming(what: str, build: Callable, /, **kwargs: Any) -> Any:
    """Call what other libraries build from a config; name it in their errors.

    Args:
        what (str): The key of the config that holds the arguments.
        build (Callable): What takes them.
        **kwargs: The arguments.

    Raises:
        ValueError: If it raises anything.
    """
    try:
        return build(**kwargs)
    except Exception as error:
        raise ValueError(f'{what} cannot be built of {kwargs}: '
                         f'{type(error).__name__}: {error}') from error


def fits(value: Any, annotation: Any) -> bool:
    """Tell whether a value has the type of an annotation.

    Args:
        value (Any): The value. A list passes for a tuple, an integer for a float.
        annotation (Any): A type, or one of ``typing``'s.

    Returns:
        bool: True also for annotations that are not understood.
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Union:
        return any(fits(value, part) for part in parts)
    if annotation is None or annotation is type(None):
        return value is None
    if annotation in (int, float):
        kind = Integral if annotation is int else Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if annotation in (bool, str):
        return isinstance(value, annotation)
    if annotation is dict or origin in (dict, collections.abc.Mapping):
        return isinstance(value, collections.abc.Mapping)
    if origin is tuple and Ellipsis not in parts:
        return isinstance(value, (list, tuple)) and len(value) == len(parts) and all(
            map(fits, value, parts))
    if origin in (list, tuple, collections.abc.Sequence):
        return isinstance(value, collections.abc.Sequence) and not isinstance(
            value, (str, bytes)) and all(fits(part, parts[0]) for part in value)
    return True


def both_sides(scale: Any) -> Any:
    """Give the two sides of a ``scale`` that is one number, as mmcv's Resize does."""
    return (scale, scale) if isinstance(scale, int) else scale


def _check(cls: type, signature: inspect.Signature, args: tuple, kwargs: dict,
           error: Any = None) -> None:
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        parameter = signature.parameters[name]
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if not fits(value, parameter.annotation):
            kind = parameter.annotation
            kind = str(kind).replace('typing.', '') if get_origin(kind) \
                else getattr(kind, '__name__', kind)
            raise ValueError(f'{name} of {cls.__name__} must be {kind}, but got '
                             f'{value!r}') from error

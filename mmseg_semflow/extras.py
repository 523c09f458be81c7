"""Errors that say how to have what an extra of the package brings."""


class MissingExtraError(ImportError):
    """A library of an extra that cannot be imported.

    Args:
        who (str): What needs it.
        library (str): Its name.
        extra (str): The extra that brings it.
        error (ImportError): Why it cannot be imported.
    """

    def __init__(self, who: str, library: str, extra: str,
                 error: ImportError) -> None:
        command = f"pip install 'mmseg_semflow[{extra}]'"
        if library == 'mmagic':
            # What it requires cannot be installed as it says.
            command += ' and then pip install --no-deps mmagic==1.2.0'
        super().__init__(f'{who} needs {library}, which could not be imported '
                         f'({error}): {command}')


def reason(error: BaseException) -> str:
    """Tell why a config cannot be imported, whoever caught it on the way.

    Args:
        error (BaseException): What mmengine raises.

    Returns:
        str: The message of the :class:`MissingExtraError` that led to it, or
        else its own.
    """
    cause = error
    while cause is not None and not isinstance(cause, MissingExtraError):
        cause = cause.__cause__ or cause.__context__
    return str(error if cause is None else cause)

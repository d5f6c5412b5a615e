"""What a user's bad input raises."""


class InputError(ValueError):
    """Bad input: the message names the file or key, says what is wrong with it, and what to do."""


class ArgumentError(InputError):
    """Bad input that a class or function refuses by its argument's name: the message begins with the name.

    :func:`cbseg.config.build` puts the config's path before it, so that the user reads the key that the user wrote.
    """


def check_choice(name: str, value: object, choices: list[str]) -> None:
    """Refuse an argument that is not among its choices.

    Args:
        name: The argument, or the config key if the caller knows it.
        value: What was given.
        choices: What exists.

    Raises:
        ArgumentError: If ``value`` is not one of ``choices``; the message lists them.

    >>> check_choice("compare", "probs", ["probs", "logits"])
    """
    if value not in choices:
        raise ArgumentError(f"{name}={value} does not exist; choose one of: {', '.join(choices)}")


def check_whole(name: str, value: object, least: int) -> None:
    """Refuse an argument that is no whole number of at least ``least``.

    Args:
        name: The argument, or the config key if the caller knows it.
        value: What was given.
        least: The smallest that makes sense.

    Raises:
        ArgumentError: If it is another type or smaller.

    >>> check_whole("batch_size", 8, least=1)
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ArgumentError(f"{name}={value}: give a whole number, {least} or more")

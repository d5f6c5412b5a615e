"""The one exception that a user's input can cause."""


class InputError(ValueError):
    """Bad input: the message names the file or key, says what is wrong with it, and what to do."""


def check_choice(name: str, value: object, choices: list[str]) -> None:
    """Refuse a setting that is not among its choices.

    Args:
        name: The config key, as the user writes it.
        value: What the user wrote.
        choices: What exists.

    Raises:
        InputError: If ``value`` is not one of ``choices``; the message lists them.

    >>> check_choice("loss.compare", "probs", ["probs", "logits"])
    """
    if value not in choices:
        raise InputError(f"{name}={value} does not exist; choose one of: {', '.join(choices)}")


def check_whole(name: str, value: object, least: int) -> None:
    """Refuse a setting that is no whole number of at least ``least``.

    Args:
        name: The config key, as the user writes it.
        value: What the user wrote.
        least: The smallest that makes sense.

    Raises:
        InputError: If it is another type or smaller.

    >>> check_whole("data.batch_size", 8, least=1)
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name}={value}: give a whole number, {least} or more")

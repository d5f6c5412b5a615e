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

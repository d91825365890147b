"""How much a landing or a transform may lose before it stops and asks for `--shrink`: a fifth, or five."""

ACCEPTED_LOSS = 5  # so many records or rows may go, whatever their share is; of records, if the scan listed any
ACCEPTED_SHARE = 5  # one of so many may go


def loses_too_much(lost: int, before: int) -> bool:
    """Whether more than a fifth is lost, and more than five."""
    return lost > ACCEPTED_LOSS and lost * ACCEPTED_SHARE > before

"""Statements of a process, and what is done to them.

Belongs here: what a fault is, and which faults a statement gets. Not here: how a fault strikes (`proxy`).
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["kill", "cut", "cancel"]
Moment = Literal["before", "midway", "after"]
KINDS: tuple[Kind, ...] = ("kill", "cut", "cancel")


@dataclass(frozen=True)
class Address:
    """A statement of a process: the number of its connection, and its own number within that."""

    connection: int
    statement: int


@dataclass(frozen=True)
class Fault:
    kind: Kind
    moment: Moment
    at: Address

    def __str__(self) -> str:
        return f"{self.kind} {self.moment} {self.at.connection}.{self.at.statement}"


@dataclass(frozen=True)
class Answer:
    """Where no statement is: the process is killed as it waits for the n-th HTTP answer of a run."""

    number: int
    kind: Kind = "kill"


@dataclass
class Statement:
    """A statement as it was sent.

    lasting: whether its effect can outlive its connection: it commits, or is in no transaction. blocks: whether it has
    a midway: it is a COPY, or the first of several that are sent at once.
    """

    at: Address
    text: str
    lasting: bool = True
    blocks: bool = False


def faults(statement: Statement) -> list[Fault]:
    """The faults of a statement: three, or all at each moment where its effect can outlive the connection.

    In a transaction, lost before a statement or after it is the same to the client, which fails at this statement, and
    to the server, which rolls back.
    """
    moments: list[tuple[Kind, Moment]] = [("kill", "after"), ("cut", "before"), ("cancel", "before")]
    if statement.lasting:
        moments += [("kill", "before"), ("cut", "after"), ("cancel", "after")]
    if statement.blocks:
        moments += [(kind, "midway") for kind in KINDS]
    return [Fault(kind, moment, statement.at) for kind, moment in moments]

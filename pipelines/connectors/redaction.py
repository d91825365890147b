"""Takes secrets and people out of what is recorded: tokens, passwords, e-mail addresses.

    {"apiKey": "…", "by": "ann@site.org", "next": "/list?token=…&page=2"}
      ──> {"apiKey": "REDACTED", "by": "person1@example.org", "next": "/list?page=2"}

The strings of a JSON document are replaced one by one, so that every other byte stays. Belongs here: what a secret
looks like. Not here: redacted paths of a contract.
"""

import json
import re

REDACTED = "REDACTED"
STRING = r'"(?:[^"\\]|\\.)*"'
MEMBER = re.compile(rf"({STRING})(\s*:\s*)({STRING})|{STRING}", re.DOTALL)
"""A string with a name, or by itself."""
SECRET_NAME = re.compile(
    r"(?:token|api[_-]?key|access[_-]?key|private[_-]?key|secret|passw(?:or)?d|authorization|cookie)$", re.IGNORECASE
)
PARAMETER = r"[^=&#?\s\"'<>]*(?:token|key|secret|sig|pass|login)[^=&#\s\"'<>]*=[^&#\s\"'<>]*"
SECRET_IN_URL = re.compile(
    rf"\?{PARAMETER}(?:&{PARAMETER})*(?=[#\s\"'<>]|$)|(?<=\?)(?:{PARAMETER}&)+|&{PARAMETER}|(?<=://)[^/@?#\s\"']+@",
    re.IGNORECASE,
)
"""All parameters of a URL, the first of them, others; a user."""
CREDENTIALS = re.compile(
    r"\b(?:hf|gh[a-z]|sk|pk|xox[a-z]|glpat|github_pat)[-_][\w-]{16,}|\bAKIA[0-9A-Z]{16}\b|\beyJ[\w-]+\.eyJ[\w.-]+"
    r"|(?<=\bbearer )[\w.~+/=-]+|(?<=\bbasic )[\w+/=]{8,}",
    re.IGNORECASE,
)
EMAIL = re.compile(r"(?<![\w.%+\\-])[\w.%+-]+(?:@|%40)(?:[a-z0-9-]+\.)+[a-z]{2,}\b", re.IGNORECASE)


def without_secrets_in_urls(text: str) -> str:
    """A text whose URLs name no user, and have no parameter that is named like a secret."""
    return SECRET_IN_URL.sub("", text)


class Redactor:
    """Replaces secrets. An address that occurs again gets the same placeholder again."""

    def __init__(self) -> None:
        self._people: dict[str, str] = {}

    def document(self, text: str) -> str:
        """A JSON document without secrets; of any other text, its quoted strings."""
        return MEMBER.sub(self._member, text)

    def text(self, text: str) -> str:
        """A text without secrets; it may hold JSON."""
        clean = CREDENTIALS.sub(REDACTED, without_secrets_in_urls(self.document(text)))
        return EMAIL.sub(self._person, clean)

    def _member(self, match: re.Match[str]) -> str:
        name, colon, value = match.groups()
        if name is None:
            return self._literal(match[0])
        secret = SECRET_NAME.search(name[1:-1])
        return self._literal(name) + colon + (f'"{REDACTED}"' if secret else self._literal(value))

    def _literal(self, literal: str) -> str:
        """A string in quotes; as it is where it holds nothing to replace."""
        try:
            text = json.loads(literal, strict=False)
        except ValueError:
            return literal
        clean = self.text(text)
        return literal if clean == text else json.dumps(clean, ensure_ascii=False)

    def _person(self, match: re.Match[str]) -> str:
        if match[0] in self._people.values():
            return match[0]
        return self._people.setdefault(match[0].lower(), f"person{len(self._people) + 1}@example.org")

"""Which variables of an environment are named as secrets are: the one recogniser, of host and guest.

By words, as they are really written: ``OPENAI_API_KEY``, ``OPENAIKEY``, ``myApiKey``, ``KEY_2``, ``SSHPASS``,
``MYSQL_PWD``. Not ``MONKEY``, ``KEYBOARD_LAYOUT``, ``OLDPWD``, ``MAX_TOKENS``, ``TOKENIZERS_PARALLELISM``.
"""

from __future__ import annotations

import re

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_WORD = re.compile("KEYS?|TOKEN|SECRETS?|PAT|CREDS?|CREDENTIALS?|COOKIES?|BEARER|JWT")
_WITHIN = re.compile("PASSWORD|PASSWD|PASSPHRASE|PASSCODE|(?:API|ACCESS|SECRET|PRIVATE|AUTH|SIGNING)KEY")
_END = re.compile("(?:KEY|TOKEN|SECRETS?|CREDENTIALS?|CREDS|COOKIE|JWT|PASS|PWD)$")
"""Of what is written as one word, as in ``SSHPASS`` and ``OPENAIKEY``."""
_OTHER_WORD = re.compile(
    "(?:MON|DON|TUR|WHIS|JOC|HOC|LAC|MIC|HOT|PUBLIC)KEY|(?:OLD)?PWD"
    "|(?:BY|COM|TRES|ENCOM|SUR|OVER|UNDER|LOW|HIGH|BAND|ALL|MULTI)?PASS|AUTH"
)
_LAST = ("AUTH", "PASS", "PWD")
"""These name a secret as the last word of several; ``PASS`` alone, too."""
_PHRASE = re.compile(
    "(?:^| )(?:AUTH (?:CONFIG|HEADER)|CONNECTION STRING|WEBHOOK URL|(?:API|ACCESS|AUTH|REFRESH) TOKENS)$"
)
_NO_SECRET = re.compile(
    "(?:^| )(?:(?:PUBLIC|PUBLISHABLE|SORT|FOREIGN|PARTITION|CACHE|ROUTING|HOT) KEYS?"
    "|(?:EOS|BOS|PAD|UNK|SEP|CLS|MASK|STOP) TOKEN"
    "|(?:LOW|HIGH|BAND|ALL|BY|FIRST|SECOND|MULTI|SINGLE|RENDER) PASS)(?= |$)"
)
_FACT = re.compile(
    "ALGORITHM|BUDGET|COUNT|DISABLED|ENABLED|EXPIRY|LENGTH|LIFETIME|LIMIT|METHOD|MODE|NAME|ROUNDS|SIZE|TIMEOUT|TTL"
    "|TYPE|URL"
)
"""Last words of what is said of a secret, and is none: ``TOKEN_URL``, ``KEY_SIZE``, ``SECRET_NAME``."""


def names_secret(name: str) -> bool:
    """Whether a variable of this name is taken for a secret, whatever it holds (pure)."""
    words = [word.upper() for word in _WORDS.findall(name[-256:])]
    said = " ".join(words)
    if _PHRASE.search(said):
        return True
    if not words or _FACT.fullmatch(words[-1]):
        return False
    left = _NO_SECRET.sub("", said).split()
    last = bool(left) and left[-1] in _LAST and (len(words) > 1 or left[-1] == "PASS")
    return last or any(map(_is_secret, left))


def _is_secret(word: str) -> bool:
    if _WORD.fullmatch(word) or _WITHIN.search(word):
        return True
    return bool(_END.search(word)) and not _OTHER_WORD.fullmatch(word)

"""Which variables of an environment hold secrets, by name or by value: the one recogniser, of host and guest.

By words, as they are really written: ``OPENAI_API_KEY``, ``OPENAIKEY``, ``myApiKey``, ``KEY_2``, ``SSHPASS``,
``MYSQL_PWD``, ``DATABASE_URL``. Not ``MONKEY``, ``KEYBOARD_LAYOUT``, ``OLDPWD``, ``MAX_TOKENS``,
``TOKENIZERS_PARALLELISM``.
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
    "(?:^| )(?:AUTH (?:CONFIG|HEADER)|WEBHOOK URL|(?:API|ACCESS|AUTH|REFRESH) TOKENS)$"
    "|(?:^| )(?:CONNECTION ?STRINGS?|[A-Z]*CONN ?STRS?|DSN|ALCHEMY CONN|AIRFLOW CONN)(?= |$)"
)
_STORE = re.compile(
    "(?:^| )(?:DB|JDBC|ODBC|PG|BROKER"
    "|[A-Z]*(?:DATABASES?|POSTGRES(?:QL)?|MYSQL|MARIADB|MONGO(?:DB)?|REDIS|VALKEY|AMQP|RABBITMQ|ALCHEMY))"
    "(?: [A-Z]+){0,6} ?UR[LI]S?(?= |$)"
)
"""Where a store's or a broker's address is kept, its password goes with it."""
_USERINFO = re.compile(r"://[^\s/?#@:]*:[^\s/?#]+@|(?i:https?)://[^\s/?#@]+@")
_PASSWORD = re.compile(
    "(?i)(?<![a-z])(?:password|passwd|pwd|accountkey|sharedaccess(?:key|signature))"
    r"[ \t]{0,8}=[ \t]{0,8}[^\s;&]"
)
"""Both in one pass, however long the text is."""
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


def is_secret(name: str, value: str) -> bool:
    """Whether a variable is taken for a secret: by its name, or for what `holds_password` (pure)."""
    return names_secret(name) or holds_password(value)


def holds_password(value: str) -> bool:
    """Whether `value` has a password in it where addresses have theirs, whatever it is called (pure).

    ``postgres://me:PASSWORD@host``, ``https://TOKEN@host``, ``host=db password=…``, ``…;AccountKey=…``.
    """
    return bool(_USERINFO.search(value) or _PASSWORD.search(value))


def names_secret(name: str) -> bool:
    """Whether a variable of this name is taken for a secret, whatever it holds (pure)."""
    words = [word.upper() for word in _WORDS.findall(name[-256:])]
    said = " ".join(words)
    if _PHRASE.search(said) or _STORE.search(said):
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

"""What a key is called, and what one looks like, pure: ``api_key``, ``X-API-Key``, ``hfApiTokens``."""

from __future__ import annotations

import re

_LETTERS = 256
"""Characters at the end of a name that say of what it is one."""
LONGEST_NAME = 64
"""Characters of what may name a key beside it."""
KEY_NAMES = frozenset(
    {
        "apikey",
        "accesskey",
        "accesskeyid",
        "accesstoken",
        "authtoken",
        "authorization",
        "proxyauthorization",
        "bearer",
        "clientsecret",
        "cookie",
        "credential",
        "credentials",
        "idtoken",
        "passphrase",
        "passwd",
        "password",
        "privatekey",
        "refreshtoken",
        "secret",
        "secretaccesskey",
        "secretkey",
        "sessiontoken",
        "setcookie",
        "token",
        "xapikey",
        "xgoogapikey",
    }
)
_KEY_ENDS = (
    *("apikey", "apitoken", "accesskey", "accesstoken", "authkey", "authtoken", "bearertoken", "bottoken"),
    *("clientsecret", "password", "passphrase", "privatekey", "refreshtoken", "secret", "secretkey"),
    *("servicekey", "sessiontoken", "signingkey", "subscriptionkey"),
)
_PROVIDERS = (
    *("ai21", "anthropic", "assemblyai", "aws", "azure", "bedrock", "brave", "cerebras", "claude", "cohere"),
    *("databricks", "deepgram", "deepseek", "elevenlabs", "exa", "fireworks", "gemini", "github", "google"),
    *("gpt", "groq", "hf", "huggingface", "jina", "langchain", "langsmith", "mistral", "nvidia", "openai"),
    *("openrouter", "perplexity", "pinecone", "qdrant", "sambanova", "serpapi", "serper", "stripe", "tavily"),
    *("together", "vertex", "voyage", "watsonx", "weaviate", "xai"),
)
_OF_PROVIDERS = tuple(f"{re.sub('[^a-z]', '', name)}key" for name in _PROVIDERS)
"""Ends of names, as in ``OPENAI_KEY`` and ``groqkey``: most others (``sort_key``) are no secrets'."""
_FOR_PROVIDERS = frozenset(
    f"{what}{re.sub('[^a-z]', '', name)}" for what in ("apikey", "key") for name in _PROVIDERS
)
_EXACT, _ENDS = KEY_NAMES | _FOR_PROVIDERS, (*_KEY_ENDS, *_OF_PROVIDERS)
_MAYBE = frozenset({"auth", "jwt", "pass", "pat"})
_MAYBE_ENDS = ("token", "passwd", "pwd", "passcode", "accesskeyid")
_SOME_ENDS = ("key", "keys", "sig", "signature")
WORDS = frozenset(
    ["token", "tokens", "secret", "secrets", "credential", "credentials", "cookie", "cookies", "bearer"]
)
"""Names of keys that are words as well: in a text, what stands there has to look like one."""
NO_LETTERS = re.compile(r"[^a-z]+")
SAYS = re.compile("key|token|secret|pass|pwd|cred|cookie|bearer|auth|jwt|pat|sig")
"""What the letters of a name, in lower case, do not hold where no name of keys is it: found by one look."""


def looks_secret(value: str, least: int) -> bool:
    """Whether it could be a key, where its name alone doesn't say: no word and no text."""
    word = value.isalpha() and (value.islower() or value.isupper() or value.istitle())
    plain = re.search(r"[\s<>|]", value) is None and re.search(r"[A-Za-z]", value) is not None
    return len(value) >= least and plain and not word


def looks_random(value: str) -> bool:
    """Whether it looks like a key under a name that says little: 16 characters, digits among letters."""
    return looks_secret(value, 16) and re.search(r"[0-9]", value) is not None


def is_key_name(name: str) -> bool:
    """Whether a value under `name` is masked whatever it is: ``api_key``, ``X-API-Key``, ``hfApiTokens``."""
    return _names_key(_letters(name))


def _letters(name: str) -> str:
    return NO_LETTERS.sub("", name[-_LETTERS:].lower())


def _names_key(plain: str) -> bool:
    """Of a name's letters alone."""
    if plain in _EXACT or plain.endswith(_ENDS):
        return True
    one = plain[:-1]
    return plain.endswith("s") and plain != "tokens" and (one in _EXACT or one.endswith(_ENDS))


def _may_name_key(plain: str) -> bool:
    return plain.endswith(_MAYBE_ENDS) or plain in _MAYBE


def is_token_name(name: str) -> bool:
    """Whether `name` may be a key's (``hf_token``, ``slackBotToken``) or ordinary (``eos_token``)."""
    return _may_name_key(_letters(name))


def is_some_key_name(name: str) -> bool:
    """Whether what stands under `name` may be a secret, where it looks like one: also ``sort_key``."""
    plain = _letters(name)
    return plain.endswith(_SOME_ENDS) or _names_key(plain) or _may_name_key(plain)

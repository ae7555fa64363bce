"""Secrets by their shape, and by the name that they stand behind.

Precision comes first, because a masked word of a shell or a query teaches nothing. A key has a shape that its issuer
gave it, or at least 16 characters with letters and digits behind a name such as `API_KEY=`. A password has at least
6 characters with a letter and a digit or sign behind `password:` or `--password=`; placeholders, variables, paths,
function calls and names of hashes are none.
"""

import re

SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_[A-Za-z0-9_]{40,}\b|\bglpat-[A-Za-z0-9_-]{20,}"
    r"|\bsk-(?:[a-z]+-)*[A-Za-z0-9_-]{20,}|\bhf_[A-Za-z0-9]{30,}\b|\bAIza[0-9A-Za-z_-]{35}\b"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\b[rs]k_live_[A-Za-z0-9]{16,}\b"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
    r"|(?<=://)[^\s/:@]{1,64}:[^\s/:@]{1,128}(?=@)",
    re.DOTALL,
)
"""Keys and tokens of well-known shapes, private key blocks, and user and password in a URL."""

_OPENS = r"[\"']?\s{0,3}(?:=>|[:=])\s{0,3}[\"']?"
_PREFIX = r"(?<![a-z])(?:[a-z0-9]+[_-]){0,4}"
_PASSWORD = r"(?:password|passphrase|passwd(?=\s*=))"
_OWNER = r"(?:api|secret|access|auth|private|encryption|signing|client|account)"
_KEY = rf"(?:{_OWNER}[_ -]?(?:access[_ -]?)?(?:key|token|secret)|apikey|secret|token)"
_WORD = r"[^\s\"'`<>(){}\[\],;|&\\]"
NAMED = re.compile(
    rf"(?i:{_PREFIX}{_PASSWORD}{_OPENS})(?P<password>(?![$:=/.~*%]){_WORD}{{6,64}})(?![(\[])"
    rf"|(?i:{_PREFIX}{_KEY}{_OPENS})(?P<key>[A-Za-z0-9+][A-Za-z0-9+/_-]{{15,511}}={{0,2}})(?![\w(.])"
    r"|\b[Bb]earer\s{1,3}(?P<bearer>[A-Za-z0-9._~+/-]{16,2048}={0,2})"
    r"|\b(?i:authorization[\"']?\s*[:=]\s*[\"']?basic)\s{1,3}(?P<basic>[A-Za-z0-9+/]{8,512}={0,2})"
    rf"|\bmysql\w*\s(?:[^\n|;&]{{0,120}}?\s)?-p(?P<given>(?![$=-]){_WORD}{{5,64}})"
)
"""What stands behind a secret's name; one group, which is the secret."""
_HASH = re.compile(r"(?i:sha-?\d{1,3}|md[245]|bcrypt|scrypt|argon2\w*|pbkdf2\w*|utf-?8|base64|password\d?)[\W_]*$")
_CODE = re.compile(r"^[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+$")
"""A name in a program, such as `settings.db1.password`."""


_WORDS = ("passw", "passphrase", "secret", "token", "key", "bearer", "basic", "mysql")


def names_any(text: str) -> bool:
    """Say whether a text has a word that `NAMED` begins with: much cheaper than looking for it."""
    small = text.lower()
    return any(word in small for word in _WORDS)


def named_secret(match: re.Match[str]) -> bool:
    """Say whether what stands behind a secret's name looks like one."""
    kind, value = match.lastgroup or "", match[match.lastgroup or 0]
    letter, digit = any(map(str.isalpha, value)), any(map(str.isdigit, value))
    if kind == "basic":
        return letter
    if kind in ("password", "given"):
        sign = any(c in "!@#$%^&*+?" for c in value.rstrip(".!?"))
        return letter and (digit or sign) and not _HASH.match(value) and not _CODE.match(value)
    return letter and digit and not _CODE.match(value)

"""The session cookies of Flask, Pyramid, Beaker and Django, for the option ``moving_in``. See docs/moving.md.

    from wsgi_rollsession.migration import FlaskCookie

    application = RollSession(
        application, …, identity_key="user_id",
        moving_in=[FlaskCookie("the old SECRET_KEY", switched_by="2026-12-02")],
    )

Each is verified by the library that has signed it, which has to be installed, and before anything else is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

from .errors import ConfigurationError
from .moving import OldSession, Refused
from .settings import Duration, seconds

__all__ = ["BeakerCookie", "DjangoCookie", "FlaskCookie", "PyramidCookie"]

Convert = Callable[[dict[str, Any]], dict[str, Any]]
Keys = str | Sequence[str]


class _OldCookie:
    """What is common to all of them.

    Args:
        switched_by: when the switch will be over: a date, a time (ISO 8601, in UTC unless it says otherwise), or an
            aware ``datetime``. A revocation store that begins later has lost its data, and with it the knowledge which
            old cookies have been used: they are refused then.
        lifetime: for how long after its issue a cookie is accepted, as the old system did: seconds, or text such as
            ``"14d"``.
        cookie_name: and ``path`` and ``domain``: as the old system had them.
        convert: receives the data of an old session, and returns what is to be stored here, such as the user's id under
            this application's ``identity_key``. Whatever it raises refuses the cookie; the log names the exception
            without its message, which may quote the data.
    """

    def __init__(
        self,
        switched_by: str | datetime,
        lifetime: Duration,
        cookie_name: str,
        path: str,
        domain: str | None,
        convert: Convert | None,
    ) -> None:
        lifetime_s = seconds("lifetime", lifetime, smallest=1)
        if lifetime_s is None:
            raise ConfigurationError("lifetime: requires a duration, for old cookies must not live for ever")
        self.lifetime_s = lifetime_s
        self.switched_by = _moment("switched_by", switched_by)
        self.cookie_name = cookie_name
        self.path = path
        self.domain = domain
        self._convert = convert

    def _session(self, name: str, data: Any, created: float, issued: float, lifetime_s: float) -> OldSession:
        if not isinstance(data, dict):
            raise Refused("it holds no mapping")
        if self._convert is not None:
            try:
                data = self._convert(data)
            except Exception as error:
                raise Refused(f"convert: {type(error).__name__}") from error
            if not isinstance(data, dict):
                raise Refused(f"convert: requires a dict, received {type(data).__name__}")
        return OldSession(f"{type(self).__name__} {name}", data, created, issued, issued + lifetime_s)


class FlaskCookie(_OldCookie):
    """Flask's own. Values of Flask's tagged types stay as they are tagged, which ``wsgi_rollsession.flask`` reads.

    Args:
        secret_key: Flask's ``SECRET_KEY``, or a list of it and ``SECRET_KEY_FALLBACKS``.
        lifetime: Flask's ``PERMANENT_SESSION_LIFETIME``.
    """

    def __init__(
        self,
        secret_key: Keys,
        *,
        switched_by: str | datetime,
        lifetime: Duration = "31d",
        cookie_name: str = "session",
        path: str = "/",
        domain: str | None = None,
        convert: Convert | None = None,
    ) -> None:
        from hashlib import sha1

        from itsdangerous import URLSafeTimedSerializer

        super().__init__(switched_by, lifetime, cookie_name, path, domain, convert)
        keys = _secrets("secret_key", secret_key)[::-1]  # the newest comes last there
        self._serializer = URLSafeTimedSerializer(
            keys,
            salt="cookie-session",
            serializer=json,
            signer_kwargs={"key_derivation": "hmac", "digest_method": sha1},
        )

    def read(self, value: str) -> OldSession:
        """See ``moving.OldCookies``."""
        from itsdangerous import BadData

        try:
            data, at = self._serializer.loads(value, return_timestamp=True)
        except BadData as error:
            raise Refused(type(error).__name__) from None
        issued = at.timestamp()
        # Without the signature, which can be spelled in several ways.
        return self._session(value.rpartition(".")[0], data, issued, issued, self.lifetime_s)


class PyramidCookie(_OldCookie):
    """That of Pyramid's ``SignedCookieSessionFactory``, whose values are JSON: Pyramid's default since 2.0.

    Args:
        secret: as it was, and ``hashalg`` and ``salt``.
        identity_key: where that application keeps who is logged in: ``auth.userid`` is Pyramid's own. With the time of
            its creation, it names a session.
        lifetime: the factory's ``timeout``.
    """

    def __init__(
        self,
        secret: str,
        *,
        switched_by: str | datetime,
        lifetime: Duration = 1200,
        cookie_name: str = "session",
        path: str = "/",
        domain: str | None = None,
        hashalg: str = "sha512",
        salt: str = "pyramid.session.",
        identity_key: str = "auth.userid",
        convert: Convert | None = None,
    ) -> None:
        from webob.cookies import JSONSerializer, SignedSerializer

        super().__init__(switched_by, lifetime, cookie_name, path, domain, convert)
        self._identity_key = identity_key
        (secret,) = _secrets("secret", secret)
        self._serializer: Any = SignedSerializer(secret, salt, hashalg, serializer=JSONSerializer())

    def read(self, value: str) -> OldSession:
        """See ``moving.OldCookies``."""
        try:
            issued, created, data = self._serializer.loads(value.encode("ascii"))
            issued, created = float(issued), float(created)
        except TypeError:
            raise Refused("it holds something else than a session") from None
        user = data.get(self._identity_key) if isinstance(data, dict) else None
        # Every response brings another cookie of the same session: all of them count as one.
        return self._session(f"{created!r} {user!r}", data, created, issued, self.lifetime_s)


class BeakerCookie(_OldCookie):
    """That of Beaker's ``session.type = cookie``, with ``session.data_serializer = json``.

    Beaker's default is pickle, which runs what a cookie says: such cookies are refused, and their users log in again.

    Args:
        validate_key: as it was, and ``encrypt_key``, ``crypto_type`` and ``encrypt_nonce_bits``.
        lifetime: Beaker's ``session.timeout``, or how long a cookie is to be accepted if there is none.
    """

    def __init__(
        self,
        validate_key: str,
        *,
        switched_by: str | datetime,
        lifetime: Duration,
        encrypt_key: str | None = None,
        crypto_type: str = "default",
        encrypt_nonce_bits: int = 128,
        cookie_name: str = "beaker.session.id",
        path: str = "/",
        domain: str | None = None,
        convert: Convert | None = None,
    ) -> None:
        from beaker.session import CookieSession

        super().__init__(switched_by, lifetime, cookie_name, path, domain, convert)
        (validate_key,) = _secrets("validate_key", validate_key)
        if encrypt_key is not None:
            (encrypt_key,) = _secrets("encrypt_key", encrypt_key)
        self._open: Any = CookieSession
        self._options = {
            "key": cookie_name,
            "validate_key": validate_key,
            "encrypt_key": encrypt_key,
            "encrypt_nonce_bits": encrypt_nonce_bits,
            "crypto_type": crypto_type,
            "data_serializer": "json",
        }

    def read(self, value: str) -> OldSession:
        """See ``moving.OldCookies``."""
        try:
            opened = self._open({"cookie": f"{self.cookie_name}={value}"}, **self._options)
        except Exception as error:  # what Beaker, its cryptography and JSON raise
            raise Refused(type(error).__name__) from None
        data = getattr(opened, "accessed_dict", {})  # it has none if it has found no cookie
        name, issued, created = (data.get(key) for key in ("_id", "_accessed_time", "_creation_time"))
        if not isinstance(name, str) or not isinstance(issued, float) or not isinstance(created, float):
            raise Refused("it does not say which session it is, or of when")
        own = {"_id", "_accessed_time", "_creation_time", "_domain", "_path", "_expires"}
        data = {key: value for key, value in data.items() if key not in own}
        return self._session(name, data, created, issued, self.lifetime_s)


class DjangoCookie(_OldCookie):
    """That of ``django.contrib.sessions.backends.signed_cookies``, with Django's ``JSONSerializer``, its default.

    Args:
        secret_key: Django's ``SECRET_KEY``, or a list of it and ``SECRET_KEY_FALLBACKS``.
        lifetime: Django's ``SESSION_COOKIE_AGE``. What ``set_expiry()`` has shortened, stays so.
    """

    def __init__(
        self,
        secret_key: Keys,
        *,
        switched_by: str | datetime,
        lifetime: Duration = "14d",
        cookie_name: str = "sessionid",
        path: str = "/",
        domain: str | None = None,
        convert: Convert | None = None,
    ) -> None:
        from django.core.signing import TimestampSigner

        super().__init__(switched_by, lifetime, cookie_name, path, domain, convert)
        key, *others = _secrets("secret_key", secret_key)
        fallbacks: list[str | bytes] = [*others]
        self._signer = TimestampSigner(
            key=key, fallback_keys=fallbacks, salt="django.contrib.sessions.backends.signed_cookies"
        )

    def read(self, value: str) -> OldSession:
        """See ``moving.OldCookies``."""
        from django.core.signing import BadSignature, JSONSerializer, b62_decode

        try:
            data = self._signer.unsign_object(value, serializer=JSONSerializer)
        except BadSignature as error:
            raise Refused(type(error).__name__) from None
        signed = value.rpartition(":")[0]  # without the signature, which can be spelled in several ways
        issued = float(b62_decode(signed.rpartition(":")[2]))
        expiry = data.get("_session_expiry") if isinstance(data, dict) else None
        lifetime_s = float(self.lifetime_s)
        if isinstance(expiry, (int, float)) and expiry > 0:  # 0: until the browser is closed
            lifetime_s = min(lifetime_s, expiry)
        elif isinstance(expiry, str):
            lifetime_s = min(lifetime_s, _moment("_session_expiry", expiry) - issued)
        return self._session(signed, data, issued, issued, lifetime_s)


def _secrets(option: str, value: Any) -> list[Any]:
    """The secrets of an old system, newest first. With an empty one, everybody could sign a cookie that moves in."""
    secrets = [value] if isinstance(value, (str, bytes)) else [*value] if isinstance(value, Sequence) else []
    if not secrets or not all(isinstance(secret, (str, bytes)) and secret.strip() for secret in secrets):
        received = "an empty one" if secrets else f"{type(value).__name__}, and none in it"
        raise ConfigurationError(f"{option}: requires the secret of the old system, not empty, received {received}")
    return secrets


def _moment(option: str, value: str | datetime) -> float:
    """Unix seconds."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value.replace("Z", "+00:00"))
    except (ValueError, AttributeError):
        raise ConfigurationError(
            f'{option}: requires a date such as "2026-12-02", a time such as "2026-12-02T14:00Z" or an aware datetime,'
            f" received {value!r}"
        ) from None
    return moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp()

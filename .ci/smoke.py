"""Use an installed package as a stranger would: log in and out over WSGI, and make a key. Run by .ci/run."""

import subprocess
import sys
import tempfile

from webob import Request, Response
from webob.dec import wsgify

import wsgi_rollsession
from wsgi_rollsession import RollSession, generate_key

assert "site-packages" in wsgi_rollsession.__file__, wsgi_rollsession.__file__


@wsgify
def application(request):
    session = request.environ["wsgi_rollsession.session"]
    if request.path_info == "/login":
        session.regenerate(tags=["user:alice"])
        session["user"] = "alice"
    if request.path_info == "/logout":
        session.invalidate()
    return Response(text=session.get("user", "nobody"))


with tempfile.TemporaryDirectory() as folder:
    wrapped = RollSession(application, keys=generate_key(), revocations=f"sqlite:///{folder}/revocations.db")

    def get(path, cookie=""):
        return Request.blank(path, base_url="https://localhost", headers={"Cookie": cookie}).get_response(wrapped)

    login = get("/login")
    cookie = "; ".join(line.partition(";")[0] for line in login.headers.getall("Set-Cookie"))
    assert login.text == "alice"
    assert "__Host-session" in cookie, cookie
    assert get("/", cookie).text == "alice"
    assert get("/logout", cookie).text == "nobody"
    assert get("/", cookie).text == "nobody", "a copied cookie outlived the logout"
    assert get("/").text == "nobody"

rollsession = sys.argv[1]
key = subprocess.run([rollsession, "keygen"], check=True, capture_output=True, text=True).stdout.strip()
RollSession(application, keys=key, revocations="memory://")
print("smoke test: ok")

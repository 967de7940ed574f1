"""The demo's page in a real Chromium: a person clicks through the race."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from wsgi_rollsession.demo import server


@pytest.fixture(scope="module")
def address():
    """The demo, served by gunicorn."""
    with server.running(None, insecure_http=False) as port:
        yield f"http://localhost:{port}/"


class Page:
    """What a person sees and does."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get(address)

    def step(self):
        """Click the button for the next step, and wait for what it shows: the text of that step."""
        shown = len(self.steps())
        self.browser.find_element(By.ID, "next").click()
        WebDriverWait(self.browser, 30).until(lambda _: len(self.steps()) > shown and self.is_ready())
        return self.steps()[-1].text

    def is_ready(self):
        return self.browser.find_element(By.ID, "over").is_enabled()

    def steps(self):
        return self.browser.find_elements(By.CSS_SELECTOR, "#steps > li")

    def who(self):
        """Who is logged in, by both kinds of session."""
        return [self.browser.find_element(By.ID, f"who-{kind}").text for kind in ("rollsession", "plain")]

    def verdict(self):
        return self.browser.find_element(By.ID, "verdict")

    def cookies(self):
        """The names that the browser itself says it holds, HttpOnly ones included."""
        return sorted(each["name"] for each in self.browser.get_cookies())


ALICE, NOBODY = "alice is logged in", "nobody is logged in"


@pytest.mark.parametrize("slow", ["application", "network"])
def test_a_person_clicks_through_the_race(chromium, address, slow):
    """Chromium keeps the __Host- cookies; at the end this project is logged out, and the plain cookie is back."""
    page = Page(chromium, address)
    Select(chromium.find_element(By.ID, "slow")).select_by_value(slow)

    login = page.step()
    plain, session, slot = "__Host-plain", "__Host-session-1", "__Host-session-slot"
    assert page.cookies() == [plain, session, slot]
    assert all(name in login for name in page.cookies())
    assert page.who() == [ALICE, ALICE]

    assert "in flight" in page.step()
    page.step()
    assert page.who() == [NOBODY, NOBODY]
    assert page.cookies() == [slot], "which pair of names is next"

    late = page.step()
    assert "back after the logout" in late
    late_cookies = [plain, slot] if slow == "application" else [plain, session, slot]
    assert page.cookies() == late_cookies

    page.step()
    assert page.who() == [NOBODY, ALICE]
    assert page.cookies() == late_cookies, "a read deletes nothing"
    assert "wsgi_rollsession stayed logged out" in page.verdict().text
    assert page.verdict().get_attribute("data-held") == "true"
    assert page.verdict().get_attribute("data-plain-came-back") == "true"
    assert [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_race_can_be_started_over(chromium, address):
    """Start over, also with a request in flight, leaves nobody logged in and the first step ready."""
    page = Page(chromium, address)
    page.step()
    page.step()
    chromium.find_element(By.ID, "over").click()
    WebDriverWait(chromium, 30).until(lambda _: not page.steps())
    assert page.verdict().text == ""
    page.step()
    assert page.who() == [ALICE, ALICE]

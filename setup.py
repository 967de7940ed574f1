"""The package's metadata. Tool configuration is in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

README = Path(__file__).with_name("README.md")

PASTE = ["PasteDeploy>=3.0.1"]
DEMO = ["gunicorn>=21.2"]
DJANGO = ["Django>=5.2"]
FLASK = ["Flask>=3.0"]
PYRAMID = ["pyramid>=2.0.2"]

setup(
    name="wsgi_rollsession",
    version="0.1.0",
    description="Sessions that stay logged out: WSGI middleware for rolling, cookie-only sessions",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    packages=find_packages(include=["wsgi_rollsession", "wsgi_rollsession.*"]),
    package_data={"wsgi_rollsession": ["py.typed"], "wsgi_rollsession.demo": ["*.html"]},
    python_requires=">=3.10",
    # The lower bounds are the oldest releases that the suite is run with: requirements/lowest.txt.
    install_requires=["cryptography>=41.0", "redis>=6.0", "WebOb>=1.8.9"],
    extras_require={
        "demo": DEMO,
        "django": DJANGO,
        "flask": FLASK,
        "hiredis": ["hiredis>=3.0"],
        "paste": PASTE,
        "pyramid": PYRAMID,
        "test": [
            *DEMO,
            *DJANGO,
            *FLASK,
            *PASTE,
            *PYRAMID,
            "Beaker>=1.13",
            "bottle>=0.13",
            "CherryPy>=18.10",
            "falcon>=4.0",
            "Flask-Login>=0.6.3",
            "Flask-WTF>=1.2",
            "gevent>=23.9",
            "hiredis>=3.0",
            "hypothesis>=6.98",
            "pyramid-retry>=2.1.1",
            "pytest>=8",
            "pytest-cov>=5",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.8",
            "selenium>=4.20",
            "waitress>=3.0",
            "WebTest>=3.0.1",
            "Werkzeug>=3.0",
        ],
    },
    entry_points={
        "console_scripts": ["rollsession = wsgi_rollsession.cli:main"],
        # PasteDeploy looks for a filter's name in filter_factory first, then in filter_app_factory.
        "paste.filter_factory": [
            "main = wsgi_rollsession.paste:filter_factory",
            "filter = wsgi_rollsession.paste:filter_factory",
        ],
        "paste.filter_app_factory": [
            "main = wsgi_rollsession.paste:filter_app_factory",
            "filter_app = wsgi_rollsession.paste:filter_app_factory",
        ],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Web Environment",
        "Intended Audience :: Developers",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Internet :: WWW/HTTP :: Session",
        "Topic :: Internet :: WWW/HTTP :: WSGI :: Middleware",
        "Topic :: Security",
        "Typing :: Typed",
    ],
)

"""Images come from one place, and a user of Keystone is whole."""

from pathlib import Path

import pytest

from ccfd import settings
from ccfd.errors import Refused
from ccfd.vt.glance_images import GlanceImages
from ccfd.vt.image_source import DirectoryImages, NoImages
from ccfd.vt.image_stores import image_store

GLANCE = '[images]\nglance_url = "http://127.0.0.1:9292/v2/"\n'
KEYSTONE = '[keystone]\nurl = "http://127.0.0.1:5000"\nusername = "u"\nproject = "p"\n'


def load(tmp_path: Path, text: str, **environment: str) -> settings.Settings:
    path = tmp_path / "ccfd.toml"
    path.write_text(text)
    return settings.load(path, environment)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", NoImages),
        ('[images]\ndirectory = "/images"\n', DirectoryImages),
        (GLANCE, GlanceImages),
        (GLANCE + 'token = "t"\n', GlanceImages),
        (GLANCE + KEYSTONE + 'password = "p"\n', GlanceImages),
    ],
)
def test_the_settings_name_a_store(tmp_path: Path, text: str, kind: type) -> None:
    assert isinstance(image_store(load(tmp_path, text)), kind)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (GLANCE + 'directory = "/images"\n', "glance_url or directory"),
        ('[images]\nglance_url = "127.0.0.1:9292"\n', "must be a URL"),
        ('[images]\ntoken = "t"\n', "set glance_url"),
        (GLANCE + KEYSTONE, "password is missing"),
        (GLANCE + 'token = "t"\n' + KEYSTONE + 'password = "p"\n', r"images\.token or"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        load(tmp_path, text)


def test_the_password_may_be_in_a_file_or_in_the_environment(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from the file\n")
    text = GLANCE + KEYSTONE
    loaded = load(tmp_path, text + f'password_file = "{tmp_path}/secret"\n')
    assert loaded.keystone.password == "from the file"
    assert load(tmp_path, text, CCFD_KEYSTONE__PASSWORD="p").keystone.password == "p"
    assert loaded.images.glance_url == "http://127.0.0.1:9292"


def test_the_environment_takes_back_what_the_file_says(tmp_path: Path) -> None:
    there = {"CCFD_IMAGES__DIRECTORY": "", "CCFD_IMAGES__GLANCE_URL": "http://127.0.0.1:9292"}
    loaded = load(tmp_path, '[images]\ndirectory = "/images"\n', **there)
    assert isinstance(image_store(loaded), GlanceImages)

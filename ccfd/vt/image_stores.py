"""Which store of images the settings name."""

from pathlib import Path

from ccfd.settings import Settings
from ccfd.vt.glance import Glance
from ccfd.vt.glance_images import GlanceImages
from ccfd.vt.image_cache import ImageCache
from ccfd.vt.image_source import DirectoryImages, ImageSource, NoImages
from ccfd.vt.openstack import Http
from ccfd.vt.tokens import FixedToken, KeystoneTokens, Tokens


def image_store(settings: Settings) -> ImageSource:
    """Make the store; it connects when it is first asked."""
    images, keystone = settings.images, settings.keystone
    if images.directory is not None:
        return DirectoryImages(Path(images.directory))
    if images.glance_url is None:
        return NoImages()
    tokens: Tokens = FixedToken(images.token)
    if keystone.url is not None:
        tokens = KeystoneTokens(keystone, Http("Keystone"))
    glance = Glance(images.glance_url, tokens, Http("Glance"))
    return GlanceImages(glance, ImageCache(Path(images.cache)))
